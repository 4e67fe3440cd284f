//! Every step and every collection has its bound, and every request a deadline that is still to come (ARCHITECTURE §2).

use std::collections::BTreeMap;

use neuroshard_core::{Input, MAX_OUTPUTS, Output};
use neuroshard_proto::RequestId;

use super::{Checker, Started, Stepped};

/// Most requests of one kind that a node may have open.
const OPEN_MAX: usize = 16;

/// Open requests and the last id, by host.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    open: BTreeMap<u32, (Vec<RequestId>, Option<RequestId>)>,
}

impl Checker for Bounds {
    fn name(&self) -> &'static str {
        "bounds"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        if step.outputs.is_empty() && !matches!(step.input, Input::Computed { .. }) {
            return Ok(());
        }
        if step.outputs.len() > MAX_OUTPUTS {
            return Err(format!("a step gave {} outputs, {MAX_OUTPUTS} are allowed", step.outputs.len()));
        }
        if let Input::Computed { id, .. } = step.input
            && let Some((open, _)) = self.open.get_mut(&step.host)
        {
            open.retain(|other| other != id);
        }
        for output in step.outputs {
            match output {
                Output::Compute { id, deadline, .. } => {
                    if *deadline <= step.now {
                        return Err(format!(
                            "request {id} had to be answered by {deadline}, it is {} already",
                            step.now
                        ));
                    }
                    let (open, last) = self.open.entry(step.host).or_default();
                    if last.is_some_and(|last| *id <= last) {
                        return Err(format!("request {id} has the id of an earlier one"));
                    }
                    *last = Some(*id);
                    open.push(*id);
                    if open.len() > OPEN_MAX {
                        return Err(format!("{} requests are open, {OPEN_MAX} are allowed", open.len()));
                    }
                }
                Output::Cancel { id } => {
                    if let Some((open, _)) = self.open.get_mut(&step.host) {
                        open.retain(|other| other != id);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn started(&mut self, start: &Started<'_>) -> Result<(), String> {
        self.open.remove(&start.host);
        Ok(())
    }
}
