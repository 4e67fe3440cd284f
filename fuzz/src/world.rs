//! A core and all that is around it: a host that is honest unless told otherwise, its disk, its executor, and what must
//! hold after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use ed25519_dalek::Signer as _;
use neuroshard_core::{Config, Core, Event, Input, MAX_OUTPUTS, Misuse, Outbox, Output, RestoreError};
use neuroshard_proto::{
    BatchOutcome, Commitment, F32, Fault, Hash, Job, JournalSeq, LayerBlobs, Mode, RequestId, Signature, Snapshot,
    Step, Time, codec,
};
use neuroshard_replay::{Detail, Header, Reader, Recorder, replay};

/// Most requests that a core may have open.
const JOBS_MAX: usize = 16;
/// Turns after which an honest world must have gone on.
const SETTLE_TURNS_MAX: u32 = 10_000;
/// Most bytes that the state of a core with a small model may take.
const STATE_BYTES_MAX: usize = 64 << 10;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Records that were written.
    journal: BTreeMap<JournalSeq, Vec<u8>>,
    /// Records before this one are durable.
    durable: JournalSeq,
    blobs: BTreeSet<Hash>,
}

impl Disk {
    /// The core that these durable records and the first `more` others make.
    fn restore(&self, config: &Config, more: usize) -> Result<Core, RestoreError> {
        let durable = self.journal.range(..self.durable);
        let records = durable.chain(self.journal.range(self.durable..).take(more));
        Core::restore(config.clone(), Hash::of_blob(b"the fuzzed node"), records.map(|(_, record)| record))
    }

    /// What a crash leaves: the durable records and the first `more` others.
    pub(crate) fn crash(mut self, more: usize) -> Self {
        if let Some((first_lost, _)) = self.journal.range(self.durable..).nth(more) {
            let first_lost = *first_lost;
            drop(self.journal.split_off(&first_lost));
        }
        // What survived is durable now.
        self.durable = self.journal.last_key_value().map_or(JournalSeq(0), |(last, _)| last.next());
        self
    }
}

/// One life of a node, from a start to a crash.
pub(crate) struct World {
    pub(crate) core: Core,
    /// Takes the same inputs and must stay equal.
    twin: Core,
    config: Config,
    pub(crate) now: Time,
    pub(crate) disk: Disk,
    /// What was asked of the executor and not answered, in order.
    pub(crate) jobs: Vec<(RequestId, Job)>,
    /// The step of the state that the executor holds.
    resident: Option<Step>,
    stopped: bool,
    steps_heard: u64,
    /// Streams and gradients that answers spoke of: an executor that made them holds them until they are dropped.
    passing: Vec<Hash>,
    /// What is to be signed.
    unsigned: Vec<(RequestId, Hash)>,
    outbox: Outbox,
    recorder: Recorder<Vec<u8>>,
}

impl World {
    /// Starts a node; `None` if its configuration is refused.
    ///
    /// # Panics
    /// If a journal that a core wrote is refused.
    pub(crate) fn start(config: &Config, disk: Disk, now: Time, detail: Detail) -> Option<Self> {
        let core = match disk.restore(config, 0) {
            Ok(core) => core,
            Err(RestoreError::Genesis(_) | RestoreError::DiskBudget { .. }) => return None,
            Err(error) => panic!("a core's own journal is refused: {error}"),
        };
        assert!(core.pinned().is_subset(&disk.blobs), "every blob that a fact names is there");
        let header = Header::new(&core, Hash::of_blob(b"the fuzzed node"), disk.journal.values(), now, detail);
        let recorder = Recorder::new(Vec::new(), &header.expect("a short journal"), &core).expect("memory");
        let (twin, config) = (core.clone(), config.clone());
        let (jobs, outbox) = (Vec::new(), Outbox::default());
        let mut world = Self {
            core,
            twin,
            config,
            now,
            disk,
            jobs,
            resident: None,
            stopped: false,
            steps_heard: 0,
            passing: Vec::new(),
            unsigned: Vec::new(),
            outbox,
            recorder,
        };
        world.step(Input::Tick);
        Some(world)
    }

