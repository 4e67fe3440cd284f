//! Becoming a quorum (PROTOCOL §4): asking the others what they can do, proposing terms to those who would make the fastest
//! pipeline, gathering their signatures, and putting the certificate on the ledger.
//!
//! A node looks around when no quorum trains, when members of its own have gone silent, when its session is nearly over, and
//! now and then whether others would make its quorum faster. Nodes look at random moments and members one after the other,
//! so that few do at once; where two do, a node gives its word to one of them, the terms with the lower name have
//! precedence, and the ledger takes whichever comes first, whole.

mod candidates;
mod consent;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use neuroshard_proto::chain::Action;
use neuroshard_proto::{
    Decline, FormingMessage, FormingWord, Hash, List, Member, Message, Mode, NodeId, Plan, QuorumId, Shared, Signature,
    Step, Stream, Terms, Tier, Time,
};
use serde::Serialize;

use self::candidates::candidates;
use super::leaving::Leaving;
use super::partition::{Crew, Skill, Task};
use super::quorum::Assignment;
use crate::count::wide;
use crate::cx::{Cx, Local};
use crate::io::{Event, TimerKind};
use crate::ledger::{Ledger, Quorum};

/// How long answers are waited for.
const ASK_MS: u64 = 1500;
/// How long signatures are waited for.
const PROPOSE_MS: u64 = 10_000;
/// How long members' words are good.
const GOOD_MS: u64 = 30_000;
/// How long a node keeps to its word.
const RESERVED_MS: u64 = 12_000;
/// How long the ledger may take.
const PUBLISH_MS: u64 = 15_000;
/// Proposals in a row, each without those who declined the one before.
const ROUNDS_MAX: u32 = 3;
/// A node that got nowhere looks again after so long, and up to four times as long.
const BACK_OFF_MS: u64 = 1000;
/// How often a quorum looks whether others would make it faster.
const IMPROVE_MS: u64 = 20_000;
/// So long after members posted what they persisted, little is lost if they begin again from there.
const FRESH_MS: u64 = 3000;
/// A quorum that has not posted for so long does not wait for that, if it is worth going back.
const SELDOM_MS: u64 = 60_000;
/// Members look after silent ones one after the other.
const TURN_MS: u64 = 3000;
/// What a step between posted states takes at least, as far as can be told beforehand.
const POST_US: u64 = 20_000_000;
/// But never more sync intervals than this: batches may take longer than was thought.
const POST_INTERVALS_MAX: u64 = 10;

/// A quorum that cannot train for so long, and finds no replacement, is ended (PROTOCOL §4).
const DISSOLVE_MS: u64 = 120_000;
/// An end that is not on the ledger after so long was lost.
const DISSOLVE_AGAIN_MS: u64 = 20_000;

/// Why a node looks for members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Reason {
    /// No quorum trains.
    None,
    /// Members have gone silent.
    Silent,
    /// The session is nearly over.
    Renewal,
    /// Others may make it faster.
    Faster,
}

#[derive(Clone, Debug, Serialize)]
enum State {
    Resting,
    Asking(Box<Asking>),
    Proposing(Box<Proposal>),
    Publishing { quorum: QuorumId, since: Time },
}

#[derive(Clone, Debug, Serialize)]
struct Asking {
    reason: Reason,
    question: u64,
    since: Time,
    /// How many have not declined.
    asked: usize,
    skills: Vec<Skill>,
}

#[derive(Clone, Debug, Serialize)]
struct Proposal {
    reason: Reason,
    #[serde(skip)]
    terms: Shared<Terms>,
    quorum: QuorumId,
    #[serde(serialize_with = "crate::cx::as_pairs")]
    signed: BTreeMap<NodeId, Signature>,
    since: Time,
    round: u32,
    /// Those who could be asked instead.
    skills: Vec<Skill>,
}

/// How a node's own training stands to what was posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reached {
    /// The step that it has taken.
    pub(crate) step: Step,
    /// This node alone has trained further than what was posted: nobody else could go on from there.
    pub(crate) ahead: bool,
    /// What it trained is being persisted, and would be lost if it were given stages now.
    pub(crate) unsaved: bool,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Forming {
    layer_us: Option<(u64, Tier)>,
    silent: BTreeSet<NodeId>,
    state: State,
    /// Whom this node gave its word to, and until when.
    reserved: Option<(QuorumId, Time)>,
    assigned: Option<QuorumId>,
    /// When this node's quorum is to be ended, because it cannot train.
    dissolve_at: Option<Time>,
    reached: Reached,
    look_at: Time,
    improve_at: Time,
    /// The newest step after which the whole model was posted, and when that was heard of.
    anchor: (Step, Time),
    draws: Stream,
    /// This node is about to leave. Last, and left out where it is not: traces from before still replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaving: Option<Leaving>,
}

