//! Why a node trains or does not: what the agreed state and this node's own experience say of it, each with what to do
//! (PROTOCOL §2-§4).

use std::collections::BTreeSet;

use neuroshard_core::ledger::{Ledger, Standing};
use neuroshard_proto::{Decline, LayerRange, NodeId, QuorumId, Tier, Time};
use serde::{Deserialize, Serialize};

use crate::status::decline_text;
use crate::training::{holders, stages_in};

/// Digits that name a node at least.
pub const DIGITS_MIN: usize = 4;

/// What is to be said of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub node: String,
    /// Whether it is the node that answers.
    pub own: bool,
    /// Whether it is a member of an active quorum.
    pub trains: bool,
    /// The weightiest first.
    pub findings: Vec<Finding>,
}

/// Something that keeps a node from training, or tells how it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// One word for scripts.
    pub what: String,
    pub why: String,
    /// What a person could do about it.
    #[serde(rename = "do")]
    pub advice: Option<String>,
}

/// A node took no part in a quorum that the answering node proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declined {
    pub at: Time,
    pub node: NodeId,
    pub quorum: QuorumId,
    pub why: Decline,
}

/// What the answering node knows.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub ledger: &'a Ledger,
    pub own: NodeId,
    /// The stages of the model.
    pub all: LayerRange,
    /// Its mode and the reason for it, in words; `None` before its first benchmark.
    pub mode: Option<(String, String)>,
    /// Those it is connected to.
    pub peers: BTreeSet<NodeId>,
    /// The newest last.
    pub declined: Vec<Declined>,
    pub now: Time,
}

/// Why the first digits of a name name no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoNode {
    /// They are no digits of a name, or too few.
    Digits,
    /// No node that is registered or connected begins with them.
    Unknown,
    /// Several do.
    Several { nodes: usize },
}

impl std::fmt::Display for NoNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digits => {
                write!(f, "this is no name of a node: it takes the first {DIGITS_MIN} to 64 hexadecimal digits")
            }
            Self::Unknown => f.write_str(
                "no node that is registered here or connected begins with these digits. `neuroshard network nodes` lists \
                 all; one that is neither is named by all 64 digits",
            ),
            Self::Several { nodes } => write!(f, "{nodes} nodes begin with these digits; give more of them"),
        }
    }
}

impl std::error::Error for NoNode {}

