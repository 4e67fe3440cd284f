//! How this node contributes (PROTOCOL §2): the first rule that holds.
//!
//! Rules 6 to 8 need inference, verification and data, which are not there yet. Rules 4 and 5 hold where the ledger says so: a
//! node trains in a pipeline when it is a member of an agreed quorum, and is Async while it looks for one or stands by.

use neuroshard_proto::{Mode, Tier};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::cx::{Cx, Local};
use crate::io::{Event, ModeReason};
use crate::ledger::Ledger;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModePart {
    mode: Option<(Mode, ModeReason)>,
    /// `None` until the first benchmark ended; then its verdict.
    tier: Option<Option<Tier>>,
    live_peers: u32,
    agreed: Agreed,
}

/// What the agreed world says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Agreed {
    /// This node is a member of a quorum.
    member: bool,
    /// Some quorum trains.
    quorums: bool,
    /// This node is registered, and has said what it can.
    registered: bool,
    /// The network has more than one node.
    many: bool,
    /// The network has nodes, and this one is none of them yet.
    stranger: bool,
}

impl ModePart {
    pub(crate) fn on_peers(&mut self, cx: &mut Cx<'_>, live: u32) {
        self.live_peers = live;
        self.choose(cx);
    }

    /// This node is a member of a quorum from now on, or of none.
    pub(crate) fn on_assigned(&mut self, cx: &mut Cx<'_>, member: bool) {
        self.agreed.member = member;
        self.choose(cx);
    }

    /// The ledger has moved on.
    pub(crate) fn on_head(&mut self, cx: &mut Cx<'_>, ledger: &Ledger) {
        let described = ledger.node(&cx.config.node).is_some_and(|node| node.description.is_some());
        let quorums = ledger.active_quorums().next().is_some();
        let stranger = ledger.node(&cx.config.node).is_none();
        let many = ledger.size() > 1;
        let agreed = Agreed { quorums, registered: described, many, stranger, ..self.agreed };
        if agreed != self.agreed {
            self.agreed = agreed;
            self.choose(cx);
        }
    }

    pub(crate) fn on_tier(&mut self, cx: &mut Cx<'_>, tier: Option<Tier>) {
        self.tier = Some(tier);
        self.choose(cx);
    }

    fn choose(&mut self, cx: &mut Cx<'_>) {
        let Some(tier) = self.tier else { return };
        let choice = choose(cx.config, tier, self.live_peers, self.agreed);
        if self.mode != Some(choice) {
            self.mode = Some(choice);
            let (mode, reason) = choice;
            cx.event(Event::ModeChosen { mode, reason });
            cx.tell(Local::Mode(mode));
        }
    }

    pub(crate) fn mode(&self) -> Option<Mode> {
        self.mode.map(|(mode, _)| mode)
    }
}

/// PROTOCOL §2's selection. By the memory rule a node holds all stages, or those that it has room for; alone it can only train
/// all.
fn choose(config: &Config, tier: Option<Tier>, live_peers: u32, agreed: Agreed) -> (Mode, ModeReason) {
    let (model, operator) = (config.genesis.model, config.operator);
    let planned = config.plan.as_ref().is_some_and(|plan| plan.place(&config.node).is_some());
    let needed = model.training_bytes(config.stages());
    let allowed = config.genesis.params.holding_share.of(operator.memory_bytes);
    let too_little = (Mode::Idle, ModeReason::TooLittleMemory { needed, allowed });
    let alone = live_peers == 0 && !agreed.many && !agreed.quorums && !agreed.stranger;
    if needed > allowed && (planned || alone || !agreed.registered) {
        return too_little;
    }
    let Some(tier) = tier else { return (Mode::Idle, ModeReason::NoTier) };
    if planned {
        return (Mode::Pipeline, ModeReason::Planned);
    }
    if agreed.member {
        return (Mode::Pipeline, ModeReason::Member);
    }
    if alone {
        return (Mode::Solo, ModeReason::Alone);
    }
    match operator.mode {
        Some(mode @ (Mode::Async | Mode::Idle)) => return (mode, ModeReason::Operator),
        Some(Mode::Solo | Mode::Pipeline | Mode::Data | Mode::Verify | Mode::Inference) | None => {}
    }
    if tier == Tier::T5 {
        return (Mode::Async, ModeReason::SlowTier);
    }
    let reason = match agreed {
        Agreed { quorums: true, .. } => ModeReason::StandsBy,
        Agreed { registered: true, .. } => ModeReason::Looks,
        Agreed { .. } => ModeReason::HoldsLayers,
    };
    (Mode::Async, reason)
}