    /// Feeds an input that no host may be refused, and checks everything.
    pub(crate) fn step(&mut self, input: Input) {
        let taken = self.recorder.step(&mut self.core, self.now, input.clone(), &mut self.outbox);
        assert_eq!(taken, Ok(()), "no input of an honest host is refused");
        let mut outbox = Outbox::default();
        assert_eq!(self.twin.step(self.now, input, &mut outbox), Ok(()));
        assert!(self.outbox.iter().eq(outbox.iter()), "equal cores give equal outputs");
        assert_eq!(self.core.state_hash(), self.twin.state_hash(), "equal cores stay equal");
        assert!(self.outbox.iter().len() <= MAX_OUTPUTS, "outputs are bounded");
        if !self.outbox.is_empty() {
            self.refuse_full_outbox();
        }
        let mut facts_moved = false;
        while let Some(output) = self.outbox.pop() {
            facts_moved |= self.obey(output);
        }
        if facts_moved {
            self.check_facts();
        }
        assert!(self.jobs.len() <= JOBS_MAX, "open requests are bounded");
    }

    /// An outbox that is not empty may be too full for a step, and then nothing happens.
    fn refuse_full_outbox(&mut self) {
        let (before, len) = (self.core.state_hash(), self.outbox.iter().len());
        let refused = self.core.step(self.now, Input::Tick, &mut self.outbox);
        assert!(matches!(refused, Err(Misuse::OutboxFull { .. })));
        assert_eq!((self.core.state_hash(), self.outbox.iter().len()), (before, len), "a refused step changes nothing");
    }

    /// Feeds what only a broken host would, and wants it refused without a trace.
    pub(crate) fn misuse(&mut self, choice: u8) {
        let before = self.core.state_hash();
        let beyond =
            |seq: JournalSeq| Input::Persisted { upto: JournalSeq(seq.0.saturating_add(u64::from(choice) << 3)) };
        let written = self.disk.journal.last_key_value().map(|(last, _)| last.next());
        let (now, input) = match (choice & 1, self.core.now().as_ms().checked_sub(1)) {
            (0, Some(earlier)) => (Time::from_ms(earlier), Input::Tick),
            _ => (self.now, beyond(written.unwrap_or(JournalSeq(0)))),
        };
        let mut outbox = Outbox::default();
        assert!(self.core.step(now, input, &mut outbox).is_err(), "misuse is refused");
        assert!(outbox.is_empty(), "a refused step gives nothing");
        assert_eq!(self.core.state_hash(), before, "a refused step changes nothing");
    }

    /// Does what the core asks; answers whether durable facts, or what rests on them, may have moved.
    fn obey(&mut self, output: Output) -> bool {
        match output {
            Output::Persist { seq, record } => {
                assert!(self.disk.journal.insert(seq, record.into_vec()).is_none(), "a record is written once");
                true
            }
            Output::Compute { id, job, deadline } => {
                assert!(deadline >= self.now, "a deadline is not in the past");
                let work = !matches!(job, Job::Benchmark { .. });
                assert!(!(self.stopped && work), "a node that has stopped asks for nothing more");
                assert!(self.jobs.iter().all(|(open, _)| *open < id), "ids are not used again");
                let twice = self.jobs.iter().any(|(_, open)| open.name() == job.name());
                assert!(!twice, "{} is asked for before the last one was answered or given up", job.name());
                if let Job::Train { step, batch, .. } = &job {
                    let drawn = step.0.saturating_add(self.core.progress().voids);
                    assert_eq!(batch.0, drawn, "batches are drawn in order, each for one step unless it is void");
                }
                self.jobs.push((id, job));
                false
            }
            Output::Cancel { id } => {
                self.jobs.retain(|(open, _)| *open != id);
                false
            }
            Output::Sign { id, digest } => {
                assert!(self.unsigned.iter().all(|(open, _)| *open != id), "ids are not used again");
                self.unsigned.push((id, digest));
                false
            }
            Output::Send { .. } | Output::Publish { .. } => false,
            Output::Fetch { .. } => panic!("a node alone needs no blobs of others"),
            Output::Drop { hash } => {
                match self.passing.iter().position(|passing| *passing == hash) {
                    Some(place) => drop(self.passing.remove(place)),
                    None => assert!(self.disk.blobs.remove(&hash), "only stored blobs are dropped, and once"),
                }
                true
            }
            Output::Trim { before } => {
                let last = self.disk.journal.range(..self.disk.durable).next_back().map(|(last, _)| *last);
                assert!(last.is_some_and(|last| before <= last), "a superseding record is durable before the old go");
                let saved = self.restored().saved_states().to_vec();
                self.disk.journal = self.disk.journal.split_off(&before);
                assert_eq!(self.restored().saved_states(), saved, "superseded records say nothing new");
                true
            }
            Output::Event(event) => {
                self.hear(&event);
                false
            }
        }
    }

