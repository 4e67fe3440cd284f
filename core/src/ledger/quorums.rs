//! Quorums (PROTOCOL §4): which nodes train together, until when, and who is taken.
//!
//! A quorum begins with terms that all its members signed, and with the block that takes them in. Its session ends by itself;
//! a member may end it before, and a successor may take its place at once. Any member may end a quorum, so the word of one
//! member of each quorum that a successor ends is enough. A renewal of the same members must wait until 80 % of the session
//! are over; a change of members need not, because someone may be lost.
//!
//! Until cohorts merge what several quorums learn, one quorum trains in a network and the others stand by.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Member, NodeId, Plan, QuorumId, Signature, Terms, Tier, mutant, verify};
use serde::{Deserialize, Serialize};

use super::part::Module;
use super::{Refusal, State};

/// Members' words are good for so long at most.
const ACCEPTANCE_MS: u64 = 60_000;
/// From its first start on a quorum may be renewed for so long.
const SESSIONS_MS: u64 = 14_400_000;
/// A session that would end sooner is not worth its certificate.
const SESSION_MS_MIN: u64 = 60_000;
/// Quorums that may be active in a network.
const ACTIVE_MAX: usize = 1;

/// A quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    pub plan: Plan,
    /// In protocol time: when it began, when the first quorum began that it goes on from, and when it ends.
    pub began_ms: u64,
    pub first_ms: u64,
    pub ends_ms: u64,
}

impl Quorum {
    /// Whether so much of the session is over that the same members may begin another one.
    pub const fn is_renewable(&self, now_ms: u64) -> bool {
        let session = self.ends_ms.saturating_sub(self.began_ms);
        now_ms.saturating_sub(self.began_ms).saturating_mul(10) >= session.saturating_mul(8)
    }

    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.plan.members.iter().map(|member| member.node)
    }
}

/// All quorums whose sessions are not over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quorums {
    active: BTreeMap<QuorumId, Quorum>,
}

impl Canonical for Quorums {}

impl Module for Quorums {
    const NAME: &'static str = "quorums";
}

impl Quorums {
    /// An active quorum.
    pub(super) fn get(&self, id: &QuorumId) -> Option<&Quorum> {
        self.active.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&QuorumId, &Quorum)> {
        self.active.iter()
    }

    /// The active quorum that a node is a member of.
    pub(super) fn of(&self, node: &NodeId) -> Option<(&QuorumId, &Quorum)> {
        self.active.iter().find(|(_, quorum)| quorum.plan.place(node).is_some())
    }
}

/// Nodes become a quorum.
pub(super) fn form(state: &mut State, author: NodeId, terms: &Terms, acceptances: &[Signature]) -> Result<(), Refusal> {
    let (now, network) = (state.clock.protocol_ms, state.rules.network);
    let (time, plan) = (state.clock.time, &terms.plan);
    if terms.valid_until < time || terms.valid_until.ms_since(time) > ACCEPTANCE_MS {
        return Err(Refusal::Lapsed { until: terms.valid_until, now: time });
    }
    plan.check_stages(state.rules.stages).map_err(Refusal::Plan)?;
    plan.place(&author).ok_or(Refusal::Author)?;
    let members = plan.members.len();
    let least = state.rules.params.at(state.counts.size).quorum_size;
    if u32::try_from(members).unwrap_or(u32::MAX) < least {
        return Err(Refusal::QuorumSize { least });
    }
    let ended = ended(state, terms)?;
    check_members(state, plan, &terms.ends)?;
    if state.quorums.active.len().saturating_sub(ended.len()) >= ACTIVE_MAX {
        return Err(Refusal::QuorumsBusy);
    }
    let id = terms.id(network);
    if state.quorums.get(&id).is_some() {
        return Err(Refusal::QuorumKnown);
    }
    let stays = |quorum: &&Quorum| quorum.nodes().any(|node| plan.place(&node).is_some());
    let first_ms = ended.iter().filter(stays).map(|quorum| quorum.first_ms).min().unwrap_or(now);
    let session_ms = u64::from(state.rules.params.at(state.counts.size).session_s).saturating_mul(1000);
    let ends_ms = now.saturating_add(session_ms).min(first_ms.saturating_add(SESSIONS_MS));
    if ends_ms < now.saturating_add(SESSION_MS_MIN) {
        return Err(Refusal::SessionsOver);
    }
    // Signatures are checked last: they cost more than everything before.
    let digest = terms.acceptance_digest(network);
    let signed = |(member, signature): (&Member, &Signature)| verify(&member.node, &digest, signature);
    let unsigned = plan.members.iter().zip(acceptances).position(|pair| !signed(pair));
    if acceptances.len() != members && !mutant("acceptance missing") {
        return Err(Refusal::Acceptances { members, found: acceptances.len() });
    }
    if let Some(member) = unsigned.and_then(|place| plan.members.get(place)) {
        return Err(Refusal::Consent { node: member.node });
    }
    for old in terms.ends.iter() {
        end(state, old, |quorum, node| quorum.is_renewable(now) || plan.place(node).is_some());
    }
    let quorum = Quorum { plan: plan.clone(), began_ms: now, first_ms, ends_ms };
    state.quorums.edit().active.insert(id, quorum);
    Ok(())
}

