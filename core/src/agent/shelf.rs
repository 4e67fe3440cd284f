//! The persisted states of the model that a node keeps: its own, the newest last, and copies of what others persisted
//! (PROTOCOL §4, §5). What a fact in the journal names stays in the blob store; the rest goes when the fact that no longer
//! names it is durable.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use neuroshard_proto::{Hash, JournalSeq, LayerBlobs, LayerIndex, LayerRange, List, ModelSpec, Snapshot, Step, mutant};
use serde::Serialize;

use crate::count::place;
use crate::cx::Cx;
use crate::io::{Event, Output};
use crate::journal::{COPIES_MAX, JournalFact, Keeper, SNAPSHOTS_MAX, SavedState};

/// See the module.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Shelf {
    states: Vec<SavedState>,
    copies: Vec<SavedState>,
    /// The journal record that names them.
    record: Option<JournalSeq>,
}

impl Shelf {
    /// What an earlier life left, or what every node of the network begins with.
    pub(crate) const fn new(states: Vec<SavedState>, copies: Vec<SavedState>) -> Self {
        Self { states, copies, record: None }
    }

    /// This node's own states, the newest last.
    pub(crate) fn states(&self) -> &[SavedState] {
        &self.states
    }

    /// Every blob that a fact names.
    pub(crate) fn pinned(&self) -> BTreeSet<Hash> {
        self.states.iter().chain(&self.copies).flat_map(|state| blobs(&state.snapshot)).collect()
    }

    /// The last step that this node persisted.
    pub(crate) fn saved(&self) -> Option<Step> {
        self.states.last().map(|state| state.snapshot.step)
    }

    /// The newest state of exactly these stages.
    pub(crate) fn newest(&self, range: LayerRange) -> Option<&SavedState> {
        self.states.iter().rev().find(|state| state.range == range)
    }

    /// The state of exactly these stages after a step.
    pub(crate) fn at(&self, range: LayerRange, step: Step) -> Option<&SavedState> {
        self.states.iter().find(|state| state.range == range && state.snapshot.step == step)
    }

    /// One stage's state after a step, whatever it was persisted with.
    pub(crate) fn stage(&self, stage: LayerIndex, step: Step) -> Option<LayerBlobs> {
        let same = self.states.iter().chain(&self.copies).filter(|state| state.snapshot.step == step);
        same.filter_map(|state| state.stage(stage)).next()
    }

    /// The newest state of which all these stages are here, this node's own or copies.
    pub(crate) fn whole(&self, model: &ModelSpec) -> Option<Snapshot> {
        let all = model.all_layers();
        let steps: BTreeSet<Step> = self.states.iter().map(|state| state.snapshot.step).collect();
        steps.into_iter().rev().find_map(|step| {
            let layers: Option<Vec<LayerBlobs>> = all.iter().map(|stage| self.stage(stage, step)).collect();
            Some(Snapshot::of_stages(step, List::try_from(layers?).ok()?, model.held_bytes(all)))
        })
    }

    /// Whether a copy of these stages after this step, or a later one, is there.
    pub(crate) fn has_copy(&self, range: LayerRange, step: Step) -> bool {
        self.copies.iter().any(|copy| copy.range == range && copy.snapshot.step >= step)
    }

    /// Takes a state of this node's, and lets go of older ones beyond so many. Those of the anchor stay beyond that: others
    /// may know of no other holder, and all would be lost with it.
    pub(crate) fn put(&mut self, cx: &mut Cx<'_>, state: SavedState, most: usize, anchor: Option<Step>) -> JournalSeq {
        self.change(cx, |shelf| {
            shelf.states.retain(|other| (other.range, other.snapshot.step) != (state.range, state.snapshot.step));
            shelf.states.push(state);
            while shelf.states.len() > most {
                let before = shelf.states.len().saturating_sub(1);
                let spare = |state: &SavedState| Some(state.snapshot.step) != anchor;
                let spare = shelf.states.iter().take(before).position(spare);
                let full = shelf.states.len() > place(SNAPSHOTS_MAX);
                let Some(oldest) = spare.or(full.then_some(0)) else { break };
                shelf.states.remove(oldest);
            }
        })
    }

    /// Takes a copy of another's stages, in place of older ones of any of them.
    pub(crate) fn copy(&mut self, cx: &mut Cx<'_>, state: SavedState) {
        self.change(cx, |shelf| {
            let apart =
                |other: &SavedState| other.range.end <= state.range.start || state.range.end <= other.range.start;
            shelf.copies.retain(apart);
            shelf.copies.push(state);
            shelf.copies.drain(..shelf.copies.len().saturating_sub(place(COPIES_MAX)));
        });
    }

    /// Forgets this node's states after a step, but for those of the anchor: what came later is trained again, to the same
    /// bits.
    pub(crate) fn go_back(&mut self, cx: &mut Cx<'_>, step: Step, anchor: Option<Step>) {
        let kept = |state: &SavedState| state.snapshot.step <= step || Some(state.snapshot.step) == anchor;
        if !self.states.iter().all(kept) {
            self.change(cx, |shelf| shelf.states.retain(kept));
        }
    }

    /// Forgets the newest state, whose blobs are damaged, until another is written down.
    pub(crate) fn distrust(&mut self, range: LayerRange, step: Step) {
        self.states.retain(|state| state.range != range || state.snapshot.step != step);
    }

    fn change(&mut self, cx: &mut Cx<'_>, change: impl FnOnce(&mut Self)) -> JournalSeq {
        let before = self.pinned();
        change(self);
        let record = self.write(cx);
        let now = if mutant("shared blobs dropped") { BTreeSet::new() } else { self.pinned() };
        for hash in before.difference(&now) {
            cx.after(record, Output::Drop { hash: *hash });
        }
        record
    }

    /// Writes down again what is kept, so that older records may go.
    pub(crate) fn rewrite(&mut self, cx: &mut Cx<'_>) {
        if !(self.states.is_empty() && self.copies.is_empty()) {
            self.write(cx);
        }
    }

    fn write(&mut self, cx: &mut Cx<'_>) -> JournalSeq {
        let (states, copies) = (List::try_from(self.states.clone()), List::try_from(self.copies.clone()));
        assert!(states.is_ok() && copies.is_ok(), "at most SNAPSHOTS_MAX states and COPIES_MAX copies are kept");
        let fact = JournalFact::Saved { states: states.unwrap_or_default(), copies: copies.unwrap_or_default() };
        let record = cx.persist(fact);
        self.record = Some(record);
        let before = cx.journal.supersede(Keeper::Solo, record);
        cx.after(record, Output::Trim { before });
        record
    }

    /// The journal record that names what is kept.
    pub(crate) const fn record(&self) -> Option<JournalSeq> {
        self.record
    }

    /// Whether what is kept is durable.
    pub(crate) fn is_durable(&self, cx: &Cx<'_>) -> bool {
        self.record.is_none_or(|record| cx.journal.is_durable(record))
    }

    /// Tells something once what is kept is durable.
    pub(crate) fn tell(&self, cx: &mut Cx<'_>, event: Event) {
        match self.record {
            Some(record) if !cx.journal.is_durable(record) => cx.after(record, Output::Event(event)),
            Some(_) | None => cx.event(event),
        }
    }
}

fn blobs(snapshot: &Snapshot) -> impl Iterator<Item = Hash> {
    snapshot.layers.iter().flat_map(|layer| [layer.weights, layer.moments])
}
