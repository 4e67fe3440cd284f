//! Stages of the model that others persisted (PROTOCOL §4): taking them up where this node is to go on with them, and copies
//! of what a neighbour persisted, so that no stage is lost with its node.
//!
//! Until cohorts agree on anchors, the ledger says what members persisted, and at which step all stages of the model are
//! there. The bytes come blob by blob from whoever may have them and are checked by their hashes on the way; the executor
//! checks the whole against the agreed roots when it takes them up.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use neuroshard_proto::{
    Hash, LayerBlobs, LayerIndex, LayerRange, List, ModelSpec, NodeId, Position, RequestId, Snapshot, Step, Time,
};
use serde::Serialize;

use super::shelf::Shelf;
use crate::config::Config;
use crate::cx::Cx;
use crate::io::{Event, FetchFault, Output, TimerKind};
use crate::journal::{Progress, SavedState};
use crate::ledger::Ledger;

/// Blobs fetched at a time.
const FETCHES_MAX: usize = 2;
/// Anchors that are remembered.
const ANCHORS_KEPT: usize = 2;
/// Rests after which an anchor is given up for an older one.
const RESTS_MAX: u32 = 4;
/// How long a node rests when nobody had a blob.
const REST_MS: u64 = 2000;
/// How long an anchor is left alone of which some stage could not be had.
const BARREN_MS: u64 = 30_000;

/// Stages that a node persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Posted {
    pub(crate) holder: NodeId,
    pub(crate) range: LayerRange,
    pub(crate) layers: Vec<LayerBlobs>,
}

/// The whole model after a step, as its members persisted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Anchor {
    pub(crate) step: Step,
    pub(crate) progress: Progress,
    /// In the order of their stages.
    pub(crate) posts: Vec<Posted>,
}

impl Anchor {
    fn stage(&self, stage: LayerIndex) -> Option<LayerBlobs> {
        let post = self.posts.iter().find(|post| post.range.contains(stage))?;
        let place = stage.0.checked_sub(post.range.start)?;
        post.layers.get(usize::try_from(place).ok()?).copied()
    }

    /// Those who may have a stage: who posted it, then those after it, which keep copies for it.
    fn holders(&self, range: LayerRange, own: &NodeId) -> Vec<NodeId> {
        let first = self.posts.iter().position(|post| post.range.contains(LayerIndex(range.start))).unwrap_or_default();
        let (before, from) = self.posts.split_at(first);
        from.iter().chain(before).map(|post| post.holder).filter(|holder| holder != own).collect()
    }
}

/// What is being fetched.
#[derive(Clone, Debug, Serialize)]
struct Errand {
    /// Whether this node is to train these stages, or keeps them for another.
    own: bool,
    state: SavedState,
    wanted: VecDeque<Hash>,
    /// What was asked for, and how many holders did not have it.
    #[serde(serialize_with = "crate::cx::as_pairs")]
    asked: BTreeMap<RequestId, Hash>,
    #[serde(serialize_with = "crate::cx::as_pairs")]
    tries: BTreeMap<Hash, usize>,
    came: Vec<Hash>,
    holders: Vec<NodeId>,
    rests_until: Time,
    /// How often nobody had what was asked for.
    rests: u32,
}

/// See the module.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Holding {
    /// The newest last.
    anchors: Vec<Anchor>,
    errand: Option<Box<Errand>>,
    /// Anchors of which nobody gave some stage, and until when they are left alone: their holders went before anybody had a
    /// copy, or cannot be reached for a while.
    #[serde(serialize_with = "crate::cx::as_pairs")]
    barren: BTreeMap<Step, Time>,
}

