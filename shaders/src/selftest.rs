//! The self-test: golden inputs for every operation, whose outputs' hashes are part of the program (ARCHITECTURE §4).
//!
//! Honest nodes are never slashed for their hardware, because a device that fails in one bit does no work that is
//! hashed. The constants are in `selftest/golden.txt`, which `cargo run -p neuroshard-shaders --example golden` writes
//! from the reference engine.
//!
//! ```
//! use neuroshard_shaders::cpu::CpuEngine;
//! use neuroshard_shaders::selftest;
//!
//! let engine = CpuEngine::new(Default::default())?;
//! let (engine, report) = selftest::admit(engine)?; // an engine that fails does not come back
//! assert!(report.passed());
//! print!("{report}"); // one line for each operation
//! # drop(engine);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cases;
mod edges;

use std::fmt;

use neuroshard_proto::ops::Op;
use neuroshard_proto::{Fault, Hash};

use crate::engine::Engine;
use crate::reference::Reference;
use crate::values::Value;
use cases::{Case, Outcome};

/// The hashes: for each case its operation's name, its number and the hash of its outputs.
const GOLDEN: &str = include_str!("selftest/golden.txt");

/// How an engine did in one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub op: Op,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The first thing that is not as it must be.
    Failed {
        why: String,
    },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Passed => write!(f, "{:18} ok", self.op.name()),
            Verdict::Failed { why } => write!(f, "{:18} FAILED: {why}", self.op.name()),
        }
    }
}

/// How an engine did in every operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub lines: Vec<Line>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The operations that failed.
    pub fn failed(&self) -> impl Iterator<Item = Op> {
        self.lines.iter().filter(|line| line.verdict != Verdict::Passed).map(|line| line.op)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A device that must not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it calls itself.
    pub device: String,
    pub report: Report,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: Vec<&str> = self.report.failed().map(Op::name).collect();
        write!(
            f,
            "{} fails the self-test in {} and is not used: update its driver, or use another adapter or the CPU",
            self.device,
            failed.join(", ")
        )
    }
}

impl std::error::Error for Refusal {}

/// Tests an engine; touches none of its state.
pub fn run(engine: &mut dyn Engine) -> Report {
    Report { lines: Op::ALL.into_iter().map(|op| run_op(engine, op)).collect() }
}

/// Tests an engine in one operation.
pub fn run_op(engine: &mut dyn Engine, op: Op) -> Line {
    let failure = cases::of(op).iter().enumerate().find_map(|(number, case)| failure(engine, op, number, case));
    Line { op, verdict: failure.map_or(Verdict::Passed, |why| Verdict::Failed { why }) }
}

/// Lets an engine pass if it passes the self-test.
///
/// # Errors
/// The report of an engine that does not.
pub fn admit<E: Engine>(mut engine: E) -> Result<(E, Report), Refusal> {
    let report = run(&mut engine);
    if report.passed() { Ok((engine, report)) } else { Err(Refusal { device: engine.describe(), report }) }
}

/// The contents of `golden.txt`, from the reference engine.
///
/// # Errors
/// None: the reference engine has no device to fail.
pub fn golden() -> Result<String, Fault> {
    let mut reference = Reference::<false>::default();
    let mut text = String::new();
    for op in Op::ALL {
        for (number, case) in cases::of(op).iter().enumerate() {
            text += &format!("{} {number} {}\n", op.name(), hash(&case.run(&mut reference)?));
        }
    }
    Ok(text)
}

/// What is wrong with an engine in a case, if anything.
fn failure(engine: &mut dyn Engine, op: Op, number: usize, case: &Case) -> Option<String> {
    let start = format!("{} {number} ", op.name());
    let wanted = GOLDEN.lines().find_map(|line| line.strip_prefix(&start)).and_then(Hash::from_hex);
    match (case.run(engine), wanted) {
        (Ok(outcome), Some(wanted)) if hash(&outcome) == wanted => None,
        (Ok(outcome), Some(_)) => Some(format!("case {number}: {}", explain(case, &outcome))),
        (Err(fault), _) => Some(format!("case {number}: {fault}")),
        (Ok(_), None) => Some(format!("case {number} has no golden hash")),
    }
}

