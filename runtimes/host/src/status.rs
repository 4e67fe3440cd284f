//! What a node tells its operator: one value, kept up to date by the node's loop, read by display and API.

use std::collections::VecDeque;

use neuroshard_core::ledger::Ledger;
use neuroshard_core::{Config, Event, ModeReason, PeerFault, Progress, SavedState};
use neuroshard_proto::{Decline, Manifest, OwnerId, Time, WIRE_VERSION};
use serde::{Deserialize, Serialize};

use crate::net::NetStatus;
use crate::network::Network;

/// Steps whose speed is averaged.
const SPEED_STEPS_MAX: usize = 64;
/// Time over which speed is averaged.
const SPEED_MS: u64 = 10_000;
/// Losses kept for the display.
pub const LOSSES_MAX: usize = 512;

/// A node at one moment. Times are milliseconds; losses are nats per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub wire_version: u16,
    /// Whether a process works on this data directory now.
    pub running: bool,
    /// That process.
    pub process: Option<u32>,
    pub data_dir: String,
    /// The network's id and this node's, in hexadecimal.
    pub network: String,
    pub node: String,
    /// The preset, or `custom`.
    pub preset: String,
    pub parameters: u64,
    /// What the network's data was packed from.
    pub data: String,
    pub text_bytes: u64,
    /// Optimizer steps since genesis.
    pub step: u64,
    /// Where the operator wants to stop.
    pub steps_limit: Option<u64>,
    /// Tokens trained on since genesis.
    pub tokens: u64,
    /// Time spent training since genesis.
    pub trained_ms: u64,
    pub tokens_per_s: Option<f64>,
    /// The loss of the last batch, before its step.
    pub loss: Option<Loss>,
    /// The loss on data that is never trained on, and after which step.
    pub held_out: Option<Loss>,
    pub tier: Option<String>,
    /// What the tier follows from.
    pub layer_us: Option<u64>,
    pub mode: Option<String>,
    pub mode_reason: Option<String>,
    /// Whom the node trains with; `None` if it has no plan.
    #[serde(default)]
    pub quorum: Option<QuorumStatus>,
    #[serde(skip)]
    all_stages: String,
    /// What computes, and why it was chosen.
    pub adapter: Option<String>,
    pub adapter_reason: Option<String>,
    /// The last durable state.
    pub saved: Option<Saved>,
    /// The root of the state that the executor took up at the start.
    pub started_from: Option<StateRoot>,
    /// What the network has agreed on, and what it holds for this node's owner.
    pub agreed: Option<AgreedStatus>,
    /// How the network stands; `None` if the node has no part in one.
    #[serde(default)]
    pub net: Option<NetStatus>,
    /// Batches that were skipped because a value left its range.
    pub voids: u64,
    /// Bytes of all blobs in the store.
    pub store_bytes: u64,
    pub uptime_ms: Option<u64>,
    /// The network's time of this status.
    pub at_ms: Option<u64>,
    /// The last thing that went wrong, in words.
    pub trouble: Option<String>,
}

/// The node's part in a quorum (PROTOCOL §4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// Name of the plan: equal names, equal plans.
    pub quorum: String,
    pub members: u64,
    /// The stages of this node, and of the whole model.
    pub stages: String,
    pub all_stages: String,
    /// The beginning that is in force, and the step from which all went on then; `None` before the members have met.
    pub term: Option<u64>,
    pub began_at_step: Option<u64>,
    /// How long ago the quorum began or took a step, whichever was later.
    pub lag_ms: Option<u64>,
}

/// A loss in the two units people use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub step: u64,
    /// Nats per token.
    pub nats: f64,
    pub bits_per_byte: f64,
}

/// A durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub step: u64,
    /// Root over the tiles of all weights and moments: equal roots, equal models to the last bit.
    pub root: String,
    pub bytes: u64,
    /// When it became durable, by the network's time.
    pub at_ms: Option<u64>,
}

/// A state by its root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRoot {
    pub step: u64,
    pub root: String,
}

/// The agreed world in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreedStatus {
    /// Decided blocks.
    pub height: u64,
    /// Root of the agreed state: equal roots, equal worlds.
    pub root: String,
    pub epoch: u64,
    /// This owner's account, in hexadecimal, and what it can spend and has at stake, in units of 10^-9 NEURO.
    pub account: String,
    pub balance_units: u64,
    pub bond_units: u64,
}

impl AgreedStatus {
    pub fn new(ledger: &Ledger, owner: OwnerId) -> Self {
        let account = ledger.account(&owner);
        Self {
            height: ledger.head().height,
            root: ledger.root().to_string(),
            epoch: ledger.epoch(),
            account: owner.to_string(),
            balance_units: account.map_or(0, |account| account.spendable(ledger.protocol_ms()).units()),
            bond_units: account.map_or(0, |account| account.bonds().units()),
        }
    }
}