impl Holding {
    /// The steps from which others' stages can be had.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> {
        self.anchors.iter().map(|anchor| anchor.step).filter(|step| !self.barren.contains_key(step))
    }

    /// The newest step of which this node knows that all stages were posted, some of them perhaps by itself.
    pub(crate) fn anchor(&self) -> Option<Step> {
        self.anchors.last().map(|anchor| anchor.step)
    }

    /// Whether members posted anything beyond the first step.
    pub(crate) fn knows_more(&self) -> bool {
        self.anchors.iter().any(|anchor| anchor.step > Step(0))
    }

    /// The ledger has moved on; whether there is a newer anchor. Weights that a founder brought along are the first one.
    pub(crate) fn learn(&mut self, config: &Config, ledger: &Ledger) -> bool {
        let genesis = &config.genesis;
        let first = genesis.first.as_ref().zip(genesis.founders.first()).map(|(snapshot, founder)| {
            let (range, layers) = (genesis.model.all_layers(), snapshot.layers.to_vec());
            let posts = vec![Posted { holder: founder.node, range, layers }];
            Anchor { step: Step(0), progress: Progress::default(), posts }
        });
        let step = ledger.anchor().map(|anchor| anchor.step);
        let known = self.anchors.last().map(|anchor| anchor.step);
        if step.or(first.as_ref().map(|first| first.step)) == known {
            return false;
        }
        self.anchors.extend(agreed(ledger, genesis.model.all_layers()).or(first));
        // The one before is kept for those who take it up just now.
        self.anchors.drain(..self.anchors.len().saturating_sub(ANCHORS_KEPT));
        true
    }

    /// Begins to fetch what is missing of these stages after a step, to go on with them; false if nobody is known to have
    /// persisted them.
    pub(crate) fn take_up(&mut self, cx: &mut Cx<'_>, shelf: &Shelf, range: LayerRange, step: Step) -> bool {
        let same = |errand: &Errand| errand.own && (errand.state.range, errand.state.snapshot.step) == (range, step);
        if self.errand.as_deref().is_some_and(same) {
            return true;
        }
        let anchor = self.anchors.iter().find(|anchor| anchor.step == step);
        let layer = |stage| shelf.stage(stage, step).or_else(|| anchor.and_then(|anchor| anchor.stage(stage)));
        let Some(layers) = range.iter().map(layer).collect::<Option<Vec<LayerBlobs>>>() else { return false };
        let kept = shelf.states().iter().find(|state| state.snapshot.step == step);
        let Some(progress) = anchor.map(|anchor| anchor.progress).or(kept.map(|state| state.progress)) else {
            return false;
        };
        let holders = anchor.map(|anchor| anchor.holders(range, &cx.config.node)).unwrap_or_default();
        let Some(state) = assemble(&cx.config.genesis.model, range, step, layers, progress) else { return false };
        let pinned = shelf.pinned();
        let missing =
            state.snapshot.layers.iter().any(|one| !pinned.contains(&one.weights) || !pinned.contains(&one.moments));
        if missing && holders.is_empty() {
            self.leave_alone(cx, step);
            return false;
        }
        self.begin(cx, shelf, true, state, holders);
        true
    }

    /// Begins to copy what a member posted, if there is no such copy yet and nothing else of that step is under way. What is
    /// older is given up: its holders may have it no longer.
    pub(crate) fn copy(&mut self, cx: &mut Cx<'_>, shelf: &Shelf, range: LayerRange) {
        let Some(anchor) = self.anchors.last() else { return };
        let busy = |errand: &Errand| errand.own || errand.state.snapshot.step >= anchor.step;
        if self.errand.as_deref().is_some_and(busy) || shelf.has_copy(range, anchor.step) {
            return;
        }
        let Some(layers) = range.iter().map(|stage| anchor.stage(stage)).collect::<Option<Vec<_>>>() else { return };
        let (progress, holders) = (anchor.progress, anchor.holders(range, &cx.config.node));
        let Some(state) = assemble(&cx.config.genesis.model, range, anchor.step, layers, progress) else { return };
        self.begin(cx, shelf, false, state, holders);
    }

    fn begin(&mut self, cx: &mut Cx<'_>, shelf: &Shelf, own: bool, state: SavedState, holders: Vec<NodeId>) {
        self.give_up(cx, shelf);
        let pinned = shelf.pinned();
        let blobs = state.snapshot.layers.iter().flat_map(|layer| [layer.weights, layer.moments]);
        let mut wanted: VecDeque<Hash> = VecDeque::new();
        for hash in blobs.filter(|hash| !pinned.contains(hash)) {
            // Stages may share a blob: the first moments are all zero.
            if !wanted.contains(&hash) {
                wanted.push_back(hash);
            }
        }
        let (asked, tries) = (BTreeMap::new(), BTreeMap::new());
        let came = Vec::new();
        let errand = Errand { own, state, wanted, asked, tries, came, holders, rests_until: Time::ZERO, rests: 0 };
        self.errand = Some(Box::new(errand));
    }

    /// Asks for what comes next, and gives what is complete.
    pub(crate) fn go_on(&mut self, cx: &mut Cx<'_>) -> Option<(bool, SavedState)> {
        let errand = self.errand.as_mut()?;
        if errand.wanted.is_empty() && errand.asked.is_empty() {
            return self.errand.take().map(|errand| (errand.own, errand.state));
        }
        if errand.holders.is_empty() || cx.now < errand.rests_until {
            return None;
        }
        while errand.asked.len() < FETCHES_MAX {
            let Some(hash) = errand.wanted.pop_front() else { break };
            let tries = errand.tries.get(&hash).copied().unwrap_or_default();
            let place = tries.checked_rem(errand.holders.len()).unwrap_or_default();
            let Some(from) = errand.holders.get(place).copied() else { break };
            let id = cx.requests.issue();
            errand.asked.insert(id, hash);
            cx.out.push(Output::Fetch { id, hash, from, keep: true });
        }
        None
    }

    /// A fetch ended; whether it was one of these.
    pub(crate) fn on_fetched(&mut self, cx: &mut Cx<'_>, id: RequestId, result: Result<(), FetchFault>) -> bool {
        let Some(errand) = &mut self.errand else { return false };
        let Some(hash) = errand.asked.remove(&id) else { return false };
        match result {
            Ok(()) => errand.came.push(hash),
            Err(fault) => {
                let tries = errand.tries.entry(hash).or_default();
                *tries = tries.saturating_add(1);
                if tries.checked_rem(errand.holders.len()) == Some(0) {
                    // Nobody has it now. It may be that one is away, or that it is gone.
                    errand.rests_until = cx.now.after_ms(REST_MS);
                    errand.rests = errand.rests.saturating_add(1);
                    cx.timers.set(TimerKind::Retry, Some(errand.rests_until));
                    let (step, stages) = (errand.state.snapshot.step, errand.state.range);
                    cx.event(Event::StagesMissing { step, stages, blob: hash, fault });
                }
                errand.wanted.push_back(hash);
            }
        }
        true
    }

    /// Gives up an anchor of which stages that this node is to train are not to be had; whether it did so now.
    pub(crate) fn despair(&mut self, cx: &mut Cx<'_>, shelf: &Shelf) -> bool {
        let hopeless = |errand: &Errand| errand.own && errand.rests >= RESTS_MAX;
        let Some(step) =
            self.errand.as_deref().filter(|errand| hopeless(errand)).map(|errand| errand.state.snapshot.step)
        else {
            return false;
        };
        self.give_up(cx, shelf);
        self.leave_alone(cx, step);
        true
    }

    fn leave_alone(&mut self, cx: &Cx<'_>, step: Step) {
        self.barren.insert(step, cx.now.after_ms(BARREN_MS));
        while self.barren.len() > ANCHORS_KEPT {
            self.barren.pop_first();
        }
    }

    /// Tries again what was left alone for long enough: whoever has it may be there by now.
    pub(crate) fn forgive(&mut self, now: Time) {
        self.barren.retain(|_, until| now < *until);
    }

    /// Ends what is under way: other stages are wanted now.
    pub(crate) fn give_up(&mut self, cx: &mut Cx<'_>, shelf: &Shelf) {
        if let Some(errand) = self.errand.take() {
            let pinned = shelf.pinned();
            for hash in errand.came.into_iter().filter(|hash| !pinned.contains(hash)) {
                cx.out.push(Output::Drop { hash });
            }
        }
    }
}

