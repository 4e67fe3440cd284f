//! Quorums: who trains with whom, and for how long (PROTOCOL §4).
//!
//! A quorum forms when a member publishes terms that every member signed; whatever does not hold of one member refuses the
//! whole. It is *active* for a session of protocol time, and a node is taken by at most one active quorum. Terms may name
//! active quorums that end where the new one begins: a renewal keeps the members and may come late in a session only, a
//! replacement changes them at any time. Every quorum that is ended in this way has a member among the new ones, for any
//! member may end its quorum anyway. A line of quorums that succeed each other has a longest life; then its members form
//! anew.
//!
//! A session that ran for most of its full length is a success of all members, however it ended. One that ended earlier is
//! nobody's success and nobody's failure: members cannot show whose fault it was, and nobody may cost others their
//! reputation by ending a quorum, nor earn one by forming many.
//!
//! A quorum is remembered until its terms are no longer valid, so they form none twice. Members are free at the moment the
//! session is over; receipts follow at the epoch's end.

use alloc::vec::Vec;

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{
    BATCHES_MAX, LayerRange, Member, NodeId, Plan, QuorumId, QuorumParams, Signature, Terms, Tier, Time, mutant, verify,
};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::activity::WINDOW;
use super::nodes::Node;
use super::part::Module;
use super::tree::{Tree, TreeRoot};
use super::{Refusal, State};

/// A quorum that formed. Where nothing else is said, times are protocol time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Quorum {
    pub plan: Plan,
    /// Batches that a step accumulates.
    pub batches: u32,
    /// The last block time at which its terms were good.
    pub valid_until: Time,
    /// When the first quorum of its line began.
    pub first_ms: u64,
    /// When its session began.
    pub began_ms: u64,
    /// When its session is or was over: it is active before.
    pub ends_ms: u64,
    /// Its session's full length, which the end of the line may have cut.
    pub session_ms: u64,
    /// Whether its members have their receipts.
    settled: bool,
}

impl Canonical for Quorum {}

impl Quorum {
    /// Whether its session is under way.
    pub const fn is_active(&self, protocol_ms: u64) -> bool {
        protocol_ms < self.ends_ms
    }

    /// From when on the same members may begin another session.
    pub fn renews_from_ms(&self, params: &QuorumParams) -> u64 {
        let share = params.renewal.of(self.ends_ms.saturating_sub(self.began_ms));
        self.began_ms.saturating_add(share)
    }

    /// Whether the session ran for long enough to be a success.
    fn succeeded(&self, params: &QuorumParams) -> bool {
        let ran = self.ends_ms.saturating_sub(self.began_ms);
        ran >= params.renewal.of(self.session_ms) || mutant("early ends succeed")
    }
}

/// All quorums that are remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Quorums {
    root: TreeRoot,
    #[serde(skip)]
    pub(super) tree: Tree<QuorumId, Quorum>,
}

impl Canonical for Quorums {}

impl Module for Quorums {
    const NAME: &'static str = "quorums";
    const PLACE: u64 = 8;

    fn seal(&mut self) {
        self.tree.seal();
        self.root = self.tree.commitment();
    }
}

impl Quorums {
    /// What the tree must be to fit the digest.
    pub(super) const fn root(&self) -> TreeRoot {
        self.root
    }

    /// An active quorum.
    pub(super) fn active(&self, id: &QuorumId, protocol_ms: u64) -> Result<&Quorum, Refusal> {
        let active = self.tree.get(id).filter(|quorum| quorum.is_active(protocol_ms));
        active.ok_or(Refusal::Over { quorum: *id })
    }
}

/// The active quorum that a node is taken by.
pub(super) fn quorum_of<'a>(state: &'a State, node: &NodeId) -> Option<(QuorumId, &'a Quorum)> {
    let id = state.nodes.tree.get(node)?.quorum?;
    let quorum = state.quorums.active(&id, state.clock.protocol_ms).ok()?;
    Some((id, quorum))
}

/// Forms a quorum of all who signed the terms.
pub(super) fn form(state: &mut State, author: NodeId, terms: &Terms, acceptances: &[Signature]) -> Result<(), Refusal> {
    let (id, now) = (terms.id(state.rules.network), state.clock.protocol_ms);
    check_terms(state, author, id, terms)?;
    check_ends(state, terms)?;
    for member in &terms.plan.members {
        check_member(state, terms, member)?;
    }
    check_tiers(state, &terms.plan)?;
    check_acceptances(state, terms, acceptances)?;
    let firsts = terms.ends.iter().filter_map(|ended| state.quorums.tree.get(ended)).map(|quorum| quorum.first_ms);
    let first_ms = firsts.min().unwrap_or(now);
    for ended in &terms.ends {
        close(state, ended);
    }
    let params = state.rules.params;
    let session_ms = u64::from(params.at(state.counts.size).session_s).saturating_mul(1000);
    let end_of_line = first_ms.saturating_add(params.quorums.lifetime_ms);
    let quorum = Quorum {
        plan: terms.plan.clone(),
        batches: terms.batches,
        valid_until: terms.valid_until,
        first_ms,
        began_ms: now,
        ends_ms: now.saturating_add(session_ms).min(end_of_line),
        session_ms,
        settled: false,
    };
    state.quorums.edit().tree.insert(id, quorum);
    for member in &terms.plan.members {
        assign(state, &member.node, Some(id));
    }
    Ok(())
}

