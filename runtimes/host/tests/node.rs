//! A node from its founding to its second life, with every real part: directory, keys, store, worker, core.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use neuroshard_core::{Command, Core, Event, Input, Misuse, Operator, Outbox};
use neuroshard_host::clock::Clock;
use neuroshard_host::data::Embedded;
use neuroshard_host::home::{Home, HomeError, Visit};
use neuroshard_host::network::{Expected, Founding, Network, NetworkError, Source};
use neuroshard_host::node::{Cause, Ended, Handle, Node, Report, Setup, Tap};
use neuroshard_host::peers::Link;
use neuroshard_host::runtime::Runtime;
use neuroshard_host::status::{Follower, LossScale, Status};
use neuroshard_host::throttle::Throttle;
use neuroshard_host::worker::EngineFactory;
use neuroshard_proto::{Hash, ModelSpec, Params, Preset, Step, Time, TrainSpec};
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::reference::Reference;

use crate::common::Threads;

fn toy() -> (ModelSpec, TrainSpec) {
    let (model, training) = Preset::Nano.specs();
    (
        ModelSpec { layers: 1, hidden: 16, heads: 2, kv_heads: 1, ffn: 16, context: 16, ..model },
        TrainSpec { batch: 2, sequence: 16, ..training },
    )
}

fn text() -> Vec<u8> {
    (0..20_000_u32).map(|i| b'a' + (i * i % 23) as u8).collect()
}

fn source(text: &[u8]) -> Source<'_> {
    Source::Book(Embedded(vec![("text", text)]))
}

/// A node's belongings and its network.
struct Scene {
    home: Home,
    network: Network,
}

impl Scene {
    fn open(root: &Path) -> Self {
        let (home, network) = Home::open(root, u64::MAX).unwrap();
        let network = network.unwrap_or_else(|| {
            let (model, training) = toy();
            let text = text();
            let (seed, founders) = (Hash::of_blob(b"seed"), vec![home.founder()].try_into().unwrap());
            let (params, source) = (Params::DEFAULT, source(&text));
            let founding = Founding {
                model,
                training,
                params,
                seed,
                source,
                founders,
                allocations: Default::default(),
                first: None,
            };
            home.found(&founding, &mut |_, _| {}).unwrap().0
        });
        Self { home, network }
    }

    fn core(&self, change: impl FnOnce(&mut Operator)) -> Core {
        let mut operator = Operator::new(1 << 30, 1 << 30);
        change(&mut operator);
        self.home.restore(&self.network, operator).unwrap().0
    }

    fn node(&self, core: Core, tap: Option<Box<dyn Tap>>) -> (Node, Handle, Reports) {
        let factory: EngineFactory = Box::new(|| Ok(Box::new(Reference::<false>::default()) as Box<dyn Engine>));
        let status = Status::new(&self.network, self.home.keys.node_id().to_string(), String::new());
        let setup = Setup {
            core,
            clock: Clock::start(self.network.genesis.created_unix_ms),
            store: Arc::clone(&self.home.store),
            engine: Box::new(Reference::<false>::default()),
            factory,
            throttle: Throttle::default(),
            tap,
            follower: Follower::new(status, LossScale::new(&self.network.manifest)),
            owner: self.home.keys.owner_id(),
            signer: Box::new(self.home.keys.signer()),
            link: Link::nobody_else(),
        };
        Node::new(setup).unwrap()
    }
}

type Reports = async_channel::Receiver<Report>;

fn events(reports: &Reports) -> Vec<Event> {
    let reports = std::iter::from_fn(|| reports.try_recv().ok());
    let events = reports.filter_map(|report| if let Report::Event { event, .. } = report { Some(event) } else { None });
    events.collect()
}

/// Runs a life of so many steps since genesis; answers with its end and the root it saved.
fn live(root: &Path, steps: u64) -> (Ended, Hash, Vec<Event>) {
    let scene = Scene::open(root);
    let (node, _handle, reports) = scene.node(scene.core(|operator| operator.steps = Some(steps)), None);
    let ended = Threads.block_on(node.run(&Threads)).unwrap();
    let events = events(&reports);
    let saved = events.iter().rev().find_map(|event| match event {
        Event::Saved { root, .. } => Some(*root),
        _ => None,
    });
    (ended, saved.expect("a life saves before it ends"), events)
}