/// The anchor that the ledger has.
fn agreed(ledger: &Ledger, all: LayerRange) -> Option<Anchor> {
    let anchor = ledger.anchor()?;
    let Position { batch, tokens, voids } = anchor.position;
    let mut posts: Vec<Posted> = Vec::new();
    for (stage, post) in all.iter().zip(ledger.anchored(all)) {
        match posts.last_mut().filter(|last| last.holder == post.node) {
            Some(last) => {
                last.range.end = last.range.end.saturating_add(1);
                last.layers.push(post.blobs);
            }
            None => {
                let range = LayerRange { start: stage.0, end: stage.0.saturating_add(1) };
                posts.push(Posted { holder: post.node, range, layers: vec![post.blobs] });
            }
        }
    }
    Some(Anchor { step: anchor.step, progress: Progress { batch, tokens, voids, trained_ms: 0 }, posts })
}

/// A state made of stages that several nodes may have persisted.
fn assemble(
    model: &ModelSpec,
    range: LayerRange,
    step: Step,
    layers: Vec<LayerBlobs>,
    progress: Progress,
) -> Option<SavedState> {
    let snapshot = Snapshot::of_stages(step, List::try_from(layers).ok()?, model.held_bytes(range));
    Some(SavedState { range, snapshot, progress })
}
