//! One step of one node, and what its host does with the outputs.

use std::io::Cursor;

use neuroshard_core::{Event, Input, Output};
use neuroshard_proto::{Commitment, Fault, Hash, JournalSeq, RequestId, Step, codec};
use neuroshard_replay::{Detail, Header, InputLine, OutputLine, Reader, Recorder, replay};

use super::host::End;
use super::{LifeTrace, Next, Recording, World};
use crate::executor::{Around, Executor, Said, blobs_of};
use crate::invariants::{Started, Stepped};
use crate::passing::Passing;
use crate::report::Count;
use crate::scenario::{Lie, What};

/// Steps whose weights are remembered.
const STATES_MAX: usize = 1 << 13;
/// Streams and gradients that a node may hold, for each sequence of a batch: both ways, in this batch and the one before, and
/// as many again that are being let go of.
const PASSING_MAX: u64 = 8;

/// Longest that a signature takes.
const SIGN_US_MAX: u64 = 3000;
/// An executor that is late answers after so long: some within the core's deadline, some not.
const LATE_US: (u64, u64) = (30_000_000, 7_200_000_000);

impl World {
    /// Starts a node, from its journal.
    pub(super) fn start(&mut self, host: u32) {
        if self.hosts[host as usize].core.is_some() {
            return;
        }
        let machine = &mut self.hosts[host as usize];
        machine.life += 1;
        machine.end = End::NotInSight;
        machine.signs_until = 0;
        let life = machine.life;
        self.counts.add(Count::Restarts, u64::from(life > 1));
        let restore = || self.founding.restore(host, life, self.hosts[host as usize].disk.journal());
        let (core, again) = match (restore(), restore()) {
            (Ok(core), Ok(again)) => (core, again),
            (Err(error), _) | (_, Err(error)) => {
                return self.fail("journal restores", Some(host), format!("a core's own journal is refused: {error}"));
            }
        };
        let started = Started { host, core: &core, again: &again, disk: &self.hosts[host as usize].disk };
        let fault = self
            .checkers
            .iter_mut()
            .find_map(|checker| checker.started(&started).err().map(|what| (checker.name(), what)));
        self.hosts[host as usize].core = Some(Box::new(core));
        if let Some((checker, what)) = fault {
            return self.fail(checker, Some(host), what);
        }
        self.begin_recording(host);
        self.note(host, format_args!("starts its life {life}"));
        let phase = self.draws.heartbeat.of(u64::from(host)).below(self.founding.params().heartbeat_ms * 1000);
        self.put(self.now + phase, host, Next::Heartbeat { life });
        self.step(host, host, Input::Tick);
    }