/// A member ends its quorum.
pub(super) fn end(state: &mut State, author: NodeId, id: QuorumId) -> Result<(), Refusal> {
    let quorum = state.quorums.active(&id, state.clock.protocol_ms)?;
    if quorum.plan.place(&author).is_none() {
        return Err(Refusal::Member { node: author, quorum: id });
    }
    close(state, &id);
    Ok(())
}

/// What the terms must be whoever the members are.
fn check_terms(state: &State, author: NodeId, id: QuorumId, terms: &Terms) -> Result<(), Refusal> {
    let (params, time) = (&state.rules.params, state.clock.time);
    terms.plan.check_stages(LayerRange { start: 0, end: state.rules.stages }).map_err(Refusal::Plan)?;
    if terms.plan.place(&author).is_none() {
        return Err(Refusal::Member { node: author, quorum: id });
    }
    if !(1..=BATCHES_MAX).contains(&terms.batches) {
        return Err(Refusal::Batches { max: BATCHES_MAX });
    }
    if terms.valid_until < time && !mutant("terms never lapse") {
        return Err(Refusal::Lapsed { until: terms.valid_until, now: time });
    }
    let latest = time.after_ms(params.quorums.acceptance_ms);
    if terms.valid_until > latest {
        return Err(Refusal::TooLong { until: terms.valid_until, latest });
    }
    if state.quorums.tree.get(&id).is_some() {
        return Err(Refusal::Formed { quorum: id });
    }
    let (members, min) = (terms.plan.members.len(), params.at(state.counts.size).quorum_size);
    match u32::try_from(members) {
        Ok(members) if members < min => Err(Refusal::TooFew { members, min }),
        _ => Ok(()),
    }
}

/// Whether the quorums that should end may end, and leave room for this one.
fn check_ends(state: &State, terms: &Terms) -> Result<(), Refusal> {
    let (params, now) = (&state.rules.params.quorums, state.clock.protocol_ms);
    for id in &terms.ends {
        let ended = state.quorums.active(id, now)?;
        let kept = terms.plan.members.iter().filter(|member| ended.plan.place(&member.node).is_some()).count();
        if kept == 0 {
            return Err(Refusal::Strangers { quorum: *id });
        }
        let same = kept == ended.plan.members.len() && kept == terms.plan.members.len();
        let from_ms = ended.renews_from_ms(params);
        if same && now < from_ms {
            return Err(Refusal::Early { quorum: *id, from_ms, now_ms: now });
        }
    }
    let others = state.quorums.tree.iter().filter(|(id, other)| other.is_active(now) && !terms.ends.contains(id));
    if others.count() >= usize::try_from(params.active_max).unwrap_or(usize::MAX) {
        return Err(Refusal::Crowded { max: params.active_max });
    }
    Ok(())
}

/// Whether a node may be a member.
fn check_member(state: &State, terms: &Terms, member: &Member) -> Result<(), Refusal> {
    let node = member.node;
    let known = state.nodes.good(&node)?;
    let described = known.description.ok_or(Refusal::Undescribed { node })?;
    let LayerRange { start, end } = member.stages;
    if start < described.held.start || end > described.held.end {
        return Err(Refusal::Holds { node, held: described.held });
    }
    let (missed, max) = missed(state, known);
    if missed > max {
        return Err(Refusal::Uptime { node, missed, max });
    }
    match quorum_of(state, &node) {
        Some((quorum, _)) if !terms.ends.contains(&quorum) && !mutant("taken twice") => {
            Err(Refusal::Taken { node, quorum })
        }
        _ => Ok(()),
    }
}

/// How many of the last epochs a node missed, and how many it may (PROTOCOL §2).
fn missed(state: &State, node: &Node) -> (u64, u64) {
    let max = WINDOW.saturating_sub(state.rules.params.quorums.uptime.of_rounded_up(WINDOW));
    (node.activity.missed(state.clock.epoch), max)
}

/// Whether a node was there for long enough to be a member (PROTOCOL §2).
pub(super) fn is_steady(state: &State, node: &Node) -> bool {
    let (missed, max) = missed(state, node);
    missed <= max
}

/// Whether the members, who are described, are of speeds that go together (PROTOCOL §2).
fn check_tiers(state: &State, plan: &Plan) -> Result<(), Refusal> {
    let tier = |member: &Member| Some((member.node, state.nodes.tree.get(&member.node)?.description?.tier));
    let tiers: Vec<(NodeId, Tier)> = plan.members.iter().filter_map(tier).collect();
    if let Some((node, _)) = tiers.iter().find(|(_, tier)| *tier == Tier::T5) {
        return Err(Refusal::Slow { node: *node });
    }
    for (place, (node, tier)) in (1..).zip(&tiers) {
        if let Some((other, _)) = tiers.iter().skip(place).find(|(_, other)| !tier.compatible(*other)) {
            return Err(Refusal::Tiers { node: *node, other: *other });
        }
    }
    Ok(())
}

