//! A core's deadline moves on when it is met: a node never spins, and its time is the one it was told.

use neuroshard_core::Input;

use super::{Checker, Stepped};

/// Ticks at one moment of the world. A core may answer a mass departure or release its outbox in as many steps, no more.
const TICKS_MAX: u32 = 1024;

/// Ticks at the same moment, by host.
#[derive(Debug)]
pub(super) struct Deadlines {
    ticks: Vec<(u64, u32)>,
}

impl Deadlines {
    pub(super) fn new(hosts: u32) -> Self {
        Self { ticks: vec![(0, 0); hosts as usize] }
    }
}

impl Checker for Deadlines {
    fn name(&self) -> &'static str {
        "deadlines"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        if step.core.now() != step.now {
            return Err(format!("the core was told that it is {} and believes {}", step.now, step.core.now()));
        }
        if !matches!(step.input, Input::Tick) {
            return Ok(());
        }
        let (at, ticks) = &mut self.ticks[step.host as usize];
        *ticks = if *at == step.at { *ticks + 1 } else { 1 };
        *at = step.at;
        if *ticks > TICKS_MAX {
            let deadline = step.core.next_deadline();
            return Err(format!("{ticks} ticks at one moment, and the next deadline is {deadline:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::genesis;
    use crate::scenario::Scenario;

    #[test]
    fn a_node_that_ticks_without_end_at_one_moment_is_caught() {
        let world = Scenario::draw(&crate::Options::calm(1, 1000), 1).unwrap().world;
        let founding = genesis::found(&world, &crate::keys::Keys::new(1, 0..1));
        let core = founding.restore(0, 0, std::iter::empty()).unwrap();
        let disk = Disk::new();
        let mut checker = Deadlines::new(1);
        let mut tick = |at| {
            let now = core.now();
            let (input, outputs) = (&Input::Tick, &[][..]);
            checker.stepped(&Stepped { at, host: 0, honest: true, now, input, outputs, core: &core, disk: &disk })
        };
        assert!((0..TICKS_MAX).all(|_| tick(5).is_ok()));
        assert!(tick(5).unwrap_err().contains("ticks at one moment"));
        assert!(tick(6).is_ok(), "time has moved");
    }
}