    /// Events that announce durable facts do not come before them. Another state may have superseded the announced one
    /// meanwhile, but none before it.
    fn hear(&mut self, event: &Event) {
        let durable =
            |world: &Self, step: Step| world.restored().saved_states().iter().any(|state| state.snapshot.step >= step);
        match event {
            Event::Saved { step, .. } => assert!(durable(self, *step), "step {step} is announced and not durable"),
            Event::Stopped { saved, .. } => {
                assert!(saved.is_none_or(|step| durable(self, step)), "a step is called saved and is not durable");
                self.stopped = true;
            }
            Event::Stepped { .. } => self.steps_heard += 1,
            _ => {}
        }
    }

    /// The core that a crash at this moment would leave.
    fn restored(&self) -> Core {
        self.disk.restore(&self.config, 0).expect("a core's own journal is accepted")
    }

    /// A crash at this moment leaves a node whose every blob is there, whatever of the undurable survives.
    fn check_facts(&self) {
        let undurable = self.disk.journal.range(self.disk.durable..).count();
        for more in 0..=undurable {
            let core = self.disk.restore(&self.config, more).expect("a core's own journal is accepted");
            assert!(core.pinned().is_subset(&self.disk.blobs), "a fact names a blob that was dropped");
        }
    }

    /// The disk has synced all, or the oldest record that was not.
    pub(crate) fn sync(&mut self, one: bool) {
        let mut waiting = self.disk.journal.range(self.disk.durable..).map(|(seq, _)| *seq);
        let upto = if one { waiting.next() } else { waiting.next_back() };
        if let Some(upto) = upto {
            self.disk.durable = upto.next();
            self.step(Input::Persisted { upto });
        }
    }

    /// Signs what the core wants signed, the newest first if `late`.
    pub(crate) fn sign(&mut self, late: bool) {
        if self.unsigned.is_empty() {
            return;
        }
        let place = if late { self.unsigned.len() - 1 } else { 0 };
        let (id, digest) = self.unsigned.remove(place);
        let signature = Signature(crate::node::key(0).sign(digest.as_bytes()).to_bytes());
        self.step(Input::Signed { id, signature });
    }

    /// Reports once more what was durable long ago.
    pub(crate) fn sync_again(&mut self, back: u64) {
        if let Some(last) = self.disk.durable.0.checked_sub(1) {
            self.step(Input::Persisted { upto: JournalSeq(last.saturating_sub(back)) });
        }
    }

    /// The executor does a job as an honest one would.
    pub(crate) fn answer(&mut self, place: usize) {
        if place < self.jobs.len() {
            let (id, job) = self.jobs.remove(place);
            let result = self.execute(&job);
            self.step(Input::Computed { id, result });
        }
    }

    /// The executor does a job without looking whether it holds the state for it.
    pub(crate) fn answer_blindly(&mut self, place: usize) {
        if let Some((_, Job::Train { step, .. } | Job::Step { step, .. } | Job::Evaluate { step, .. })) =
            self.jobs.get(place)
        {
            self.resident = Some(*step);
        }
        self.answer(place);
    }

    /// The executor answers a job with something made up.
    pub(crate) fn answer_with(&mut self, result: impl FnOnce(&Job) -> Result<Commitment, Fault>) {
        if self.jobs.is_empty() {
            return;
        }
        let (id, job) = self.jobs.remove(0);
        let result = result(&job);
        self.passing.extend(result.iter().filter_map(Commitment::passing));
        self.accept(&result);
        self.step(Input::Computed { id, result });
    }

    /// Answers a question that may not be open.
    pub(crate) fn answer_as(&mut self, id: RequestId, result: Result<Commitment, Fault>) {
        self.passing.extend(result.iter().filter_map(Commitment::passing));
        if self.jobs.iter().any(|(open, _)| *open == id) {
            self.jobs.retain(|(open, _)| *open != id);
            self.accept(&result);
        }
        self.step(Input::Computed { id, result });
    }

    /// Makes true what an answer to an open question says.
    fn accept(&mut self, result: &Result<Commitment, Fault>) {
        match result {
            Ok(Commitment::Snapshot(snapshot)) => self.store(snapshot),
            Ok(Commitment::Ready { step, .. } | Commitment::Step { step, .. }) => self.resident = Some(*step),
            Err(Fault::Device { .. }) => self.resident = None,
            Ok(_) | Err(_) => {}
        }
    }

    fn store(&mut self, snapshot: &Snapshot) {
        self.disk.blobs.extend(snapshot.layers.iter().flat_map(|layer| [layer.weights, layer.moments]));
    }