/// The quorums that terms end, if they may.
fn ended(state: &State, terms: &Terms) -> Result<Vec<Quorum>, Refusal> {
    let now = state.clock.protocol_ms;
    let mut ended: Vec<Quorum> = Vec::new();
    for (place, id) in terms.ends.iter().enumerate() {
        let quorum = state.quorums.get(id).ok_or(Refusal::NoQuorum)?;
        if terms.ends.iter().take(place).any(|earlier| earlier == id) {
            return Err(Refusal::NoQuorum);
        }
        if !quorum.nodes().any(|node| terms.plan.place(&node).is_some()) {
            return Err(Refusal::NotAMember);
        }
        let same = quorum.nodes().eq(terms.plan.members.iter().map(|member| member.node));
        if same && !quorum.is_renewable(now) {
            return Err(Refusal::TooEarly);
        }
        ended.push(quorum.clone());
    }
    Ok(ended)
}

/// Every member may speak, holds its stages, matches the others' speed and is free.
fn check_members(state: &State, plan: &Plan, ends: &[QuorumId]) -> Result<(), Refusal> {
    let mut tiers: Vec<(NodeId, Tier)> = Vec::new();
    for Member { node, stages } in plan.members.iter().copied() {
        let description = state.nodes.good(&node)?.description.ok_or(Refusal::Undescribed { node })?;
        if stages.start < description.held.start || stages.end > description.held.end {
            return Err(Refusal::NotHeld { node });
        }
        if description.tier == Tier::T5 || tiers.iter().any(|(_, tier)| !tier.compatible(description.tier)) {
            return Err(Refusal::Speed { node });
        }
        tiers.push((node, description.tier));
        if let Some((taken, _)) = state.quorums.of(&node)
            && !ends.contains(taken)
            && !mutant("a node in two quorums")
        {
            return Err(Refusal::Taken { node });
        }
    }
    Ok(())
}

/// A member ends its quorum. One that does so early has failed the others.
pub(super) fn dissolve(state: &mut State, author: NodeId, id: &QuorumId) -> Result<(), Refusal> {
    let quorum = state.quorums.get(id).ok_or(Refusal::NoQuorum)?;
    quorum.plan.place(&author).ok_or(Refusal::NotAMember)?;
    let now = state.clock.protocol_ms;
    end(state, id, |quorum, node| quorum.is_renewable(now) || *node != author);
    Ok(())
}

/// Ends a quorum, and writes down for each member whether it did what it agreed to.
fn end(state: &mut State, id: &QuorumId, success: impl Fn(&Quorum, &NodeId) -> bool) {
    let Some(quorum) = state.quorums.edit().active.remove(id) else { return };
    for node in quorum.nodes() {
        let Some(mut known) = state.nodes.tree.get(&node).cloned() else { continue };
        known.successes = known.successes.with(success(&quorum, &node));
        state.nodes.edit().tree.insert(node, known);
    }
}

/// Ends the quorums whose sessions are over. Every block begins with it, so nobody is taken by a quorum that is over.
pub(super) fn expire(state: &mut State) {
    let now = state.clock.protocol_ms;
    let over = |(id, quorum): (&QuorumId, &Quorum)| (quorum.ends_ms <= now).then_some(*id);
    let over: Vec<QuorumId> = state.quorums.iter().filter_map(over).collect();
    over.iter().for_each(|id| end(state, id, |_, _| true));
}
