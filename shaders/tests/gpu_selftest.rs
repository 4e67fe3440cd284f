//! The self-test on every software driver: it passes what is right and names what was altered.
#![cfg(feature = "gpu")]

mod gpu_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gpu_support::{on_every_driver, open};
use neuroshard_proto::ops::Op;
use neuroshard_shaders::gpu::kernels::Kernel;
use neuroshard_shaders::gpu::{GpuEngine, OpenError, Options, open_tested, open_tested_altered};
use neuroshard_shaders::selftest::{self, Verdict};

/// For each operation a small alteration of the text it runs: what stands there and what it becomes.
const ALTERATIONS: [(Op, &str, &str); 18] = [
    (Op::Embed, "y[index] = table[row *", "y[index] = vec4(1u) | table[row *"),
    (Op::EmbedBackward, "for (var i = first;", "for (var i = first + 1u;"),
    // Other pairs are added first: equal but for rounding.
    (Op::RmsNorm, "quarters[lane + 32u]) + q(quarters[lane + 16u]", "quarters[lane + 16u]) + q(quarters[lane + 32u]"),
    (Op::RmsNormBackward, "z(bypass + own)", "z(own)"),
    // k descends: equal but for rounding.
    (Op::MatmulNt, DESCEND.0, DESCEND.1),
    (Op::MatmulNn, DESCEND.0, DESCEND.1),
    (Op::MatmulTn, DESCEND.0, DESCEND.1),
    (Op::Rope, "(token % params.sequence)", "((token + 1u) % params.sequence)"),
    (Op::RopeBackward, "first != INVERSE", "first == INVERSE"),
    (Op::Attention, "if column >= seen", "if column + 1u >= seen"),
    (Op::AttentionBackward, "if column > position", "if column >= position"),
    // Another order of factors: equal but for rounding.
    (Op::SwiGlu, "mul(silu(g), u)", "mul(g, mul(sigmoid(g), u))"),
    (Op::SwiGluBackward, "q(1.0 + mul(g", "q(1.0 - mul(g"),
    (Op::Residual, "z(total.y)", "z(total.x)"),
    // Ties go away from zero.
    (Op::Cast, "(bits + 0x7fffu + ((bits >> 16u) & 1u))", "(bits + 0x8000u)"),
    (Op::CrossEntropy, "1000000.0", "1000001.0"),
    (
        Op::SumSquares,
        "quarters[lane + 32u]) + q(quarters[lane + 16u]",
        "quarters[lane + 16u]) + q(quarters[lane + 32u]",
    ),
    // One Newton step fewer.
    (Op::AdamW, "i < 3", "i < 2"),
];

const DESCEND: (&str, &str) =
    ("for (var k = 0u; k < DEPTH; k++) {", "for (var step = 0u; step < DEPTH; step++) { let k = DEPTH - 1u - step;");

/// What one driver made of the exponential when its sum was not shielded: a last place in a quarter of all arguments.
const REASSOCIATED: (&str, &str) = ("q(1.0 + q(r + q(p * s)))", "q(q(1.0 + r) + q(p * s))");

#[test]
fn the_self_test_passes_every_driver() {
    on_every_driver("the_self_test_passes_every_driver", |adapter| {
        let (_, report) = open_tested(adapter, Options::default()).unwrap_or_else(|error| panic!("{error}"));
        print!("{report}");
        assert_eq!(report.lines.len(), Op::ALL.len());
    });
}

#[test]
fn the_self_test_names_the_operation_that_was_altered() {
    on_every_driver("the_self_test_names_the_operation_that_was_altered", |adapter| {
        let users = [Op::Attention, Op::AttentionBackward, Op::SwiGlu, Op::SwiGluBackward, Op::CrossEntropy];
        let last_places = users.map(|op| (op, REASSOCIATED.0, REASSOCIATED.1));
        for (op, from, to) in ALTERATIONS.into_iter().chain(last_places) {
            let altered = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&altered);
            let alter = move |kernel: &Kernel| {
                seen.fetch_or(kernel.text().contains(from), Ordering::Relaxed);
                kernel.text().replace(from, to)
            };
            let mut engine = GpuEngine::open_altered(adapter, Options::default(), alter)
                .unwrap_or_else(|fault| panic!("{op:?}: {fault}"));
            let line = selftest::run_op(&mut engine, op);
            println!("{line}");
            assert!(altered.load(Ordering::Relaxed), "no text of {op:?} says {from}");
            assert_ne!(line.verdict, Verdict::Passed, "{op:?}");
        }
        let mut engine = open(adapter, Options::default());
        assert_eq!(selftest::run_op(&mut engine, Op::AdamW).verdict, Verdict::Passed);
    });
}

#[test]
fn a_driver_that_spoils_bare_accumulators_is_taken_with_shielded_ones() {
    on_every_driver("a_driver_that_spoils_bare_accumulators_is_taken_with_shielded_ones", |adapter| {
        let spoiled = |kernel: &Kernel| kernel.text().replace("    return sum;\n}", "    return sum + sum * 1e-7;\n}");
        let (mut engine, _) = open_tested_altered(adapter, Options::default(), spoiled)
            .unwrap_or_else(|error| panic!("shielded accumulators pass: {error}"));
        assert_eq!(selftest::run_op(&mut engine, Op::MatmulNt).verdict, Verdict::Passed);
        let bare = Options { shield_chains: Some(false), ..Options::default() };
        let Err(OpenError::Refused(refusal)) = open_tested_altered(adapter, bare, spoiled) else {
            panic!("bare accumulators were demanded, and fail")
        };
        let products = [Op::MatmulNt, Op::MatmulNn, Op::MatmulTn, Op::Attention, Op::AttentionBackward];
        assert_eq!(refusal.report.failed().collect::<Vec<_>>(), products);
    });
}