/// Turns the core's integer losses into numbers for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    tokens_per_byte: f64,
}

impl LossScale {
    pub fn new(manifest: &Manifest) -> Self {
        Self { tokens_per_byte: manifest.tokens() as f64 / manifest.text_bytes.max(1) as f64 }
    }

    /// The mean loss of `tokens` tokens whose losses sum to `loss_micro` micro-nats.
    pub fn loss(&self, step: u64, loss_micro: i64, tokens: u64) -> Loss {
        let nats = loss_micro as f64 / 1e6 / tokens.max(1) as f64;
        Loss { step, nats, bits_per_byte: nats * self.tokens_per_byte / std::f64::consts::LN_2 }
    }
}

impl Status {
    /// A node that has not started yet, or does not run.
    pub fn new(network: &Network, node: String, data_dir: String) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire_version: WIRE_VERSION,
            running: false,
            process: None,
            data_dir,
            network: network.genesis.network().to_string(),
            node,
            preset: network.model_name().to_owned(),
            parameters: network.genesis.model.parameters(),
            data: network.source.to_string(),
            text_bytes: network.manifest.text_bytes,
            step: 0,
            steps_limit: None,
            tokens: 0,
            trained_ms: 0,
            tokens_per_s: None,
            loss: None,
            held_out: None,
            tier: None,
            layer_us: None,
            mode: None,
            mode_reason: None,
            quorum: None,
            adapter: None,
            adapter_reason: None,
            all_stages: String::new(),
            saved: None,
            started_from: None,
            agreed: None,
            net: None,
            voids: 0,
            store_bytes: 0,
            uptime_ms: None,
            at_ms: None,
            trouble: None,
        }
    }

    /// Notes the newest durable state, as the journal has it.
    pub fn on_restored(&mut self, newest: Option<&SavedState>) {
        let Some(SavedState { snapshot, progress, .. }) = newest else { return };
        self.step = snapshot.step.0;
        self.on_progress(progress);
        self.saved =
            Some(Saved { step: snapshot.step.0, root: snapshot.root.to_string(), bytes: snapshot.bytes, at_ms: None });
    }

    /// Notes whom the node trains with.
    pub fn on_plan(&mut self, config: &Config) {
        self.all_stages = config.genesis.model.all_layers().to_string();
        self.quorum = config.plan.as_ref().map(|plan| QuorumStatus {
            quorum: plan.id(config.genesis.network()).to_string(),
            members: plan.members.len() as u64,
            stages: config.stages().to_string(),
            all_stages: self.all_stages.clone(),
            term: None,
            began_at_step: None,
            lag_ms: None,
        });
    }

    /// Notes how far training has come.
    pub fn on_progress(&mut self, progress: &Progress) {
        self.tokens = progress.tokens;
        self.trained_ms = progress.trained_ms;
        self.voids = progress.voids;
    }
}

/// A status that follows a running node.
#[derive(Clone, Debug)]
pub struct Follower {
    pub status: Status,
    scale: LossScale,
    speed: VecDeque<(Time, u64)>,
    /// When the quorum began or took a step last.
    moved: Option<Time>,
    /// The latest losses in nats, the newest last: one a step.
    pub losses: VecDeque<f64>,
}

impl Follower {
    pub fn new(status: Status, scale: LossScale) -> Self {
        Self { status, scale, speed: VecDeque::new(), moved: None, losses: VecDeque::new() }
    }

    /// What follows from the time alone.
    pub fn on_time(&mut self, now: Time) {
        self.status.at_ms = Some(now.as_ms());
        if let (Some(quorum), Some(moved)) = (&mut self.status.quorum, self.moved) {
            quorum.lag_ms = Some(now.ms_since(moved));
        }
    }

    /// The loss in an event, if it has one.
    pub fn loss_of(&self, event: &Event) -> Option<Loss> {
        match event {
            Event::Stepped { step, loss_micro, tokens, .. } | Event::HeldOut { step, loss_micro, tokens } => {
                Some(self.scale.loss(step.0, *loss_micro, *tokens))
            }
            _ => None,
        }
    }