#[test]
fn two_lives_of_three_steps_are_one_of_six() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ended, first, events) = live(dir.path(), 3);
    assert_eq!(ended, Ended { step: Step(3), saved: Some(Step(3)), cause: Cause::Done });
    assert!(events.iter().any(|event| matches!(event, Event::HeldOut { step: Step(3), .. })));
    let (ended, six, events) = live(dir.path(), 6);
    assert_eq!(ended.step, Step(6));
    let from = events.iter().find_map(|event| match event {
        Event::StateReady { step, root } => Some((*step, *root)),
        _ => None,
    });
    assert_eq!(from, Some((Step(3), first)));
    assert_eq!(live(other.path(), 6).1, six);
    assert_ne!(first, six);
}

#[test]
fn a_command_to_stop_saves_what_was_learned() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let (node, handle, reports) = scene.node(scene.core(|_| {}), None);
    let watch = std::thread::spawn(move || {
        while let Ok(report) = reports.recv_blocking() {
            if matches!(report, Report::Event { event: Event::Stepped { step: Step(2), .. }, .. }) {
                assert!(handle.command(Command::Stop));
            }
        }
    });
    let ended = Threads.block_on(node.run(&Threads)).unwrap();
    watch.join().unwrap();
    assert!(ended.step >= Step(2) && ended.saved == Some(ended.step), "{ended:?}");
    let saved = scene.core(|_| {}).saved_states().last().map(|state| state.snapshot.step);
    assert_eq!(saved, Some(ended.step));
}

#[test]
fn old_snapshots_are_collected_and_what_is_named_stays() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let shards = scene.home.store.bytes_used();
    let core = scene.core(|operator| {
        // Enough of them that the disk has time for three snapshots, however slow it is.
        operator.steps = Some(150);
        operator.snapshot_every_steps = 1;
        operator.snapshot_share = neuroshard_proto::Ratio::ONE;
    });
    let (node, _handle, reports) = scene.node(core, None);
    Threads.block_on(node.run(&Threads)).unwrap();
    let saves: Vec<u64> = events(&reports)
        .iter()
        .filter_map(|event| if let Event::Saved { bytes, .. } = event { Some(*bytes) } else { None })
        .collect();
    assert!(saves.len() > 2, "{saves:?}");
    let core = scene.core(|_| {});
    assert_eq!(scene.home.store.bytes_used(), shards + 2 * saves[0]);
    // Votes and blocks are facts too, and are trimmed when the agreed state is written down anew.
    assert!(scene.home.store.journal_len().unwrap() < 1024);
    for hash in core.pinned() {
        assert!(scene.home.store.get(&hash).is_ok());
    }
}

#[test]
fn a_start_removes_what_a_crash_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path(), 2);
    let scene = Scene::open(dir.path());
    // A snapshot's blob whose journal record was still on the way.
    let orphan = scene.home.store.put(b"orphan").unwrap();
    let core = scene.core(|_| {});
    assert!(!scene.home.store.contains(&orphan).unwrap());
    for hash in core.pinned().into_iter().chain(scene.network.manifest.shards.iter().map(|shard| shard.hash)) {
        assert!(scene.home.store.get(&hash).is_ok());
    }
}

#[test]
fn a_visitor_reads_beside_the_owner_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new");
    assert!(matches!(Visit::open(&root), Err(HomeError::Directory(_))));
    assert!(!root.exists());
    let (_, saved, _) = live(&root, 2);
    let visit = Visit::open(&root).unwrap();
    let status = visit.status();
    assert_eq!(status.saved.map(|saved| saved.root), Some(saved.to_string()));
    assert_eq!((status.step, status.tokens, status.running), (2, 64, false));
}

#[test]
fn keys_of_a_network_are_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path(), 1);
    std::fs::remove_file(dir.path().join("keys/node")).unwrap();
    assert!(matches!(Home::open(dir.path(), u64::MAX), Err(HomeError::Keys(_))));
    assert!(!dir.path().join("keys/node").exists());
}