impl Forming {
    pub(crate) fn new(seed: &Hash) -> Self {
        Self {
            layer_us: None,
            silent: BTreeSet::new(),
            state: State::Resting,
            reserved: None,
            assigned: None,
            dissolve_at: None,
            reached: Reached::default(),
            look_at: Time::ZERO,
            improve_at: Time::ZERO,
            anchor: (Step(0), Time::ZERO),
            draws: Stream::new(seed, "forming", 0),
            leaving: None,
        }
    }

    pub(crate) fn on_speed(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, layer_us: u64, tier: Tier) {
        self.layer_us = Some((layer_us, tier));
        self.rest(cx);
        self.arm(cx, ledger);
    }

    /// Others are live than before.
    pub(crate) fn on_neighbours(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        self.arm(cx, ledger);
    }

    pub(crate) const fn on_progress(&mut self, reached: Reached) {
        self.reached = reached;
    }

    /// The operator takes this node away.
    pub(crate) fn on_leave(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        if self.leaving.is_none() {
            self.state = State::Resting;
            cx.event(Event::Leaving { quorum: ledger.quorum_of(&cx.config.node).map(|(id, _)| id) });
            self.leaving = Some(Leaving::begin(cx, ledger, self.anchor));
        }
        self.arm(cx, ledger);
    }

    /// Members of the quorum do not answer.
    pub(crate) fn on_silent(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, nodes: Vec<NodeId>) {
        let news = self.silent.is_empty();
        self.silent = nodes.into_iter().collect();
        if news && let Some((_, quorum)) = ledger.quorum_of(&cx.config.node) {
            // Whoever stands first of those who are left looks first.
            let left = quorum.plan.members.iter().map(|member| member.node).filter(|node| !self.silent.contains(node));
            let turn = left.take_while(|node| *node != cx.config.node).count();
            self.look_at = cx.now.after_ms(TURN_MS.saturating_mul(wide(turn)));
        }
        self.arm(cx, ledger);
    }

    /// The ledger moved on: this node may be a member of another quorum now.
    pub(crate) fn on_head(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        let anchor = ledger.anchor().map(|anchor| anchor.step).unwrap_or_default();
        if anchor != self.anchor.0 {
            self.anchor = (anchor, cx.now);
        }
        let mine = ledger.quorum_of(&cx.config.node);
        if cx.config.plan.is_none() && self.assigned != mine.map(|(id, _)| id) {
            self.assigned = mine.map(|(id, _)| id);
            self.reserved = None;
            self.dissolve_at = None;
            self.silent.clear();
            self.rest(cx);
            self.improve_at = cx.now.after_ms(IMPROVE_MS);
            let assignment = mine.map(|(id, quorum)| Assignment { id, plan: Shared::from(quorum.plan.clone()) });
            cx.event(match &assignment {
                Some(assignment) => Event::QuorumJoined {
                    quorum: assignment.id,
                    members: u32::try_from(assignment.plan.members.len()).unwrap_or(u32::MAX),
                    stages: stages_in(&assignment.plan, &cx.config.node),
                },
                None => Event::QuorumLeft,
            });
            cx.tell(Local::Assigned(assignment));
        }
        self.leave(cx, ledger);
        self.arm(cx, ledger);
    }

    /// Whether this node would train with others, and its part of the ledger's registry says that it can.
    fn skill(&self, cx: &Cx<'_>, ledger: &Ledger) -> Option<Skill> {
        let (layer_us, _) = self.layer_us?;
        let stays = self.leaving.is_none();
        skill_of(ledger, cx.config.node, layer_us, 0).filter(|_| stays && may_join(cx))
    }

    fn reason(&self, cx: &Cx<'_>, ledger: &Ledger) -> Option<Reason> {
        let Some((_, quorum)) = ledger.quorum_of(&cx.config.node) else {
            let alone = cx.liveness.is_alone() || self.reached.unsaved;
            return (!alone && ledger.active_quorums().next().is_none()).then_some(Reason::None);
        };
        if !self.silent.is_empty() {
            return Some(Reason::Silent);
        }
        let place = wide(quorum.plan.place(&cx.config.node).unwrap_or_default());
        let session = quorum.ends_ms.saturating_sub(quorum.began_ms);
        // Each member waits a little longer than the one before it.
        let patience = place.saturating_mul(session.checked_div(50).unwrap_or_default());
        let renews_from = quorum.renews_from_ms(&cx.config.genesis.params.quorums);
        if ledger.protocol_ms().saturating_sub(patience) >= renews_from {
            return Some(Reason::Renewal);
        }
        // Members begin again from what was posted last: little is lost just after that.
        let since = cx.now.ms_since(self.anchor.1);
        let due = !(FRESH_MS..SELDOM_MS).contains(&since) && cx.now >= self.improve_at;
        let outsiders = cx.liveness.peers().any(|node| quorum.plan.place(node).is_none());
        (place == 0 && outsiders && due && !self.reached.ahead).then_some(Reason::Faster)
    }

