//! Every kernel, without a device: base WebGPU accepts it, every platform's language can say it, and it keeps the rules
//! of the arithmetic (ARCHITECTURE §4).
#![cfg(feature = "gpu")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Command;

use naga::back::{PipelineConstants, glsl, hlsl, msl, pipeline_constants, spv};
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, BinaryOperator, Expression, Function, Handle, Module, ScalarKind, ShaderStage, Statement, TypeInner,
};
use neuroshard_proto::ops::Op;
use neuroshard_shaders::gpu::kernels::{self, Kernel, Tile};

/// Limits of base WebGPU.
const WORKGROUP_BYTES_MAX: u32 = 16 << 10;
const THREADS_MAX: u32 = 256;
const STORAGE_BUFFERS_MAX: usize = 8;

fn parse(name: &str, text: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info = validator.validate(&module).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    (module, info)
}

/// The constants under which a kernel is compiled: every tile, with and without shielded chains.
fn variants(kernel: &Kernel) -> Vec<PipelineConstants> {
    let tiles: Vec<Option<Tile>> =
        if kernel.is_tiled() { Tile::ALL.into_iter().map(Some).collect() } else { vec![None] };
    let turns: &[Option<f64>] = if kernel.op == Op::Rope { &[Some(0.0), Some(1.0)] } else { &[None] };
    let mut all = Vec::new();
    for shield in if kernel.is_tiled() { vec![0.0, 1.0] } else { vec![0.0] } {
        for tile in &tiles {
            for inverse in turns {
                let mut constants = PipelineConstants::default();
                if let Some(tile) = tile {
                    constants.insert("SHIELD_CHAINS".into(), shield);
                    constants.insert("THREADS_M".into(), tile.threads_m.into());
                    constants.insert("THREADS_N".into(), tile.threads_n.into());
                }
                if let Some(inverse) = inverse {
                    constants.insert("INVERSE".into(), *inverse);
                }
                all.push(constants);
            }
        }
    }
    all
}

/// A kernel with its constants settled.
struct Resolved {
    module: Module,
    info: ModuleInfo,
}

fn resolve(kernel: &Kernel, parsed: &(Module, ModuleInfo), constants: &PipelineConstants) -> Resolved {
    let entry = Some((ShaderStage::Compute, kernel.entry));
    let (module, info) =
        pipeline_constants::process_overrides(&parsed.0, &parsed.1, entry, constants).expect("constants that fit");
    Resolved { module: module.into_owned(), info: info.into_owned() }
}

fn each_kernel(mut check: impl FnMut(&Kernel, &(Module, ModuleInfo))) {
    for kernel in kernels::ALL {
        check(kernel, &parse(kernel.entry, &kernel.text()));
    }
}

fn entry_function<'a>(kernel: &Kernel, module: &'a Module) -> &'a naga::EntryPoint {
    module.entry_points.iter().find(|entry| entry.name == kernel.entry).expect("the kernel's entry point")
}

#[test]
fn every_operation_has_a_kernel() {
    let mut covered: BTreeSet<Op> = kernels::ALL.iter().map(|kernel| kernel.op).collect();
    covered.insert(Op::RopeBackward);
    assert_eq!(covered, Op::ALL.into_iter().collect());
}

#[test]
fn every_kernel_fits_the_limits_of_base_webgpu() {
    each_kernel(|kernel, parsed| {
        for constants in variants(kernel) {
            let Resolved { module, info } = resolve(kernel, parsed, &constants);
            let entry = entry_function(kernel, &module);
            assert!(entry.workgroup_size.iter().product::<u32>() <= THREADS_MAX, "{}", kernel.entry);
            let used = info.get_entry_point(module.entry_points.iter().position(|e| e.name == kernel.entry).unwrap());
            let globals = || module.global_variables.iter().filter(|(handle, _)| !used[*handle].is_empty());
            let storage = globals().filter(|(_, global)| matches!(global.space, AddressSpace::Storage { .. })).count();
            assert!(storage <= STORAGE_BUFFERS_MAX, "{} binds {storage} buffers", kernel.entry);
            let workgroup = globals().filter(|(_, global)| global.space == AddressSpace::WorkGroup);
            let bytes: u32 = workgroup.map(|(_, global)| module.types[global.ty].inner.size(module.to_ctx())).sum();
            assert!(bytes <= WORKGROUP_BYTES_MAX, "{} takes {bytes} bytes of workgroup memory", kernel.entry);
        }
    });
}