    /// Feeds an input to a node and does what it asks for.
    pub(super) fn step(&mut self, host: u32, from: u32, input: Input) {
        let machine = &mut self.hosts[host as usize];
        let Some(core) = &mut machine.core else { return };
        let (now, seen) = (machine.clock.read(self.now), input.clone());
        self.acting = Some(host);
        let taken = match &mut machine.recorder {
            Some(recorder) => recorder.step(core, now, input, &mut self.outbox),
            None => core.step(now, input, &mut self.outbox),
        };
        self.acting = None;
        if let Err(misuse) = taken {
            return self.fail("misuse", Some(host), format!("an honest host was refused: {misuse}"));
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.extend(std::iter::from_fn(|| self.outbox.pop()));
        self.counts.add(Count::Steps, 1);
        self.chain.add(self.now);
        self.chain.add((u64::from(host) << 32) | u64::from(from));
        outputs.iter().for_each(|output| self.chain.add_bytes(&codec::encode(output)));
        if self.log.is_some() {
            self.note(host, format_args!("< {from} {}", InputLine(&seen)));
            outputs.iter().for_each(|output| self.note(host, format_args!("    {}", OutputLine(output))));
        }
        let falls = match self.hosts[host as usize].end {
            End::Falling { outputs: done, act } => {
                outputs.truncate(done as usize);
                Some(act)
            }
            End::NotInSight | End::Leaving { .. } => None,
        };
        self.check(host, &seen, &outputs);
        for output in outputs.drain(..) {
            self.obey(host, output);
        }
        self.outputs = outputs;
        if let Some(again) = self.ended.take() {
            // The process ends when it has done what it was asked, and the machine stays: what was written is there.
            self.hosts[host as usize].disk.crash(u32::MAX, false);
            self.stop(host);
            self.put(again, host, Next::Start);
            return;
        }
        if let Some(act) = falls {
            self.counts.add(Count::CrashesInside, 1);
            return self.fall(host, act);
        }
        self.begin_sync(host);
        self.arm(host);
    }

    fn check(&mut self, host: u32, input: &Input, outputs: &[Output]) {
        let honest = self.is_honest(host);
        let machine = &self.hosts[host as usize];
        let Some(core) = &machine.core else { return };
        let now = core.now();
        let step = Stepped { at: self.now, host, honest, now, input, outputs, core, disk: &machine.disk };
        let fault = self
            .checkers
            .iter_mut()
            .find_map(|checker| checker.stepped(&step).err().map(|what| (checker.name(), what)));
        if let Some((checker, what)) = fault {
            self.fail(checker, Some(host), what);
        }
    }

    fn obey(&mut self, host: u32, output: Output) {
        let machine = &mut self.hosts[host as usize];
        match output {
            Output::Persist { seq, record } => machine.disk.write(seq, self.pool.share(&record)),
            Output::Trim { before } => machine.disk.trim(before),
            Output::Compute { id, job, .. } => {
                let lie = self.lie(host, id);
                let executor = self.hosts[host as usize].executor.get_or_insert_with(|| Box::new(Executor::new()));
                if executor.ask(id, job, lie) {
                    self.begin_work(host);
                }
            }
            Output::Cancel { id } => {
                if let Some(executor) = &mut machine.executor {
                    executor.cancel(id);
                }
            }
            Output::Drop { hash } => {
                if !machine.passing.let_go(&hash) && !machine.disk.drop_blob(&hash) {
                    self.fail("bounds", Some(host), format!("blob {hash:.16} is deleted, and it was not there"));
                }
            }
            Output::Sign { id, digest } => {
                machine.signing.push_back((id, digest));
                let takes = self.draws.sign.of(u64::from(host)).of(id.0).between(100, SIGN_US_MAX);
                let at = machine.signs_until.max(self.now) + takes;
                machine.signs_until = at;
                let life = machine.life;
                self.put(at, host, Next::Signed { life });
            }
            Output::Send { to, message } => self.send(host, &to, &message),
            Output::Publish { topic, message } => self.publish(host, topic, &message),
            Output::Fetch { id, hash, from, keep } => self.fetch(host, id, hash, &from, keep),
            Output::Event(event) => self.hear(host, &event),
        }
    }

    fn hear(&mut self, host: u32, event: &Event) {
        match event {
            Event::Stepped { step, .. } => {
                self.furthest = self.furthest.max(*step);
                self.counts.add(Count::Trained, 1);
            }
            Event::BlockDecided { height, transactions, .. } if *height > self.height => {
                self.height = *height;
                self.counts.add(Count::Blocks, 1);
                self.counts.add(Count::Transactions, u64::from(*transactions));
            }
            Event::QuorumJoined { .. } => self.counts.add(Count::Quorums, 1),
            Event::StateTaken { .. } => self.counts.add(Count::StatesTaken, 1),
            Event::Equivocation { .. } => self.counts.add(Count::Accused, 1),
            // A node that has stopped is done: its operator starts it again.
            Event::Stopped { .. } => {
                let again = match self.hosts[host as usize].end {
                    End::Leaving { until } => until.max(self.now + 1_000_000),
                    End::NotInSight | End::Falling { .. } => self.now + 10_000_000,
                };
                self.ended = Some(again);
            }
            _ => {}
        }
    }

    /// Ends a process.
    pub(super) fn stop(&mut self, host: u32) {
        self.end_recording(host);
        let machine = &mut self.hosts[host as usize];
        machine.core = None;
        machine.executor = None;
        machine.passing = Passing::new();
        machine.signing.clear();
        machine.timer = None;
        machine.generation += 1;
        machine.end = End::NotInSight;
    }

    /// Puts the timer where the core wants it.
    pub(super) fn arm(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        let Some(core) = &machine.core else { return };
        let Some((deadline, _)) = core.next_deadline() else { return };
        let at = machine.clock.when(deadline, self.now);
        // A timer that goes off early asks again; only a later one must be replaced.
        if machine.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        machine.timer = Some(at);
        machine.generation += 1;
        let generation = machine.generation;
        self.put(at, host, Next::Timer { generation });
    }

    pub(super) fn on_timer(&mut self, host: u32, generation: u32) {
        let machine = &mut self.hosts[host as usize];
        if machine.generation != generation {
            return;
        }
        machine.timer = None;
        let (now, due) = (machine.clock.read(self.now), machine.core.as_ref().and_then(|core| core.next_deadline()));
        match due {
            Some((deadline, _)) if deadline <= now => {
                self.counts.add(Count::Ticks, 1);
                self.step(host, host, Input::Tick);
            }
            Some(_) | None => self.arm(host),
        }
    }

    fn begin_sync(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        let life = machine.life;
        let Some(upto) = machine.disk.begin_sync() else { return };
        let draw = self.draws.sync.of(u64::from(host)).of(upto.0);
        let mut takes = draw.of(0).below(self.spec.sync_ms * 1000 + 1);
        for act in self.lasting(host) {
            if let What::Disk { late_ms, twice, .. } = self.acts[act as usize].what {
                takes += draw.of(1).below(late_ms * 1000 + 1);
                self.counts.add(Count::SyncsLate, 1);
                if twice {
                    self.put(self.now + 2 * takes + 1000, host, Next::Reported { life, upto });
                }
            }
        }
        self.put(self.now + takes, host, Next::Synced { life, upto });
    }

    pub(super) fn on_synced(&mut self, host: u32, life: u32, upto: JournalSeq) {
        if self.hosts[host as usize].lives(life) {
            self.counts.add(Count::Syncs, 1);
            self.hosts[host as usize].disk.synced(upto);
            self.step(host, host, Input::Persisted { upto });
        }
    }

    pub(super) fn on_reported(&mut self, host: u32, life: u32, upto: JournalSeq) {
        let machine = &self.hosts[host as usize];
        // Only what is durable is reported, be it once more.
        if machine.lives(life) && machine.disk.durable_upto().is_some_and(|durable| upto <= durable) {
            self.counts.add(Count::ReportsTwice, 1);
            self.step(host, host, Input::Persisted { upto });
        }
    }

    fn lie(&self, host: u32, id: RequestId) -> Option<Lie> {
        self.lasting(host).into_iter().find_map(|act| match self.acts[act as usize].what {
            // Half of the jobs in such a time go wrong.
            What::Compute { lie, salt, .. } => {
                self.draws.work.of(u64::from(salt)).of(id.0).happens(500_000).then_some(lie)
            }
            _ => None,
        })
    }

    fn begin_work(&mut self, host: u32) {
        let machine = &self.hosts[host as usize];
        let Some(executor) = &machine.executor else { return };
        let draw = self.draws.work.of(u64::from(host)).of(self.now);
        if let Some(takes) = executor.takes_us(self.founding.pace(host), draw) {
            let life = machine.life;
            if executor.passes() {
                self.counts.add(Count::WorkedMs, takes / 1000);
            }
            self.put(self.now + takes, host, Next::Worked { life });
        }
    }

    pub(super) fn on_worked(&mut self, host: u32, life: u32) {
        let machine = &mut self.hosts[host as usize];
        if !machine.lives(life) {
            return;
        }
        let Some(executor) = &mut machine.executor else { return };
        let draw = self.draws.work.of(u64::from(host)).of(1);
        let (passing, disk) = (&machine.passing, &machine.disk);
        let blobs = |hash: &Hash| passing.has(hash) || disk.blobs().contains(hash);
        let around = Around { pace: self.founding.pace(host), all: self.founding.model().all_layers(), blobs: &blobs };
        let before = executor.resident().map(|model| model.step);
        let said = executor.finish(&around, draw);
        let stepped = executor.resident().filter(|model| before.map(Step::next) == Some(model.step));
        let stepped = stepped.filter(|_| self.spec.quorums).map(|model| (model.step, model.weights().collect()));
        if executor.is_idle() {
            machine.executor = None;
        }
        if let Some((step, weights)) = stepped {
            self.compare(host, step, weights);
        }
        self.counts.add(Count::Jobs, 1);
        // The next job begins before the answer is read.
        self.begin_work(host);
        match said {
            Said::Answer { id, result } => self.answer(host, id, result),
            Said::Wrong { id, result } => {
                self.counts.add(Count::JobsWrong, 1);
                self.answer(host, id, result);
            }
            Said::Later { id } => {
                self.counts.add(Count::JobsLate, 1);
                let after = self.draws.work.of(u64::from(host)).of(id.0).of(2).between(LATE_US.0, LATE_US.1);
                self.put(self.now + after, host, Next::Released { life, id });
            }
            Said::Nothing => self.counts.add(Count::JobsLost, 1),
        }
    }

    /// Whoever computes a stage after a step comes to the same weights: alone or with others, early or again.
    fn compare(&mut self, host: u32, step: Step, weights: Vec<(u32, Hash)>) {
        let state = self.states.entry(step).or_default();
        let differs = weights.into_iter().find(|(stage, weight)| *state.entry(*stage).or_insert(*weight) != *weight);
        if let Some((stage, _)) = differs {
            self.fail("same weights", Some(host), format!("stage {stage} differs after step {step}"));
        }
        while self.states.len() > STATES_MAX {
            self.states.pop_first();
        }
    }

    pub(super) fn on_released(&mut self, host: u32, life: u32, id: RequestId) {
        let machine = &mut self.hosts[host as usize];
        if !machine.lives(life) {
            return;
        }
        if let Some(result) = machine.executor.as_mut().and_then(|executor| executor.release(id)) {
            self.answer(host, id, result);
        }
    }

    pub(super) fn answer(&mut self, host: u32, id: RequestId, result: Result<Commitment, Fault>) {
        let machine = &mut self.hosts[host as usize];
        if let Ok(Commitment::Snapshot(snapshot)) = &result {
            machine.disk.put_blobs(blobs_of(snapshot));
        }
        if let Some(hash) = result.as_ref().ok().and_then(Commitment::passing) {
            machine.passing.hold(hash);
        }
        let passing = machine.passing.len();
        if passing > PASSING_MAX * self.founding.sequences() {
            self.fail("bounds", Some(host), format!("{passing} streams and gradients are held"));
        }
        self.step(host, host, Input::Computed { id, result });
    }

    pub(super) fn on_signed(&mut self, host: u32, life: u32) {
        let machine = &mut self.hosts[host as usize];
        if !machine.lives(life) {
            return;
        }
        if let Some((id, digest)) = machine.signing.pop_front() {
            self.counts.add(Count::Signed, 1);
            let signature = self.keys.sign(host, &digest);
            self.step(host, host, Input::Signed { id, signature });
        }
    }

    fn begin_recording(&mut self, host: u32) {
        if self.recording == Recording::Nothing {
            return;
        }
        let machine = &mut self.hosts[host as usize];
        let Some(core) = &machine.core else { return };
        let (seed, origin) = (self.founding.seed(host, machine.life), machine.clock.read(self.now));
        let header = Header::new(core, seed, machine.disk.journal(), origin, Detail::Inputs);
        let recorder = header
            .map_err(|error| error.to_string())
            .and_then(|header| Recorder::new(Vec::new(), &header, core).map_err(|error| error.to_string()));
        match recorder {
            Ok(recorder) => machine.recorder = Some(Box::new(recorder)),
            Err(error) => self.fail("replay", Some(host), format!("the node cannot be recorded: {error}")),
        }
    }

    /// Ends a node's recording, if there is one, and replays it alone.
    pub(super) fn end_recording(&mut self, host: u32) {
        let Some(recorder) = self.hosts[host as usize].recorder.take() else { return };
        let (life, node) = (self.hosts[host as usize].life, host);
        let bytes = match recorder.finish() {
            Ok((bytes, _)) => bytes,
            Err(error) => return self.fail("replay", Some(host), error.to_string()),
        };
        let replayed = match Reader::new(Cursor::new(&bytes[..])) {
            Ok(mut reader) => replay(&mut reader),
            Err(error) => return self.fail("replay", Some(host), error.to_string()),
        };
        // A node that failed in the world fails in the replay too.
        if !replayed.is_equal() && self.failure.is_none() {
            self.fail("replay", Some(host), format!("alone, life {life} of the node went another way: {replayed}"));
        }
        if self.recording == Recording::Kept {
            self.traces.push(LifeTrace { node, life, bytes });
        }
    }
}