    /// Ends a quorum in which nothing can be trained: members are silent and nobody takes their place, or this node's own
    /// device is not to be had.
    fn dissolve(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        let ails = !self.silent.is_empty() || self.layer_us.is_none();
        let quorum = ledger.quorum_of(&cx.config.node).filter(|_| ails && cx.config.plan.is_none());
        let Some((quorum, _)) = quorum else {
            self.dissolve_at = None;
            return;
        };
        let at = *self.dissolve_at.get_or_insert(cx.now.after_ms(DISSOLVE_MS));
        if cx.now >= at {
            self.dissolve_at = Some(cx.now.after_ms(DISSOLVE_AGAIN_MS));
            cx.tell(Local::Act { action: Box::new(Action::EndQuorum { quorum }), after: None });
        }
    }

    /// Goes on with leaving, if it does.
    fn leave(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        self.leaving = self.leaving.map(|leaving| leaving.look(cx, ledger, may_join(cx) && !cx.liveness.is_alone()));
    }

    /// When there may be something to do.
    fn arm(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        if let Some(leaving) = self.leaving {
            return cx.arm(TimerKind::Form, leaving.wakes());
        }
        self.dissolve(cx, ledger);
        let at = match &self.state {
            State::Asking(asking) => Some(asking.since.after_ms(ASK_MS)),
            State::Proposing(proposal) => Some(proposal.since.after_ms(PROPOSE_MS)),
            State::Publishing { since, .. } => Some(since.after_ms(PUBLISH_MS)),
            State::Resting if self.skill(cx, ledger).is_none() => None,
            State::Resting => match self.reason(cx, ledger) {
                Some(_) => Some(self.look_at.max(cx.now)),
                None if self.reached.unsaved && !cx.liveness.is_alone() => Some(cx.now.after_ms(1000)),
                None => self.assigned.map(|_| self.improve_at.max(cx.now.after_ms(1000))),
            },
        };
        cx.arm(TimerKind::Form, at.into_iter().chain(self.dissolve_at).min());
    }

    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        self.leave(cx, ledger);
        match &self.state {
            State::Resting if self.leaving.is_some() => {}
            State::Resting => {
                if let Some(reason) = self.reason(cx, ledger).filter(|_| cx.now >= self.look_at) {
                    self.ask(cx, ledger, reason);
                }
            }
            State::Asking(asking) if cx.now >= asking.since.after_ms(ASK_MS) => self.propose(cx, ledger),
            State::Proposing(proposal) if cx.now >= proposal.since.after_ms(PROPOSE_MS) => {
                self.propose_again(cx, ledger);
            }
            State::Publishing { since, .. } if cx.now >= since.after_ms(PUBLISH_MS) => self.rest(cx),
            State::Asking(_) | State::Proposing(_) | State::Publishing { .. } => {}
        }
        self.arm(cx, ledger);
    }

    /// Gets nowhere now: looks again later.
    fn rest(&mut self, cx: &mut Cx<'_>) {
        self.state = State::Resting;
        let wait = BACK_OFF_MS.saturating_add(self.draws.below(BACK_OFF_MS.saturating_mul(4)));
        self.look_at = cx.now.after_ms(wait);
        self.improve_at = self.improve_at.max(cx.now.after_ms(IMPROVE_MS));
    }

    fn ask(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, reason: Reason) {
        let question = self.draws.next_u64();
        // Who is ahead begins alone, and posts what it has.
        let asked = match self.reached.ahead {
            true => Vec::new(),
            false => candidates(cx, ledger, &mut self.draws, &self.silent),
        };
        let asking = Asking { reason, question, since: cx.now, asked: asked.len(), skills: Vec::new() };
        self.state = State::Asking(Box::new(asking));
        asked.iter().for_each(|node| say(cx, *node, FormingWord::Ask { question }));
        if asked.is_empty() {
            self.propose(cx, ledger);
        }
    }

    pub(crate) fn on_message(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, message: &FormingMessage) {
        let from = message.node;
        if from == cx.config.node {
            return;
        }
        match &message.word {
            FormingWord::Ask { question } => self.offer(cx, ledger, from, *question),
            FormingWord::Offer { question, layer_us, declines } => {
                self.on_offer(cx, ledger, from, (*question, *layer_us, *declines));
            }
            FormingWord::Propose { terms } => self.on_proposal(cx, ledger, from, terms),
            FormingWord::Accept { quorum, signature } => self.on_accepted(cx, ledger, from, *quorum, *signature),
            FormingWord::Decline { quorum, why } => self.on_declined(cx, ledger, from, *quorum, *why),
        }
        self.arm(cx, ledger);
    }

    fn on_offer(
        &mut self,
        cx: &mut Cx<'_>,
        ledger: &Ledger,
        from: NodeId,
        (answered, layer_us, declines): (u64, u64, Option<Decline>),
    ) {
        let State::Asking(asking) = &mut self.state else { return };
        let Asking { question, since, asked, skills, .. } = &mut **asking;
        if answered != *question || skills.iter().any(|skill| skill.node == from) {
            return;
        }
        if declines.is_some() {
            *asked = asked.saturating_sub(1);
        } else if let Some(skill) = skill_of(ledger, from, layer_us, cx.now.ms_since(*since)) {
            skills.push(skill);
        }
        if skills.len() >= *asked {
            self.propose(cx, ledger);
        }
    }

    /// Proposes the best that can be made of those who answered.
    fn propose(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        let State::Asking(asking) = &self.state else { return };
        let (reason, skills) = (asking.reason, asking.skills.clone());
        if !self.propose_to(cx, ledger, reason, skills, 1) {
            self.rest(cx);
        }
    }

    /// The same without those who did not sign.
    fn propose_again(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        let State::Proposing(proposal) = &self.state else { return };
        let Proposal { reason, terms, signed, round, skills, .. } = &**proposal;
        let failed = |skill: &Skill| terms.plan.place(&skill.node).is_some() && !signed.contains_key(&skill.node);
        let left: Vec<Skill> = skills.iter().filter(|skill| !failed(skill)).copied().collect();
        let (reason, round) = (*reason, round.saturating_add(1));
        if round > ROUNDS_MAX || !self.propose_to(cx, ledger, reason, left, round) {
            self.rest(cx);
        }
    }

    fn propose_to(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, reason: Reason, skills: Vec<Skill>, round: u32) -> bool {
        let Some(own) = self.skill(cx, ledger) else { return false };
        if self.is_reserved(cx.now, None) {
            return false;
        }
        let genesis = &cx.config.genesis;
        let row = *genesis.params.at(ledger.size());
        let task = Task {
            model: &genesis.model,
            sequences: genesis.training.batch,
            members_min: usize::try_from(row.quorum_size).unwrap_or(usize::MAX),
        };
        let mine = ledger.quorum_of(&cx.config.node);
        let now = mine.map(|(_, quorum)| (quorum, quorum.ends_ms.saturating_sub(ledger.protocol_ms())));
        let Some(crew) = self.crew(&task, own, &skills, reason, now) else { return false };
        let batches =
            POST_US.div_ceil(crew.batch_us.max(1)).div_ceil(u64::from(row.sync_interval)).clamp(1, POST_INTERVALS_MAX);
        let snapshot_steps = u32::try_from(batches).unwrap_or(u32::MAX).saturating_mul(row.sync_interval);
        let Ok(members) = List::try_from(crew.members) else { return false };
        let plan = Plan { members, snapshot_steps };
        let ends: Vec<QuorumId> = mine.map(|(id, _)| id).into_iter().collect();
        let Ok(ends) = List::try_from(ends) else { return false };
        let terms = Terms { plan, batches: 1, ends, valid_until: cx.now.after_ms(GOOD_MS) };
        let quorum = terms.id(genesis.network());
        let members = u32::try_from(terms.plan.members.len()).unwrap_or(u32::MAX);
        cx.event(Event::QuorumProposed { quorum, members, batch_us: crew.batch_us });
        for member in terms.plan.members.iter().filter(|member| member.node != cx.config.node) {
            say(cx, member.node, FormingWord::Propose { terms: Box::new(terms.clone()) });
        }
        let digest = terms.digest(genesis.network());
        cx.tell(Local::Consent { quorum, digest, to: cx.config.node });
        let (signed, since) = (BTreeMap::new(), cx.now);
        let terms = Shared::from(terms);
        self.state = State::Proposing(Box::new(Proposal { reason, terms, quorum, signed, since, round, skills }));
        true
    }

    /// The members to propose, if it is worth it. `now` is the quorum of today, and how long its session still lasts.
    fn crew(
        &self,
        task: &Task<'_>,
        own: Skill,
        skills: &[Skill],
        reason: Reason,
        now: Option<(&Quorum, u64)>,
    ) -> Option<Crew> {
        let best = task.choose(own, skills)?;
        let Some((now, left_ms)) = now else { return Some(best) };
        let all: Vec<Skill> = skills.iter().copied().chain([own]).collect();
        let members: &[Member] = &now.plan.members;
        let today = task.batch_us(members, &all);
        let soon = u128::from(best.batch_us);
        let faster = |left_us: u128, again: u64| {
            // What was trained since the last post is trained again, and then what is left, in at most 80 % of the time.
            today.is_none_or(|today| {
                let again = u128::from(again).saturating_mul(soon);
                let rest = left_us.saturating_mul(soon).checked_div(u128::from(today));
                let takes = again.saturating_add(rest.unwrap_or(u128::MAX));
                takes.saturating_mul(10) <= left_us.saturating_mul(8)
            })
        };
        match reason {
            Reason::None | Reason::Silent => Some(best),
            Reason::Faster => {
                let again = self.reached.step.0.saturating_sub(self.anchor.0.0);
                Some(best).filter(|_| today.is_some() && faster(u128::from(left_ms).saturating_mul(1000), again))
            }
            Reason::Renewal if faster(1_000_000, 0) => Some(best),
            Reason::Renewal => Some(Crew { members: members.to_vec(), batch_us: today? }),
        }
    }

    /// A member, or this node itself, signed.
    pub(crate) fn on_accepted(
        &mut self,
        cx: &mut Cx<'_>,
        ledger: &Ledger,
        node: NodeId,
        quorum: QuorumId,
        signature: Signature,
    ) {
        let State::Proposing(proposal) = &mut self.state else { return };
        if proposal.quorum != quorum || proposal.terms.plan.place(&node).is_none() {
            return;
        }
        proposal.signed.insert(node, signature);
        let members = proposal.terms.plan.members.iter();
        let signatures: Option<Vec<Signature>> =
            members.map(|member| proposal.signed.get(&member.node).copied()).collect();
        let Some(acceptances) = signatures.and_then(|signatures| List::try_from(signatures).ok()) else { return };
        let action = Action::FormQuorum { terms: (*proposal.terms).clone(), acceptances };
        self.state = State::Publishing { quorum, since: cx.now };
        self.reserved = Some((quorum, cx.now.after_ms(RESERVED_MS)));
        cx.tell(Local::Act { action: Box::new(action), after: None });
        self.arm(cx, ledger);
    }

    fn on_declined(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, node: NodeId, quorum: QuorumId, why: Decline) {
        let State::Proposing(proposal) = &self.state else { return };
        if proposal.quorum == quorum && proposal.terms.plan.place(&node).is_some() {
            cx.event(Event::QuorumDeclined { quorum, node, why });
            self.propose_without(cx, ledger, node);
        }
    }

    fn propose_without(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, node: NodeId) {
        let State::Proposing(proposal) = &self.state else { return };
        let left: Vec<Skill> = proposal.skills.iter().filter(|skill| skill.node != node).copied().collect();
        let (reason, round) = (proposal.reason, proposal.round.saturating_add(1));
        if round > ROUNDS_MAX || !self.propose_to(cx, ledger, reason, left, round) {
            self.rest(cx);
        }
    }
}

/// Whether its operator lets this node form quorums.
fn may_join(cx: &Cx<'_>) -> bool {
    matches!(cx.config.operator.mode, None | Some(Mode::Pipeline)) && cx.config.plan.is_none()
}

fn say(cx: &mut Cx<'_>, to: NodeId, word: FormingWord) {
    let message = Message::Forming(Box::new(FormingMessage { node: cx.config.node, word }));
    cx.tell(Local::Say { to, message: Box::new(message) });
}

/// What a node can do for a pipeline, by what it registered; `None` if it cannot take part.
fn skill_of(ledger: &Ledger, node: NodeId, layer_us: u64, latency_ms: u64) -> Option<Skill> {
    let known = ledger.node(&node).filter(|known| known.standing == crate::ledger::Standing::Good)?;
    let description =
        known.description.filter(|description| description.tier != Tier::T5 && ledger.is_steady(&node))?;
    Some(Skill { node, held: description.held, layer_us, latency_ms, tier: description.tier })
}

fn stages_in(plan: &Plan, node: &NodeId) -> neuroshard_proto::LayerRange {
    let own = plan.members.iter().find(|member| member.node == *node);
    own.map_or(neuroshard_proto::LayerRange { start: 0, end: 0 }, |member| member.stages)
}
