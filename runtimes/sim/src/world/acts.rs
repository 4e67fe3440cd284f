//! The script: what goes wrong begins and ends, and then the calm.

use super::host::End;
use super::{LOOK_US, Next, World};
use crate::invariants::Standing;
use crate::report::Count;
use crate::scenario::What;
use neuroshard_core::{Command, Input};

impl World {
    /// An act begins.
    pub(super) fn begin(&mut self, act: u32) {
        if self.calm {
            return;
        }
        let what = self.acts[act as usize].clone();
        let ends = what.end_us().max(self.now + 1);
        match &what.what {
            What::Loss { .. }
            | What::Duplicate { .. }
            | What::Reorder { .. }
            | What::Corrupt { .. }
            | What::Bandwidth { .. }
            | What::Partition { .. }
            | What::Clog { .. } => self.weather.push(what.clone()),
            What::Disk { node, .. } | What::Compute { node, .. } => {
                self.afflictions.entry(*node).or_default().push(act);
            }
            What::Crash { node, outputs: None, .. } => self.fall(*node, act),
            What::Crash { node, outputs: Some(outputs), .. } => {
                self.hosts[*node as usize].end = End::Falling { outputs: *outputs, act };
            }
            What::Leave { node } => {
                let machine = &mut self.hosts[*node as usize];
                if machine.core.is_some() && machine.end == End::NotInSight {
                    machine.end = End::Leaving { until: ends };
                    self.counts.add(Count::Leaves, 1);
                    // Where nodes train together, half of those who go hand over first.
                    let leaves = self.spec.quorums && what.at_ms % 2 == 1;
                    let command = if leaves { Command::Leave } else { Command::Stop };
                    self.step(*node, *node, Input::Command(command));
                }
            }
            What::Jump { node, ms } => {
                let by = self.hosts[*node as usize].clock.jump(self.now, *ms);
                self.counts.add(Count::Jumps, u64::from(by != 0));
                self.rearm(*node);
            }
            What::Rate { node, ppm } => {
                self.hosts[*node as usize].clock.turn(self.now, *ppm);
                self.counts.add(Count::Turns, 1);
                self.rearm(*node);
            }
        }
        self.put_own(ends, Next::End { act });
    }

    /// An act ends. Nodes that fell or left come back by themselves.
    pub(super) fn end(&mut self, act: u32) {
        let ended = self.acts[act as usize].clone();
        match &ended.what {
            What::Disk { node, .. } | What::Compute { node, .. } => {
                if let Some(lasting) = self.afflictions.get_mut(node) {
                    lasting.retain(|other| *other != act);
                }
            }
            What::Rate { node, .. } if !self.calm => {
                self.hosts[*node as usize].clock.turn(self.now, 0);
                self.rearm(*node);
            }
            _ => {
                if let Some(place) = self.weather.iter().position(|other| *other == ended) {
                    self.weather.remove(place);
                }
            }
        }
    }

    /// The acts that last at a host's disk and executor.
    pub(super) fn lasting(&self, host: u32) -> Vec<u32> {
        self.afflictions.get(&host).cloned().unwrap_or_default()
    }

    /// A clock moved: the timer is put anew.
    fn rearm(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        machine.timer = None;
        machine.generation += 1;
        self.arm(host);
    }

    /// The power goes at a node, as an act says.
    pub(super) fn fall(&mut self, host: u32, act: u32) {
        let fall = &self.acts[act as usize];
        let (What::Crash { keep, torn, .. }, back) = (&fall.what, fall.end_us().max(self.now + 1000)) else { return };
        let machine = &mut self.hosts[host as usize];
        if machine.core.is_none() {
            return;
        }
        let tail = machine.disk.crash(*keep, *torn);
        self.counts.add(Count::Crashes, 1);
        self.counts.add(Count::RecordsKept, tail.kept);
        self.counts.add(Count::RecordsTorn, tail.torn);
        self.counts.add(Count::RecordsLost, tail.lost);
        self.note(host, format_args!("falls: {} records kept, {} torn, {} lost", tail.kept, tail.torn, tail.lost));
        self.stop(host);
        self.put(back, host, Next::Start);
    }

    /// The faults are over: links are whole, clocks right, devices answer, and every node is started.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.weather.clear();
        self.afflictions.clear();
        for host in 0..self.hosts.len() as u32 {
            let machine = &mut self.hosts[host as usize];
            machine.clock.heal(self.now);
            if matches!(machine.end, End::Falling { .. }) {
                machine.end = End::NotInSight;
            }
            let life = machine.life;
            let held: Vec<_> = machine.executor.iter().flat_map(|executor| executor.held()).collect();
            for id in held {
                self.put(self.now, host, Next::Released { life, id });
            }
            if self.hosts[host as usize].core.is_none() {
                self.put(self.now, host, Next::Start);
            }
            self.rearm(host);
        }
        let mut checkers = std::mem::take(&mut self.checkers);
        let honest = (0..self.spec.nodes).filter(|host| self.is_honest(*host));
        let standing = |host: u32| Some(Standing { host, core: self.hosts[host as usize].core.as_ref()? });
        let nodes: Vec<Standing<'_>> = honest.filter_map(standing).collect();
        let calm = self.calm(&nodes);
        checkers.iter_mut().for_each(|checker| checker.healed(&calm));
        self.checkers = checkers;
        self.note(super::WORLD, format_args!("the faults are over"));
        self.put_own(self.now + LOOK_US, Next::Look);
    }

    /// Looks whether all agree by now.
    pub(super) fn look(&mut self) {
        let healed = self.spec.duration_ms * 1000;
        match self.missing() {
            None => self.converged = Some(self.now - healed),
            Some((checker, what)) if self.now - healed >= self.spec.calm_ms * 1000 => {
                let calm = self.spec.calm_ms / 1000;
                self.fail(checker, None, format!("after {calm} s of calm {what}"));
            }
            Some(_) => self.put_own(self.now + LOOK_US, Next::Look),
        }
    }
}
