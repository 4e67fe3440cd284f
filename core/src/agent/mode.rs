//! How this node contributes (PROTOCOL §2): the first rule that holds.
//!
//! Rules 4 to 8 need other nodes' quorums, inference, verification and data, which are not there yet; until they are, a
//! node that is not alone waits as Async or Idle. The agreed network size is 1 until there is a ledger.

use neuroshard_proto::{Mode, Tier};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::cx::{Cx, Local};
use crate::io::{Event, ModeReason};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModePart {
    mode: Option<(Mode, ModeReason)>,
    /// `None` until the first benchmark ended; then its verdict.
    tier: Option<Option<Tier>>,
    live_peers: u32,
}

impl ModePart {
    pub(crate) fn on_peers(&mut self, cx: &mut Cx<'_>, live: u32) {
        self.live_peers = live;
        self.choose(cx);
    }

    pub(crate) fn on_tier(&mut self, cx: &mut Cx<'_>, tier: Option<Tier>) {
        self.tier = Some(tier);
        self.choose(cx);
    }

    fn choose(&mut self, cx: &mut Cx<'_>) {
        let Some(tier) = self.tier else { return };
        let choice = choose(cx.config, tier, self.live_peers);
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

/// PROTOCOL §2's selection. The memory rule decides what the node holds: all layers or, while there is nobody to
/// share a model with, none.
fn choose(config: &Config, tier: Option<Tier>, live_peers: u32) -> (Mode, ModeReason) {
    let (model, operator) = (config.genesis.model, config.operator);
    let planned = config.plan.as_ref().is_some_and(|plan| plan.place(&config.node).is_some());
    let needed = model.training_bytes(config.stages());
    let allowed = config.genesis.params.holding_share.of(operator.memory_bytes);
    if needed > allowed {
        return (Mode::Idle, ModeReason::TooLittleMemory { needed, allowed });
    }
    let Some(tier) = tier else { return (Mode::Idle, ModeReason::NoTier) };
    if planned {
        return (Mode::Pipeline, ModeReason::Planned);
    }
    if live_peers == 0 {
        return (Mode::Solo, ModeReason::Alone);
    }
    match operator.mode {
        Some(mode @ (Mode::Async | Mode::Idle)) => return (mode, ModeReason::Operator),
        Some(Mode::Solo | Mode::Pipeline | Mode::Data | Mode::Verify | Mode::Inference) | None => {}
    }
    if tier == Tier::T5 {
        return (Mode::Async, ModeReason::SlowTier);
    }
    (Mode::Async, ModeReason::HoldsLayers)
}