    fn execute(&mut self, job: &Job) -> Result<Commitment, Fault> {
        let at = self.resident;
        let wrong = |expected: Step| Fault::WrongStep { expected, at };
        let resident = |step: &Step| if at == Some(*step) { Ok(*step) } else { Err(wrong(*step)) };
        Ok(match job {
            Job::Init { .. } => {
                self.resident = Some(Step(0));
                Commitment::Ready { step: Step(0), root: root(Step(0)) }
            }
            Job::Load { snapshot, .. } => {
                self.resident = None;
                if let Some(hash) = blobs(snapshot).find(|hash| !self.disk.blobs.contains(hash)) {
                    return Err(Fault::BlobMissing { hash });
                }
                self.resident = Some(snapshot.step);
                Commitment::Ready { step: snapshot.step, root: snapshot.root }
            }
            Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 900 },
            Job::Train { step, batch, samples, .. } => {
                resident(step)?;
                Commitment::Batch(BatchOutcome::Done {
                    loss_micro: 5_000_000 - i64::try_from(batch.0).unwrap_or_default(),
                    tokens: samples.len() as u64,
                    squared_norms: vec![F32::ONE; self.stages()].try_into().expect("few stages"),
                })
            }
            Job::Step { step, .. } => {
                let step = resident(step)?.next();
                self.resident = Some(step);
                Commitment::Step { step, norm: F32::ONE }
            }
            Job::Evaluate { step, .. } => {
                Commitment::Evaluation { step: resident(step)?, loss_micro: Some(7), tokens: 2 }
            }
            Job::Snapshot { step } => {
                let snapshot = self.snapshot(resident(step)?, self.stages());
                self.store(&snapshot);
                Commitment::Snapshot(snapshot)
            }
            Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } => {
                return Err(Fault::bad_job("this executor trains whole models only"));
            }
        })
    }

    fn stages(&self) -> usize {
        self.config.genesis.model.all_layers().iter().count()
    }

    /// A snapshot whose addresses depend on its step alone, as those of an honest executor do.
    pub(crate) fn snapshot(&self, step: Step, stages: usize) -> Snapshot {
        let blob = |kind: &str, stage: usize| Hash::of_blob(format!("{kind} {stage} {step}").as_bytes());
        let layers = (0..stages).map(|stage| LayerBlobs {
            root: blob("r", stage),
            weights: blob("w", stage),
            moments: blob("m", stage),
        });
        let layers = layers.collect::<Vec<_>>().try_into().expect("few stages");
        Snapshot { step, root: root(step), layers, bytes: 1000 }
    }

    /// Lets an honest world go on, with the clock running to whatever the core waits for, until the node has trained
    /// three more steps or has stopped.
    ///
    /// # Panics
    /// If it does neither in a long time, though its configuration lets it.
    pub(crate) fn settle(&mut self) {
        let Config { genesis, operator, .. } = &self.config;
        let needed = genesis.model.training_bytes(genesis.model.all_layers());
        let fits = needed <= genesis.params.holding_share.of(operator.memory_bytes);
        if !fits || operator.mode.is_some_and(|mode| mode != Mode::Solo) {
            return;
        }
        let goal = self.steps_heard + 3;
        for _ in 0..SETTLE_TURNS_MAX {
            if self.stopped || self.steps_heard >= goal {
                return;
            }
            // Nobody signs meanwhile: training does not wait for agreement.
            self.sync(false);
            if !self.jobs.is_empty() {
                self.now = self.now.after_ms(5);
                self.answer(0);
            } else if let Some((at, _)) = self.core.next_deadline() {
                self.now = self.now.max(at);
                self.step(Input::Tick);
            } else {
                break;
            }
        }
        panic!("an honest world neither trains nor stops: {:#?}", self.core.parts());
    }

    /// Ends this life: what was recorded of it replays to the same end.
    pub(crate) fn end(self) -> Disk {
        let state = codec::encode(&self.core.parts()).len();
        assert!(state <= STATE_BYTES_MAX, "the state takes {state} bytes");
        let steps = self.recorder.steps();
        let disk = self.disk.clone();
        let mut reader = Reader::new(Cursor::new(self.into_trace())).expect("a recorded trace can be read");
        let report = replay(&mut reader);
        assert!(report.is_equal() && report.steps == steps, "{report}");
        disk
    }

    /// What was recorded of this life.
    pub(crate) fn into_trace(self) -> Vec<u8> {
        self.recorder.finish().expect("memory does not fail").0
    }
}

fn root(step: Step) -> Hash {
    Hash::of_blob(format!("root {step}").as_bytes())
}

fn blobs(snapshot: &Snapshot) -> impl Iterator<Item = Hash> {
    snapshot.layers.iter().flat_map(|layer| [layer.weights, layer.moments])
}