/// The hash of whether everything stayed in range and of every output.
fn hash(outcome: &Outcome) -> Hash {
    let mut bytes = vec![u8::from(outcome.in_range)];
    for value in &outcome.outputs {
        words(value).for_each(|word| bytes.extend(word.to_le_bytes()));
    }
    Hash::of_blob(&bytes)
}

fn words(value: &Value) -> Box<dyn Iterator<Item = u32> + '_> {
    match value {
        Value::Float(values) => Box::new(values.iter().map(|x| x.to_bits())),
        Value::Int(values) => Box::new(values.iter().map(|x| x.cast_unsigned())),
    }
}

/// Where an outcome first differs from the reference's.
fn explain(case: &Case, got: &Outcome) -> String {
    let want = match case.run(&mut Reference::<false>::default()) {
        Ok(want) => want,
        Err(fault) => return fault.to_string(),
    };
    if got.in_range != want.in_range {
        let said = |in_range: bool| if in_range { "in range" } else { "out of range" };
        return format!("says {} where values are {}", said(got.in_range), said(want.in_range));
    }
    for (output, (got, want)) in got.outputs.iter().zip(&want.outputs).enumerate() {
        if let Some((place, (got, want))) = words(got).zip(words(want)).enumerate().find(|(_, (got, want))| got != want)
        {
            return format!("output {output}, element {place} is {got:#010x} and not {want:#010x}");
        }
    }
    "the reference of this build differs from its golden hashes".to_owned()
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::ops::Call;
    use neuroshard_proto::{F32, LayerIndex, LayerRange, ModelSpec, Schedule};

    use super::*;
    use crate::cpu::{CpuEngine, Options as CpuOptions};
    use crate::engine::{Entry, Part, TokenBatch, Trained};
    use crate::optimizer::Rates;
    use crate::values::{Shape, Values};

    #[test]
    fn the_golden_hashes_are_the_references() {
        assert_eq!(golden().as_deref(), Ok(GOLDEN), "if the arithmetic was meant to change, write golden.txt anew");
    }

    #[test]
    fn the_contracting_machine_and_the_processor_pass() {
        let processor = CpuEngine::new(CpuOptions::default()).unwrap();
        let engines: [Box<dyn Engine>; 2] = [Box::new(Reference::<true>::default()), Box::new(processor)];
        for mut engine in engines {
            let report = run(engine.as_mut());
            assert!(report.passed(), "{}\n{report}", engine.describe());
        }
    }

    #[test]
    fn every_case_is_in_range_but_for_those_that_must_not_be() {
        let mut reference = Reference::<false>::default();
        for op in Op::ALL {
            for (number, case) in cases::of(op).iter().enumerate() {
                assert_eq!(case.run(&mut reference).unwrap().in_range, !case.is_spoiled(), "{op:?} {number}");
            }
        }
    }

    /// An engine that flips one bit of one output of one operation.
    struct Flipped {
        inner: Reference<false>,
        op: Op,
        /// Says that everything is in range instead.
        blind: bool,
    }

    impl Flipped {
        fn flip(x: &mut f32) {
            *x = f32::from_bits(x.to_bits() ^ 1);
        }
    }

    impl Engine for Flipped {
        fn describe(&self) -> String {
            "a device with a flaw".into()
        }
        fn apply(&mut self, call: &Call, shape: &Shape, values: &mut Values) -> Result<bool, Fault> {
            let in_range = self.inner.apply(call, shape, values)?;
            if call.op != self.op || self.blind {
                return Ok(in_range || call.op == self.op);
            }
            if let Some(last) = call.writes.last().and_then(|slot| values.get_mut(slot)) {
                match last {
                    Value::Float(values) => values.last_mut().into_iter().for_each(Self::flip),
                    Value::Int(values) => values.last_mut().into_iter().for_each(|x| *x ^= 1),
                }
            }
            Ok(in_range)
        }
        fn sum_squares(&mut self, gradient: &[f32], token_weight: F32) -> Result<Option<F32>, Fault> {
            let sum = self.inner.sum_squares(gradient, token_weight)?;
            let flips = u32::from(self.op == Op::SumSquares);
            Ok(sum.map(|sum| F32::from_bits(sum.to_bits() ^ flips)))
        }
        fn adamw(&mut self, rates: &Rates, decay: bool, parts: [&mut [f32]; 3], gradient: &[f32]) -> Result<(), Fault> {
            let [weights, moments1, moments2] = parts;
            self.inner.adamw(rates, decay, [weights, moments1, moments2], gradient)?;
            if self.op == Op::AdamW {
                moments2.last_mut().into_iter().for_each(Self::flip);
            }
            Ok(())
        }
        fn allocate(&mut self, model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
            self.inner.allocate(model, range)
        }
        fn write(&mut self, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault> {
            self.inner.write(part, layer, values)
        }
        fn read(&mut self, part: Part, layer: LayerIndex, out: &mut [f32]) -> Result<(), Fault> {
            self.inner.read(part, layer, out)
        }
        fn train(&mut self, batch: &TokenBatch, fresh: bool, token_weight: F32) -> Result<Trained, Fault> {
            self.inner.train(batch, fresh, token_weight)
        }
        fn clear(&mut self) -> Result<(), Fault> {
            self.inner.clear()
        }
        fn forward(&mut self, place: usize, entry: Entry<'_>, output: &mut [f32]) -> Result<bool, Fault> {
            self.inner.forward(place, entry, output)
        }
        fn backward(&mut self, place: usize, leaving: &[f32], entering: Option<&mut [f32]>) -> Result<bool, Fault> {
            self.inner.backward(place, leaving, entering)
        }
        fn turn(
            &mut self,
            entry: Entry<'_>,
            targets: &[u32],
            entering: Option<&mut [f32]>,
        ) -> Result<Option<i64>, Fault> {
            self.inner.turn(entry, targets, entering)
        }
        fn norms(&mut self, token_weight: F32) -> Result<Option<Vec<F32>>, Fault> {
            self.inner.norms(token_weight)
        }
        fn evaluate(&mut self, batch: &TokenBatch) -> Result<Option<i64>, Fault> {
            self.inner.evaluate(batch)
        }
        fn step(&mut self, token_weight: F32, squared_norm: F32, schedule: &Schedule) -> Result<(), Fault> {
            self.inner.step(token_weight, squared_norm, schedule)
        }
        fn benchmark(&mut self, model: &ModelSpec, sequence: u32, warmup: u32, runs: u32) -> Result<u64, Fault> {
            self.inner.benchmark(model, sequence, warmup, runs)
        }
    }

    #[test]
    fn one_wrong_bit_in_any_operation_is_found_and_placed() {
        for op in Op::ALL {
            let line = run_op(&mut Flipped { inner: Reference::default(), op, blind: false }, op);
            let Verdict::Failed { why } = line.verdict else { panic!("{op:?} passed") };
            assert!(why.contains("element") && why.contains(" and not 0x"), "{why}");
        }
    }

    #[test]
    fn a_refusal_names_the_operations_that_failed_and_no_other() {
        let flawed = Flipped { inner: Reference::default(), op: Op::Rope, blind: false };
        let refusal = admit(flawed).map(|_| ()).unwrap_err();
        assert_eq!(refusal.report.failed().collect::<Vec<_>>(), [Op::Rope]);
        assert!(refusal.to_string().starts_with("a device with a flaw fails the self-test in rope and is not used"));
    }

    #[test]
    fn a_device_that_overlooks_a_value_out_of_range_is_refused() {
        for op in Op::ALL.into_iter().filter(|op| cases::of(*op).iter().any(Case::is_spoiled)) {
            if op == Op::SumSquares {
                continue; // Its own answer says so, and the flipped engine hands it on.
            }
            let line = run_op(&mut Flipped { inner: Reference::default(), op, blind: true }, op);
            let Verdict::Failed { why } = line.verdict else { panic!("{op:?} passed") };
            assert!(why.ends_with("says in range where values are out of range"), "{why}");
        }
    }
}