impl Facts<'_> {
    /// The node that the first digits of a name mean, among those that are known; a whole name means itself.
    ///
    /// # Errors
    /// If they mean none, or several.
    pub fn find(&self, digits: &str) -> Result<NodeId, NoNode> {
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal || !(DIGITS_MIN..=64).contains(&digits.len()) {
            return Err(NoNode::Digits);
        }
        let digits = digits.to_ascii_lowercase();
        if let Some(whole) = neuroshard_proto::Hash::from_hex(&digits) {
            return Ok(NodeId::from_bytes(*whole.as_bytes()));
        }
        let registered = self.ledger.nodes().map(|(node, _)| *node);
        let known: BTreeSet<NodeId> = registered.chain(self.peers.iter().copied()).chain([self.own]).collect();
        let found: Vec<NodeId> = known.into_iter().filter(|node| node.to_string().starts_with(&digits)).collect();
        match found[..] {
            [] => Err(NoNode::Unknown),
            [node] => Ok(node),
            _ => Err(NoNode::Several { nodes: found.len() }),
        }
    }

    /// What is to be said of a node.
    pub fn why(&self, node: NodeId) -> Why {
        let own = node == self.own;
        let quorum = self.ledger.quorum_of(&node);
        let mut findings = Vec::new();
        if let Some((id, quorum)) = quorum {
            let stages = stages_in(quorum, &node).map_or(String::new(), |stages| stages.to_string());
            let left = quorum.ends_ms.saturating_sub(self.ledger.protocol_ms()) / 1000;
            let members = quorum.plan.members.len();
            findings.push(finding(
                "member",
                format!(
                    "it is one of {members} members of quorum {id:.16} and runs the stages {stages} of {}; the session ends in \
                     {left} s",
                    self.all
                ),
                None,
            ));
        }
        findings.extend(self.registration(node));
        if quorum.is_none() && self.ledger.node(&node).is_some_and(|known| known.standing == Standing::Good) {
            findings.extend(self.ability(node));
            findings.extend(self.others(node));
        }
        findings.extend(self.connection(node));
        if own && let Some((mode, reason)) = &self.mode {
            findings.push(finding("mode", format!("its mode is {mode}: {reason}"), None));
        }
        findings.extend(self.declines(node));
        Why { node: node.to_string(), own, trains: quorum.is_some(), findings }
    }

    /// Whether the ledger knows it.
    fn registration(&self, node: NodeId) -> Option<Finding> {
        let own = node == self.own;
        let Some(known) = self.ledger.node(&node) else {
            let advice = if own {
                "it registers itself once it has solved a puzzle, in a minute or a few, and a block holds its wish: let it run"
            } else {
                "if it runs, look there with the same command; it may belong to another network"
            };
            return Some(finding("unregistered", "it is not registered in this network", Some(advice)));
        };
        let gone = match known.standing {
            Standing::Good => return None,
            Standing::Revoked => "its owner revoked it",
            Standing::Convicted => "it contradicted itself as a validator and was convicted",
        };
        let advice = "a node's key is good once: begin with a new --data-dir";
        Some(finding("retired", format!("{gone}; it has no voice any more"), Some(advice)))
    }

    /// Whether it can be a member by what it said of itself.
    fn ability(&self, node: NodeId) -> Vec<Finding> {
        let Some(description) = self.ledger.node(&node).and_then(|known| known.description) else {
            let advice = "it does so after its self-benchmark; if it never does, --memory is too small for a stage, or too \
                          little is bonded for its messages";
            return vec![finding("undescribed", "it has not said yet what it can and holds", Some(advice))];
        };
        let (tier, held) = (description.tier, description.held);
        let mut findings = Vec::new();
        if tier == Tier::T5 {
            let advice = "a faster device (--adapter), or more of it (--threads)";
            findings.push(finding("slow", "it is of the slowest tier, T5, which is in no quorum", Some(advice)));
        }
        if !self.ledger.is_steady(&node) {
            let advice = "let it run: epochs are a minute, and the last hundred count";
            let text = "it missed more than a tenth of its last hundred epochs, and members may not";
            findings.push(finding("unsteady", text, Some(advice)));
        }
        let rest = if held == self.all { "" } else { "; others must run the rest" };
        findings.push(finding("holds", format!("it has room for the stages {held} of {}{rest}", self.all), None));
        findings
    }

    /// Whether others leave it a place.
    fn others(&self, node: NodeId) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (id, quorum) in self.ledger.active_quorums() {
            let members = quorum.plan.members.len();
            let text = format!(
                "quorum {id:.16} trains with {members} members, and one trains in a network until what several learn can be merged; it \
                 stands by to join or to replace a member"
            );
            findings.push(finding("stands-by", text, None));
            let tier = |node: &NodeId| Some(self.ledger.node(node)?.description?.tier);
            let apart = |theirs: Tier| tier(&node).is_some_and(|own| own != Tier::T5 && !own.compatible(theirs));
            let strange = quorum.plan.members.iter().find(|member| tier(&member.node).is_some_and(apart));
            if let (Some(member), Some(own)) = (strange, tier(&node)) {
                let theirs = tier(&member.node).map_or(String::new(), |tier| tier.to_string());
                let text = format!("its speed, {own}, does not go with that of member {:.16}, {theirs}", member.node);
                findings.push(finding("speed", text, None));
            }
        }
        if findings.is_empty() {
            findings.extend(self.gap());
            findings.extend(self.too_few());
        }
        findings
    }

    /// Stages that nobody has room for: without them no quorum is complete.
    fn gap(&self) -> Option<Finding> {
        let held: Vec<LayerRange> = holders(self.ledger).map(|(_, held)| held).collect();
        let missing = self.all.iter().filter(|stage| !held.iter().any(|held| held.contains(*stage)));
        let missing: Vec<String> = missing.map(|stage| stage.to_string()).collect();
        let first = missing.first()?;
        let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
        let advice = "nodes whose stages others hold as well move there, half of them at each epoch's end; if none has room, give one \
                      more --memory, or add a node";
        Some(finding(
            "gap",
            format!("no node has room for stage {first}{more}, so no quorum is complete"),
            Some(advice),
        ))
    }

    /// Whether there are as many nodes that could be members as a quorum takes.
    fn too_few(&self) -> Option<Finding> {
        let least = self.ledger.params().at(self.ledger.size()).quorum_size as usize;
        let able = holders(self.ledger).filter(|(node, _)| self.ledger.is_steady(node)).count();
        let text = format!("a quorum takes {least} members in a network of this size, and {able} nodes could be one");
        (able < least).then(|| finding("too-few", text, Some("more nodes: `neuroshard invite`")))
    }

    /// Whether this node can speak to it.
    fn connection(&self, node: NodeId) -> Option<Finding> {
        let advice = Some("`neuroshard doctor --network` says who can be reached");
        if node == self.own {
            let text = "it is connected to nobody, and can train alone at most";
            return self.peers.is_empty().then(|| finding("nobody", text, advice));
        }
        let text = "the node that answers is not connected to it, and asks only those whom it hears";
        (!self.peers.contains(&node)).then(|| finding("unheard", text, advice))
    }

    /// Who declined of late: this node's proposals, if it is asked of itself; else what that node declined.
    fn declines(&self, node: NodeId) -> Vec<Finding> {
        let mut seen = BTreeSet::new();
        let mut findings = Vec::new();
        for declined in self.declined.iter().rev() {
            let concerns = node == self.own || declined.node == node;
            if !concerns || !seen.insert((declined.node, declined.why)) {
                continue;
            }
            let ago = self.now.ms_since(declined.at) / 1000;
            let (who, why) = (declined.node, decline_text(declined.why));
            let text = format!("{ago} s ago node {who:.16} took no part in quorum {:.16}: {why}", declined.quorum);
            findings.push(finding("declined", text, None));
        }
        findings
    }
}

fn finding(what: &str, why: impl Into<String>, advice: Option<&str>) -> Finding {
    Finding { what: what.to_owned(), why: why.into(), advice: advice.map(str::to_owned) }
}
