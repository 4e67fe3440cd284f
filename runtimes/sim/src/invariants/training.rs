//! Training goes step by step, never past what the executor did, and does not end because of what went wrong around it.

use std::collections::BTreeMap;

use neuroshard_core::{Event, Output};
use neuroshard_proto::{Mode, Step};

use super::{Calm, Checker, Started, Stepped};

/// Where nodes train together, so many steps are taken in the calm.
const CALM_STEPS: u64 = 10;

/// The last step of each host that trains, and the one at which the calm found it.
#[derive(Debug, Default)]
pub(super) struct Training {
    at: BTreeMap<u32, Step>,
    healed: BTreeMap<u32, Step>,
    /// Steps that were taken in the calm.
    taken: u64,
}

impl Checker for Training {
    fn name(&self) -> &'static str {
        "training"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        for output in step.outputs {
            match output {
                Output::Event(Event::StateReady { step: ready, .. }) => {
                    self.at.insert(step.host, *ready);
                }
                Output::Event(Event::Stepped { step: taken, .. }) => {
                    let before = self.at.insert(step.host, *taken);
                    self.taken += 1;
                    if before.map(Step::next) != Some(*taken) {
                        return Err(format!("step {taken} follows on {before:?}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn started(&mut self, start: &Started<'_>) -> Result<(), String> {
        self.at.remove(&start.host);
        self.healed.insert(start.host, Step(0));
        Ok(())
    }

    fn healed(&mut self, calm: &Calm<'_>) {
        self.taken = 0;
        self.healed = calm.nodes.iter().map(|node| (node.host, node.core.model_step())).collect();
    }

    fn missing(&self, calm: &Calm<'_>) -> Option<String> {
        if calm.together && self.taken < CALM_STEPS {
            let modes = calm.nodes.iter().map(|node| (node.host, node.core.mode(), node.core.model_step()));
            return Some(format!("{} steps were taken: {:?}", self.taken, modes.collect::<Vec<_>>()));
        }
        // Only a node without neighbours trains for sure.
        let alone = |host| calm.training && calm.mesh.neighbours(host).next().is_none();
        calm.nodes.iter().filter(|node| alone(node.host)).find_map(|node| {
            let (mode, step) = (node.core.mode(), node.core.model_step());
            let before = self.healed.get(&node.host).copied().unwrap_or_default();
            let trains = mode == Some(Mode::Solo) && step > before;
            (!trains).then(|| format!("node {} is alone in mode {mode:?} and at step {step} still", node.host))
        })
    }
}