    /// Takes note of what the core tells, and of how far training had come then.
    pub fn on_event(&mut self, now: Time, event: &Event, progress: &Progress) {
        let loss = self.loss_of(event);
        let status = &mut self.status;
        if progress.tokens > 0 {
            status.on_progress(progress);
        }
        match event {
            Event::TierMeasured { layer_us, tier } => {
                status.tier = Some(tier.to_string());
                status.layer_us = Some(*layer_us);
            }
            Event::ModeChosen { mode, reason } => {
                status.mode = Some(mode.to_string());
                status.mode_reason = Some(reason_text(reason));
            }
            Event::StateReady { step, root } => {
                status.step = step.0;
                status.started_from = Some(StateRoot { step: step.0, root: root.to_string() });
                self.speed.clear();
            }
            Event::QuorumJoined { quorum, members, stages } => {
                status.quorum = Some(QuorumStatus {
                    quorum: quorum.to_string(),
                    members: u64::from(*members),
                    stages: stages.to_string(),
                    all_stages: status.all_stages.clone(),
                    term: None,
                    began_at_step: None,
                    lag_ms: None,
                });
            }
            Event::QuorumLeft => status.quorum = None,
            Event::QuorumBegan { term, step, .. } => {
                self.moved = Some(now);
                if let Some(quorum) = &mut status.quorum {
                    (quorum.term, quorum.began_at_step) = (Some(*term), Some(step.0));
                }
            }
            Event::Stepped { step, tokens, .. } => {
                self.moved = Some(now);
                status.step = step.0;
                status.loss = loss;
                self.on_tokens(now, *tokens);
                if let Some(loss) = loss {
                    self.losses.push_back(loss.nats);
                    while self.losses.len() > LOSSES_MAX {
                        self.losses.pop_front();
                    }
                }
            }
            Event::HeldOut { .. } => status.held_out = loss,
            Event::Saved { step, root, bytes } => {
                status.saved =
                    Some(Saved { step: step.0, root: root.to_string(), bytes: *bytes, at_ms: Some(now.as_ms()) });
            }
            Event::JobFailed { fault, .. } => status.trouble = Some(fault.to_string()),
            _ => {}
        }
    }

    fn on_tokens(&mut self, now: Time, tokens: u64) {
        self.speed.push_back((now, tokens));
        while self.speed.len() > SPEED_STEPS_MAX
            || (self.speed.len() > 2 && self.speed.front().is_some_and(|(at, _)| now.ms_since(*at) > SPEED_MS))
        {
            self.speed.pop_front();
        }
        // The first entry only marks where counting starts.
        let Some((first, _)) = self.speed.front() else { return };
        let counted: u64 = self.speed.iter().skip(1).map(|(_, tokens)| tokens).sum();
        let ms = now.ms_since(*first);
        if ms > 0 {
            self.status.tokens_per_s = Some(counted as f64 * 1000.0 / ms as f64);
        }
    }
}

/// Why a node takes no part in a quorum, in words.
pub const fn decline_text(why: Decline) -> &'static str {
    match why {
        Decline::Unwilling => "its operator, its speed or its memory keep it from training with others",
        Decline::Taken => "it is a member of another quorum",
        Decline::Reserved => "it gave its word to others a moment ago",
        Decline::Precedence => "it proposes a quorum itself, which has precedence",
        Decline::Stages => "it does not hold the stages that it should run",
        Decline::Lapsed => "the terms are good no longer; do the clocks agree?",
        Decline::Ahead => "it has trained further alone, and posts that first",
    }
}

/// What a peer did wrong, in words.
pub fn peer_fault_text(fault: &PeerFault) -> String {
    match fault {
        PeerFault::OtherQuorum { node } => format!(
            "node {node:.16} trains by another plan than this node, or has none of its stages. All members must be started \
             with the same plan file, to the letter in its numbers; `neuroshard status` shows the plan's name"
        ),
        other => format!("{other:?}"),
    }
}

/// A reason in words.
pub fn reason_text(reason: &ModeReason) -> String {
    match reason {
        ModeReason::Alone => "the only node of its network".to_owned(),
        ModeReason::Operator => "the operator's choice".to_owned(),
        ModeReason::Planned => "the operators' plan".to_owned(),
        ModeReason::Member => "a member of a quorum".to_owned(),
        ModeReason::StandsBy => "a quorum trains without it; it stands by".to_owned(),
        ModeReason::Looks => "it looks for others to train with".to_owned(),
        ModeReason::NoTier => "the self-benchmark failed".to_owned(),
        ModeReason::SlowTier => "the slowest tier trains offline".to_owned(),
        ModeReason::HoldsLayers => "it holds layers and nothing else has need of it".to_owned(),
        ModeReason::TooLittleMemory { needed, allowed } => format!(
            "the model needs {}, {} are allowed (80 % of --memory)",
            crate::store::ByteCount(*needed),
            crate::store::ByteCount(*allowed)
        ),
    }
}