/// Whether every member signed. This comes last: signatures cost more to check than all the rest.
fn check_acceptances(state: &State, terms: &Terms, acceptances: &[Signature]) -> Result<(), Refusal> {
    let (digest, mut signatures) = (terms.digest(state.rules.network), acceptances.iter());
    for Member { node, .. } in &terms.plan.members {
        let signed = signatures.next().is_some_and(|signature| verify(node, &digest, signature));
        if !signed && !mutant("acceptances not checked") {
            return Err(Refusal::Unsigned { node: *node });
        }
    }
    match signatures.next() {
        Some(_) => Err(Refusal::Signatures { members: u32::try_from(terms.plan.members.len()).unwrap_or(u32::MAX) }),
        None => Ok(()),
    }
}

/// Ends an active quorum now.
fn close(state: &mut State, id: &QuorumId) {
    let now = state.clock.protocol_ms;
    let Some(mut quorum) = state.quorums.tree.get(id).filter(|quorum| quorum.is_active(now)).cloned() else { return };
    quorum.ends_ms = now;
    settle(state, *id, quorum);
}

/// Gives the members of a quorum that is over their receipts.
fn settle(state: &mut State, id: QuorumId, mut quorum: Quorum) {
    if quorum.succeeded(&state.rules.params.quorums) {
        for member in &quorum.plan.members {
            let Some(mut known) = state.nodes.tree.get(&member.node).cloned() else { continue };
            known.successes = known.successes.with(true);
            state.nodes.edit().tree.insert(member.node, known);
        }
    }
    quorum.settled = true;
    state.quorums.edit().tree.insert(id, quorum);
}

/// Notes which quorum takes a node.
fn assign(state: &mut State, node: &NodeId, quorum: Option<QuorumId>) {
    let Some(mut known) = state.nodes.tree.get(node).cloned() else { return };
    known.quorum = quorum;
    state.nodes.edit().tree.insert(*node, known);
}

/// Gives receipts for sessions that are over, and forgets quorums whose terms can form none again.
pub(super) fn end_epoch(state: &mut State) {
    let (now, time) = (state.clock.protocol_ms, state.clock.time);
    let over = state.quorums.tree.iter().filter(|(_, quorum)| !quorum.is_active(now));
    let over: Vec<(QuorumId, Quorum)> = over.map(|(id, quorum)| (*id, quorum.clone())).collect();
    for (id, quorum) in over {
        if !quorum.settled {
            settle(state, id, quorum.clone());
        }
        if time <= quorum.valid_until {
            continue;
        }
        for member in &quorum.plan.members {
            if state.nodes.tree.get(&member.node).is_some_and(|known| known.quorum == Some(id)) {
                assign(state, &member.node, None);
            }
        }
        state.quorums.edit().tree.remove(&id);
    }
}

/// The stages of an active quorum that a node runs.
pub(super) fn stages_of(state: &State, id: &QuorumId, node: &NodeId) -> Result<LayerRange, Refusal> {
    let quorum = state.quorums.active(id, state.clock.protocol_ms)?;
    let member = quorum.plan.members.iter().find(|member| member.node == *node);
    Ok(member.ok_or(Refusal::Member { node: *node, quorum: *id })?.stages)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use neuroshard_proto::{Hash, codec};

    use super::super::sync::{BIG, CHUNK_BYTES_MAX, Chunk};
    use super::*;

    #[test]
    fn the_largest_quorums_fit_in_a_chunk() {
        let node = NodeId::from_bytes([255; 32]);
        let member = Member { node, stages: LayerRange { start: u32::MAX, end: u32::MAX } };
        let largest = Quorum {
            plan: Plan { members: vec![member; 16].try_into().unwrap(), snapshot_steps: u32::MAX },
            batches: u32::MAX,
            valid_until: Time::from_ms(u64::MAX),
            first_ms: u64::MAX,
            began_ms: u64::MAX,
            ends_ms: u64::MAX,
            session_ms: u64::MAX,
            settled: true,
        };
        let mut tree = Tree::default();
        for number in 0..4 * BIG {
            tree.insert(QuorumId(Hash::of_blob(&number.to_le_bytes())), largest.clone());
        }
        tree.seal();
        let sizes: Vec<usize> = tree.pieces(BIG).map(|piece| codec::encode(&Chunk::Quorums(piece)).len()).collect();
        assert!(sizes.iter().all(|bytes| *bytes <= CHUNK_BYTES_MAX as usize / 2), "{sizes:?}");
        assert!(sizes.iter().sum::<usize>() > 512 * 600, "{sizes:?}");
    }
}