#[test]
fn the_table_names_what_each_text_declares() {
    each_kernel(|kernel, (module, info)| {
        let entry = module.entry_points.iter().position(|entry| entry.name == kernel.entry).expect("an entry point");
        let used = info.get_entry_point(entry);
        let mut bindings = BTreeMap::new();
        for (handle, global) in module.global_variables.iter() {
            let Some(binding) = global.binding.as_ref().filter(|_| !used[handle].is_empty()) else { continue };
            assert_eq!(binding.group, 0);
            bindings.insert(binding.binding, global.name.clone().unwrap_or_default());
            if binding.binding == 0 {
                let TypeInner::Struct { members, .. } = &module.types[global.ty].inner else { panic!("a struct") };
                let names: Vec<&str> = members.iter().filter_map(|member| member.name.as_deref()).collect();
                assert_eq!((names[0], &names[1..]), ("zero", kernel.params), "{}", kernel.entry);
            }
        }
        let listed = [(0, "params")].into_iter().chain(kernel.bindings.iter().copied());
        let listed: BTreeMap<u32, String> = listed.map(|(number, name)| (number, name.to_owned())).collect();
        assert_eq!(bindings, listed, "{}", kernel.entry);
    });
}

#[test]
fn every_kernel_translates_to_every_platforms_language() {
    let mut modules = Vec::new();
    each_kernel(|kernel, parsed| {
        for constants in variants(kernel) {
            let resolved = resolve(kernel, parsed, &constants);
            modules.push((kernel.entry, to_spirv(kernel, &resolved)));
            to_metal(kernel, &resolved);
            to_direct3d(kernel, &resolved);
            to_opengl_es(kernel, &resolved);
        }
    });
    spirv_val(&modules);
}

fn to_spirv(kernel: &Kernel, Resolved { module, info }: &Resolved) -> Vec<u32> {
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: kernel.entry.to_owned() };
    spv::write_vec(module, info, &options, Some(&pipeline)).unwrap_or_else(|error| panic!("{}: {error}", kernel.entry))
}

fn to_metal(kernel: &Kernel, Resolved { module, info }: &Resolved) {
    let options = msl::Options { lang_version: (3, 0), ..msl::Options::default() };
    let entry_point = Some((ShaderStage::Compute, kernel.entry.to_owned()));
    let pipeline = msl::PipelineOptions { entry_point, ..msl::PipelineOptions::default() };
    let (_, translation) = msl::write_string(module, info, &options, &pipeline)
        .unwrap_or_else(|error| panic!("{}: {error}", kernel.entry));
    translation.entry_point_names.iter().for_each(|name| assert!(name.is_ok(), "{}: {name:?}", kernel.entry));
}

fn to_direct3d(kernel: &Kernel, Resolved { module, info }: &Resolved) {
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_4, ..hlsl::Options::default() };
    let entry_point = Some((ShaderStage::Compute, kernel.entry.to_owned()));
    let pipeline = hlsl::PipelineOptions { entry_point };
    let mut text = String::new();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap_or_else(|error| panic!("{}: {error}", kernel.entry));
    reflection.entry_point_names.iter().for_each(|name| assert!(name.is_ok(), "{}: {name:?}", kernel.entry));
}

fn to_opengl_es(kernel: &Kernel, Resolved { module, info }: &Resolved) {
    let options = glsl::Options::default();
    let (shader_stage, entry_point) = (ShaderStage::Compute, kernel.entry.to_owned());
    let pipeline = glsl::PipelineOptions { shader_stage, entry_point, multiview: None };
    let mut text = String::new();
    let policies = naga::proc::BoundsCheckPolicies::default();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, policies)
        .and_then(|mut writer| writer.write())
        .unwrap_or_else(|error| panic!("{}: {error}", kernel.entry));
}

