//! Runs a test on every software driver that is installed, each in a process of its own: the Vulkan loader chooses
//! drivers when it is first asked.
//!
//! A driver that is not installed is skipped in words; with `NEUROSHARD_REQUIRE_DRIVERS` set it is a failure.
#![allow(dead_code, unreachable_pub, reason = "each test binary is a crate that uses its part")]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use neuroshard_proto::ops::{Call, Dim, Op, Slot};
use neuroshard_proto::{DType, F32, Hash, ModelSpec, Schedule, Stream};
use neuroshard_shaders::engine::{Engine, Part};
use neuroshard_shaders::gpu::{self, Adapter, GpuEngine, Options};
use neuroshard_shaders::layout::LayerLayout;
use neuroshard_shaders::values::{Shape, Value, Values};

struct Driver {
    name: &'static str,
    /// What the adapter's name or driver holds.
    mark: &'static str,
    package: &'static str,
    manifests: &'static [&'static str],
}

const DRIVERS: [Driver; 2] = [
    Driver {
        name: "lavapipe",
        mark: "llvmpipe",
        package: "mesa-vulkan-drivers",
        manifests: &[
            "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json",
            "/usr/share/vulkan/icd.d/lvp_icd.aarch64.json",
            "/usr/share/vulkan/icd.d/lvp_icd.json",
        ],
    },
    Driver {
        name: "SwiftShader",
        mark: "swiftshader",
        package: "chromium-common",
        manifests: &["/usr/lib/chromium/vk_swiftshader_icd.json"],
    },
];

const CHILD: &str = "NEUROSHARD_TEST_DRIVER";