#[test]
fn a_disk_budget_that_holds_no_two_snapshots_is_refused_with_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let error = scene.home.restore(&scene.network, Operator::new(1 << 30, 1000)).unwrap_err();
    assert!(error.to_string().contains("leaves 1000 bytes for them. Allow more with --disk"), "{error}");
}

#[derive(Clone, Default)]
struct Counting(Arc<Mutex<(Vec<&'static str>, bool)>>);

impl Tap for Counting {
    fn step(&mut self, core: &mut Core, now: Time, input: Input, out: &mut Outbox) -> Result<(), Misuse> {
        self.0.lock().unwrap().0.push(input.name());
        core.step(now, input, out)
    }

    fn flush_due(&self) -> Option<Time> {
        None
    }

    fn flush(&mut self) {}

    fn trouble(&mut self) -> Option<String> {
        None
    }

    fn finish(&mut self) {
        self.0.lock().unwrap().1 = true;
    }
}

#[test]
fn a_tap_sees_every_input_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let tap = Counting::default();
    let (node, handle, _reports) =
        scene.node(scene.core(|operator| operator.steps = Some(2)), Some(Box::new(tap.clone())));
    Threads.block_on(node.run(&Threads)).unwrap();
    let (inputs, finished) = &*tap.0.lock().unwrap();
    assert!(*finished);
    let count = |name| inputs.iter().filter(|input| **input == name).count();
    // Benchmark, first weights, two batches, two steps, evaluation, snapshot.
    assert!(count("computed") >= 8 && count("persisted") >= 1 && count("tick") >= 1, "{inputs:?}");
    let metrics = handle.live.metrics.text();
    assert!(metrics.contains(&format!("neuroshard_core_inputs_total{{kind=\"computed\"}} {}", count("computed"))));
    assert!(metrics.contains("neuroshard_steps_total 2\n"), "{metrics}");
}

#[test]
fn the_status_follows_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let (node, handle, _reports) = scene.node(scene.core(|operator| operator.steps = Some(3)), None);
    Threads.block_on(node.run(&Threads)).unwrap();
    let status = handle.live.status();
    assert_eq!((status.step, status.tokens), (3, 3 * 32));
    let loss = status.loss.unwrap();
    assert!((loss.nats - 266_f64.ln()).abs() < 0.2, "{loss:?}");
    assert!((loss.bits_per_byte / loss.nats - 1.0 / std::f64::consts::LN_2).abs() < 0.01, "{loss:?}");
    assert_eq!(status.saved.as_ref().map(|saved| saved.step), Some(3));
    assert_eq!((status.mode.as_deref(), status.running), (Some("solo"), false));
    assert_eq!(status.held_out.map(|loss| loss.step), Some(3));
}

#[test]
fn a_network_keeps_its_model_seed_and_data() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let paths = scene.home.paths();
    let check = |expected: Expected| scene.network.check(paths, &expected);
    check(Expected { model: Some(toy()), seed: Some(Hash::of_blob(b"seed")), source: Some("book".into()) }).unwrap();
    check(Expected::default()).unwrap();
    let error = check(Expected { model: Some(Preset::Micro.specs()), ..Expected::default() }).unwrap_err();
    assert!(error.to_string().contains("and `micro` was asked for"), "{error}");
    assert!(error.to_string().contains("leave out --preset"), "{error}");
    assert!(check(Expected { seed: Some(Hash::default()), ..Expected::default() }).is_err());
    assert!(check(Expected { source: Some("synthetic".into()), ..Expected::default() }).is_err());
}

#[test]
fn a_damaged_network_file_is_told_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path());
    let path = scene.home.paths().network();
    let whole = std::fs::read(&path).unwrap();
    for damage in [0, 100, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[damage] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Network::read(scene.home.paths()), Err(NetworkError::Damaged { .. })), "{damage}");
    }
    std::fs::write(&path, &whole[..20]).unwrap();
    let error = Network::read(scene.home.paths()).unwrap_err().to_string();
    assert!(error.contains("cut short") && error.contains("Copy a backup"), "{error}");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(Network::read(scene.home.paths()).unwrap(), Some(scene.network));
}