/// Runs `spirv-val` over all modules where it is installed.
fn spirv_val(modules: &[(&str, Vec<u32>)]) {
    let folder = std::env::temp_dir().join(format!("neuroshard-spirv-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (index, (entry, words)) in modules.iter().enumerate() {
        let file = folder.join(format!("{index}-{entry}.spv"));
        std::fs::write(&file, bytemuck::cast_slice::<u32, u8>(words)).unwrap();
        let Ok(output) = Command::new("spirv-val").args(["--target-env", "vulkan1.1"]).arg(&file).output() else {
            assert!(std::env::var_os("NEUROSHARD_REQUIRE_DRIVERS").is_none(), "install spirv-tools");
            // Straight to the terminal: what a passing test prints is not shown.
            let _ = writeln!(std::io::stderr(), "SKIP spirv-val: install the package spirv-tools");
            break;
        };
        assert!(output.status.success(), "{entry}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A text without its comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether `text` calls the function `name`, rather than one whose name ends so.
fn calls(text: &str, name: &str) -> bool {
    let named = |at: usize| text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(&format!("{name}(")).any(|(at, _)| !named(at))
}

#[test]
fn no_source_names_a_function_that_drivers_round_their_own_way() {
    let forbidden = [
        "fma",
        "exp",
        "exp2",
        "log",
        "log2",
        "sqrt",
        "inverseSqrt",
        "pow",
        "dot",
        "mix",
        "length",
        "normalize",
        "distance",
        "tanh",
        "sin",
        "cos",
        "tan",
        "quantizeToF16",
        "pack2x16float",
        "unpack2x16float",
        "smoothstep",
    ];
    for (name, text) in kernels::ALL.iter().flat_map(|kernel| kernel.sources) {
        let code = code(text);
        for function in forbidden {
            assert!(!calls(&code, function), "{name} calls {function}");
        }
        for word in ["f16", "enable ", "requires ", "subgroup"] {
            assert!(!code.contains(word), "{name} says {word}");
        }
    }
    assert!(calls("x = exp(y)", "exp") && !calls("x = canon_exp(y)", "exp"), "the check itself");
}

/// What an expression of a function is a number of.
fn is_float(info: &FunctionInfo, module: &Module, expression: Handle<Expression>) -> bool {
    info[expression].ty.inner_with(&module.types).scalar_kind() == Some(ScalarKind::Float)
}

/// Division and library functions of floats in a function: none is rounded the same way everywhere.
fn forbidden_arithmetic(module: &Module, info: &FunctionInfo, function: &Function) -> Vec<String> {
    let floats = function.expressions.iter().filter(|(handle, _)| is_float(info, module, *handle));
    let forbidden = floats.filter_map(|(_, expression)| match expression {
        Expression::Binary { op: op @ (BinaryOperator::Divide | BinaryOperator::Modulo), .. } => {
            Some(format!("{op:?}"))
        }
        Expression::Math { fun, .. } if !matches!(fun, naga::MathFunction::Floor) => Some(format!("{fun:?}")),
        _ => None,
    });
    forbidden.map(|what| format!("{}: {what}", function.name.as_deref().unwrap_or_default())).collect()
}

/// What is wrong with any function of a module, as `rule` sees it.
fn all_broken(
    (module, info): &(Module, ModuleInfo),
    rule: impl Fn(&Module, &FunctionInfo, &Function) -> Vec<String>,
) -> Vec<String> {
    let functions = module.functions.iter().map(|(handle, function)| (&info[handle], function));
    let entries = module.entry_points.iter().enumerate();
    let entries = entries.map(|(index, entry)| (info.get_entry_point(index), &entry.function));
    functions.chain(entries).flat_map(|(info, function)| rule(module, info, function)).collect()
}

#[test]
fn no_kernel_uses_arithmetic_that_drivers_round_their_own_way() {
    each_kernel(|kernel, parsed| {
        assert_eq!(all_broken(parsed, forbidden_arithmetic), Vec::<String>::new(), "{}", kernel.entry);
    });
    let guilty = "fn f(x: f32) -> f32 { return 1.0 / x; } fn g(x: f32) -> f32 { return sqrt(x); }
        fn h(x: f32) -> f32 { return floor(x); } fn k(x: u32) -> u32 { return x / 3u; }";
    assert_eq!(
        all_broken(&parse("guilty", guilty), forbidden_arithmetic),
        ["f: Divide", "g: Sqrt"],
        "the check itself"
    );
}

/// The operands of an expression through which a float can flow.
fn operands(expression: &Expression) -> Vec<Handle<Expression>> {
    match expression {
        Expression::Binary { left, right, .. } => vec![*left, *right],
        Expression::Unary { expr, .. } | Expression::As { expr, .. } => vec![*expr],
        Expression::Select { accept, reject, .. } => vec![*accept, *reject],
        Expression::Splat { value, .. } => vec![*value],
        Expression::Compose { components, .. } => components.clone(),
        Expression::Math { arg, arg1, arg2, .. } => [Some(*arg), *arg1, *arg2].into_iter().flatten().collect(),
        _ => Vec::new(),
    }
}

/// The sums and products of a function that reach anything but a shield, or a component on its way to one. The product
/// in `mac` and `mac4` may reach its sum: its factors are bfloat16 values, so it is exact.
fn unshielded_arithmetic(module: &Module, info: &FunctionInfo, function: &Function) -> Vec<String> {
    let name = function.name.as_deref().unwrap_or_default();
    let mut bare: BTreeMap<Handle<Expression>, BinaryOperator> = BTreeMap::new();
    for (handle, expression) in function.expressions.iter().filter(|(handle, _)| is_float(info, module, *handle)) {
        match expression {
            Expression::Binary {
                op: op @ (BinaryOperator::Add | BinaryOperator::Subtract | BinaryOperator::Multiply),
                ..
            } => {
                bare.insert(handle, *op);
            }
            Expression::AccessIndex { base, .. } => {
                bare.extend(bare.get(base).copied().map(|op| (handle, op)));
            }
            _ => {}
        }
    }
    let is_mac = matches!(name, "mac" | "mac4");
    let allowed = |operand: &Handle<Expression>| is_mac && bare.get(operand) == Some(&BinaryOperator::Multiply);
    let reached = function.expressions.iter().flat_map(|(_, expression)| operands(expression));
    let mut escaped: BTreeSet<Handle<Expression>> = reached.filter(|operand| !allowed(operand)).collect();
    let mut blocks = vec![&function.body];
    while let Some(block) = blocks.pop() {
        for statement in block {
            match statement {
                Statement::Block(inner) => blocks.push(inner),
                Statement::If { accept, reject, .. } => blocks.extend([accept, reject]),
                Statement::Loop { body, continuing, .. } => blocks.extend([body, continuing]),
                Statement::Store { value, .. } | Statement::Return { value: Some(value) } => {
                    escaped.insert(*value);
                }
                Statement::Call { function, arguments, .. } => {
                    let callee = module.functions[*function].name.as_deref().unwrap_or_default();
                    if !matches!(callee, "q" | "q4" | "chained4" | "z") {
                        escaped.extend(arguments);
                    }
                }
                _ => {}
            }
        }
    }
    bare.iter().filter(|(handle, _)| escaped.contains(handle)).map(|(_, op)| format!("{name}: {op:?}")).collect()
}

#[test]
fn every_sum_and_product_is_shielded_from_the_arithmetic_it_feeds() {
    each_kernel(|kernel, parsed| {
        assert_eq!(all_broken(parsed, unshielded_arithmetic), Vec::<String>::new(), "{}", kernel.entry);
    });
    let guilty = "fn q(x: f32) -> f32 { return x; } fn ok(x: f32) -> f32 { return q(x + q(x * x)); }
        fn sum_of_sum(x: f32) -> f32 { return q((x + 1.0) + x); } fn argument(x: f32) -> f32 { return ok(x - 1.0); }
        fn part(x: vec4<f32>) -> f32 { let y = x + x; return y.x; } fn fused(x: f32) -> f32 { return q(x + x * x); }
        fn mac(s: f32, a: f32) -> f32 { return q(s + a * a); }";
    let found = all_broken(&parse("guilty", guilty), unshielded_arithmetic);
    assert_eq!(found, ["sum_of_sum: Add", "argument: Subtract", "part: Add", "fused: Multiply"], "the check itself");
}

/// The numbers that each function and constant of a Rust or WGSL text names, as bits, sorted: a loop spells its bounds
/// in another order in each language.
fn numbers_by_name(text: &str) -> BTreeMap<String, Vec<u64>> {
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut name = String::new();
    let text = code(text).replace("std::f32::consts::LOG2_E", "1.4426950408889634").replace("..", " ");
    for line in text.lines() {
        let defined = line.split_once("fn ").or(line.split_once("const ")).map(|(_, rest)| rest);
        if let Some(rest) = defined {
            let word = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
            name = word.trim_start_matches("canon_").to_owned();
        }
        // The sign of an exponent belongs to its number.
        let line = line.replace("e-", "e~");
        for word in line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '~'))) {
            if word.starts_with(|c: char| c.is_ascii_digit()) {
                numbers.entry(name.clone()).or_default().push(number_bits(word));
            }
        }
    }
    numbers.values_mut().for_each(|list| list.sort_unstable());
    numbers
}

/// The bits of a literal of either language; a method called on it is left out.
fn number_bits(word: &str) -> u64 {
    let method = word.match_indices('.').find(|(at, _)| word[at + 1..].starts_with(|c: char| c.is_alphabetic()));
    let literal = word[..method.map_or(word.len(), |(at, _)| at)].replace('_', "").replace('~', "-");
    let plain = literal.trim_end_matches("u32").trim_end_matches(['u', 'i']);
    match plain.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a hexadecimal number"),
        None if plain.contains(['.', 'e']) => u64::from(plain.parse::<f32>().expect("a single").to_bits()),
        None => plain.parse().expect("an integer"),
    }
}

#[test]
fn both_texts_of_the_arithmetic_name_the_same_constants() {
    let rust = include_str!("../src/canon.rs").split("#[cfg(test)]").next().unwrap_or_default();
    let (rust, wgsl) = (numbers_by_name(rust), numbers_by_name(kernels::CANON.1));
    for name in [
        "LIMIT_BITS",
        "NORM_LIMIT_BITS",
        "TINY_BITS",
        "OPERAND_TINY_BITS",
        "MAGNITUDE",
        "z",
        "bf",
        "key",
        "recip",
        "rsqrt",
        "exp",
        "log",
        "sigmoid",
        "micro",
    ] {
        assert!(rust.contains_key(name), "{name} has moved");
        assert_eq!(rust.get(name), wgsl.get(name), "{name}");
    }
}