/// Runs `body` once for each driver; `test` is the full name of the test that calls this.
pub fn on_every_driver(test: &str, body: impl FnOnce(&Adapter)) {
    if let Ok(name) = std::env::var(CHILD) {
        let driver = DRIVERS.iter().find(|driver| driver.name == name).expect("a driver of the list");
        let adapters = gpu::adapters();
        let own = adapters.iter().find(|adapter| {
            let description = adapter.description();
            format!("{} {}", description.name, description.driver).to_lowercase().contains(driver.mark)
        });
        return body(own.unwrap_or_else(|| panic!("{name} offers no adapter; found {adapters:?}")));
    }
    for driver in &DRIVERS {
        let Some(manifest) = driver.manifests.iter().find(|path| Path::new(path).exists()) else {
            assert!(
                std::env::var_os("NEUROSHARD_REQUIRE_DRIVERS").is_none(),
                "{} is not installed: install the package {}",
                driver.name,
                driver.package
            );
            // Straight to the terminal: what a passing test prints is not shown.
            let _ =
                writeln!(std::io::stderr(), "SKIP {test} on {}: install the package {}", driver.name, driver.package);
            continue;
        };
        let output = Command::new(std::env::current_exe().expect("the test's own path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env("VK_DRIVER_FILES", manifest)
            .env("VK_ICD_FILENAMES", manifest)
            .env(CHILD, driver.name)
            .output()
            .expect("a test that runs itself");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed") || !output.status.success(), "no test is called {test}:\n{text}");
        assert!(output.status.success(), "on {} (VK_DRIVER_FILES={manifest}):\n{text}", driver.name);
    }
}

pub fn open(adapter: &Adapter, options: Options) -> GpuEngine {
    GpuEngine::open(adapter, options).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Random operands that make sense for an operation, and some that are hard: zeros, ties, far exponents.
pub struct Draw {
    stream: Stream,
}

impl Draw {
    pub fn new(purpose: &str, index: u64) -> Self {
        Self { stream: Stream::new(&Hash::of_blob(b"gpu tests"), purpose, index) }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.stream.below(bound as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A single with a magnitude of about `2^exponent`, give or take `spread`.
    fn float(&mut self, exponent: i32, spread: u32) -> f32 {
        let bits = self.stream.next_u64();
        let shift = (bits >> 40) as u32 % (2 * spread + 1);
        let biased = (127 + exponent - spread as i32) as u32 + shift;
        let value = f32::from_bits(((bits as u32) & 0x8000_0000) | (biased << 23) | (bits as u32 & 0x7f_ffff));
        if bits >> 60 == 0 { 0.0 } else { value }
    }

    /// Singles as they may stand in a slot.
    pub fn floats(&mut self, slot: Slot, length: usize) -> Vec<f32> {
        let (_, _, dtype) = slot.shape();
        let narrow = dtype == DType::Bf16;
        (0..length)
            .map(|_| {
                let x = match slot {
                    // Scales of norms and of softmax are positive.
                    Slot::InputScale | Slot::MiddleScale => self.float(0, 2).abs(),
                    Slot::RowScale => self.float(-3, 1).abs(),
                    Slot::RowMax => self.float(0, 1),
                    _ => self.float(-1, 3),
                };
                if narrow { f32::from_bits(x.to_bits() & 0xffff_0000) } else { x }
            })
            .collect()
    }

    /// Values for everything that a call reads.
    pub fn values(&mut self, call: &Call, shape: &Shape) -> Values {
        let mut values = Values::new();
        for slot in call.reads {
            let (rows, cols, dtype) = slot.shape();
            let length = shape.dim(rows) * shape.dim(cols);
            let value = if dtype == DType::I32 {
                Value::Int((0..length).map(|_| self.below(shape.dim(Dim::Vocab)) as i32).collect())
            } else {
                Value::Float(self.floats(*slot, length))
            };
            values.insert(*slot, value);
        }
        values
    }
}

pub fn model(heads: u32, kv_heads: u32, head_width: u32, ffn: u32, vocab: u32, context: u32) -> ModelSpec {
    ModelSpec {
        layers: 2,
        hidden: heads * head_width,
        heads,
        kv_heads,
        ffn,
        context,
        vocab,
        rope_theta: 10_000,
        norm_eps_pico: 1_000_000,
    }
}

/// Fills a new state as a network's first step would.
pub fn initialise(engine: &mut dyn Engine, model: &ModelSpec) {
    engine.allocate(model, model.all_layers()).unwrap_or_else(|fault| panic!("{fault}"));
    for layer in model.all_layers().iter() {
        let layout = LayerLayout::new(model, layer);
        let mut bits = vec![0; layout.elements];
        for tensor in &layout.tensors {
            tensor.spec.fill_init(model, &Hash::default(), layer, 0, &mut bits[tensor.range.clone()]);
        }
        engine.write(Part::Weights, layer, bytemuck::cast_slice(&bits)).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

/// All weights and moments as bits.
pub fn everything(engine: &mut dyn Engine, model: &ModelSpec) -> Vec<u32> {
    let mut all = Vec::new();
    for layer in model.all_layers().iter() {
        let mut values = vec![0.0; LayerLayout::new(model, layer).elements];
        for part in Part::ALL {
            engine.read(part, layer, &mut values).unwrap_or_else(|fault| panic!("{fault}"));
            all.extend(values.iter().map(|x| x.to_bits()));
        }
    }
    all
}

pub fn bits(x: f32) -> F32 {
    F32::from_bits(x.to_bits())
}

pub fn schedule(step: i32, rate: f32) -> Schedule {
    Schedule {
        rate: bits(rate),
        beta1: bits(0.9),
        beta1_rest: bits(0.1),
        beta2: bits(0.95),
        beta2_rest: bits(0.05),
        correction1: bits(1.0 / (1.0 - 0.9_f32.powi(step))),
        correction2: bits(1.0 / (1.0 - 0.95_f32.powi(step))),
        epsilon: bits(1e-8),
        weight_decay: bits(0.1),
        clip: bits(1.0),
    }
}

/// The first place where two values differ, in words.
pub fn difference(slot: Slot, got: &Value, want: &Value) -> Option<String> {
    let bits = |value: &Value| match value {
        Value::Float(values) => values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        Value::Int(values) => values.iter().map(|x| x.cast_unsigned()).collect(),
    };
    let (got, want) = (bits(got), bits(want));
    assert_eq!(got.len(), want.len(), "{slot:?}");
    let differing = got.iter().zip(&want).filter(|(a, b)| a != b).count();
    let place = got.iter().zip(&want).position(|(a, b)| a != b)?;
    Some(format!(
        "{slot:?}[{place}] is {:#010x} and should be {:#010x}; {differing} of {} differ",
        got[place],
        want[place],
        got.len()
    ))
}

/// Every call of the table, once.
pub fn calls_of(op: Op) -> Vec<Call> {
    use neuroshard_proto::ops;

    let programs: [&[Call]; 6] = [
        &ops::EMBED,
        &ops::LAYER_FORWARD,
        &ops::HEAD_FORWARD,
        &ops::HEAD_BACKWARD,
        &ops::LAYER_BACKWARD,
        &ops::EMBED_BACKWARD,
    ];
    programs.into_iter().flatten().filter(|call| call.op == op).copied().collect()
}
