//! Re-executing recorded inputs with the core alone: no clock, network, disk or accelerator.

use std::panic::{AssertUnwindSafe, catch_unwind};

use neuroshard_core::{Core, Input, Misuse, Outbox, RestoreError};
use neuroshard_proto::{Hash, List, Time};

use crate::format::Header;
use crate::frame::{self, Changed, Digests, Outcome};

/// A core restored from a trace's header, to be fed the trace's inputs.
#[derive(Debug)]
pub struct Player {
    core: Core,
    outbox: Outbox,
}

/// What became of a step in the replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Played {
    /// It returned; outputs are there whatever the trace's detail.
    Returned(Outcome),
    /// The core refused it.
    Refused(Misuse),
    /// It panicked with this message. The core must not be used any more.
    Panicked(String),
}

impl Player {
    /// Restores the recorded start.
    ///
    /// # Errors
    /// If this build's core does not accept the recorded configuration or journal.
    pub fn new(header: &Header) -> Result<Self, RestoreError> {
        let core = Core::restore(header.config.clone(), header.seed, header.journal.iter().map(|record| &record[..]))?;
        Ok(Self { core, outbox: Outbox::default() })
    }

    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Feeds one input.
    pub fn step(&mut self, time: Time, input: Input) -> Played {
        let before = self.digests();
        match survive(|| self.core.step(time, input, &mut self.outbox)) {
            Ok(Ok(())) => Played::Returned(self.outcome(&before)),
            Ok(Err(misuse)) => Played::Refused(misuse),
            Err(panic) => Played::Panicked(panic),
        }
    }

    fn digests(&self) -> Vec<Hash> {
        self.core.part_hashes().into_iter().map(|(_, digest)| digest).collect()
    }

    fn outcome(&mut self, before: &[Hash]) -> Outcome {
        let encoded = frame::encode_outputs(self.outbox.iter());
        let digests = Digests { outputs: frame::digest(&encoded), state: self.core.state_hash().short() };
        let outputs = std::iter::from_fn(|| self.outbox.pop()).collect::<Vec<_>>();
        let outputs = List::try_from(outputs).expect("a step pushes at most as many outputs as the outbox holds");
        Outcome { digests, changed: Changed::between(before, &self.digests()), outputs: Some(outputs) }
    }
}

/// Runs a step; the message of its panic if it does not return.
fn survive<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Detail;
    use crate::testing::{Host, config, record};

    #[test]
    fn a_player_follows_the_recorded_core_step_by_step() {
        let mut player = Player::new(&Host::new(config()).header(Detail::Outputs)).unwrap();
        for logged in record(200, Detail::Outputs).1 {
            let Played::Returned(outcome) = player.step(logged.time, logged.input) else { panic!("a good step") };
            assert_eq!(player.core().state_hash(), logged.state);
            assert_eq!(outcome.outputs.unwrap().to_vec(), logged.outputs);
        }
        assert!(matches!(player.step(Time::ZERO, Input::Tick), Played::Refused(Misuse::TimeWentBack { .. })));
    }

    #[test]
    fn a_panic_is_survived_with_its_message() {
        assert_eq!(survive(|| 5), Ok(5));
        assert_eq!(survive(|| panic!("a broken invariant")), Err::<(), _>("a broken invariant".to_owned()));
        let number = 7;
        assert_eq!(survive(|| assert!(number < 7, "{number} is too much")), Err("7 is too much".to_owned()));
    }
}
