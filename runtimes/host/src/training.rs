//! Who trains what, as a running node's local API shows it: active quorums, registered nodes, and the stages of the model
//! (PROTOCOL §2-§4). All of it is read from the agreed state. Times are protocol time in milliseconds, shares are 0 to 1.

use neuroshard_core::ledger::{Ledger, Node, Standing};
use neuroshard_proto::{LayerIndex, LayerRange, NodeId, Ratio};
use serde::{Deserialize, Serialize};

/// Nodes that a list names at most; more are counted.
pub const NODES_MAX: usize = 2048;
/// Holders of a stage that are named at most; more are counted.
pub const HOLDERS_MAX: usize = 16;

/// A quorum whose session is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumInfo {
    pub quorum: String,
    /// In the order of their stages; the first one leads.
    pub members: Vec<MemberInfo>,
    /// Batches that a step accumulates, and steps after which all members save and post.
    pub batches: u32,
    pub snapshot_steps: u32,
    /// When its session began, from when on the same members may renew it, and when it ends.
    pub began_ms: u64,
    pub renews_from_ms: u64,
    pub ends_ms: u64,
    /// When the first quorum began that this one goes on from, by renewals and replacements.
    pub first_ms: u64,
    pub now_ms: u64,
}

/// A member and the stages that it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    pub node: String,
    pub stages: String,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node: String,
    pub owner: String,
    /// `good`, `revoked` or `convicted`.
    pub standing: String,
    /// What it says of itself; `None` if it has not said anything yet.
    pub tier: Option<String>,
    pub held: Option<String>,
    pub memory_bytes: Option<u64>,
    pub storage_bytes: Option<u64>,
    /// The quorum that takes it, and the stages that it runs there.
    pub quorum: Option<String>,
    pub stages: Option<String>,
    /// Share of the last hundred epochs in which it was attested; `None` before the first.
    pub uptime: Option<f64>,
    pub reputation: Option<f64>,
}

/// Registered nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// In the order of their names, [`NODES_MAX`] at most.
    pub nodes: Vec<NodeInfo>,
    /// How many there are.
    pub total: u64,
}

/// A stage of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    pub stage: u32,
    /// Nodes that have room for it, [`HOLDERS_MAX`] at most, and how many there are.
    pub holders: Vec<String>,
    pub holders_total: u64,
    /// Who trains it now.
    pub runs: Vec<String>,
    /// The newest step of which its state was posted, and by whom.
    pub posted: Option<PostInfo>,
    /// The same of the step of which all stages were posted: where whoever comes begins.
    pub anchored: Option<PostInfo>,
}

/// A posted state of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostInfo {
    pub step: u64,
    pub node: String,
}

/// All active quorums.
pub fn quorums(ledger: &Ledger) -> Vec<QuorumInfo> {
    let params = ledger.params().quorums;
    let info = |(id, quorum): (neuroshard_proto::QuorumId, &neuroshard_core::ledger::Quorum)| {
        let members = quorum.plan.members.iter();
        let member = |member: &neuroshard_proto::Member| MemberInfo {
            node: member.node.to_string(),
            stages: member.stages.to_string(),
        };
        QuorumInfo {
            quorum: id.to_string(),
            members: members.map(member).collect(),
            batches: quorum.batches,
            snapshot_steps: quorum.plan.snapshot_steps,
            began_ms: quorum.began_ms,
            renews_from_ms: quorum.renews_from_ms(&params),
            ends_ms: quorum.ends_ms,
            first_ms: quorum.first_ms,
            now_ms: ledger.protocol_ms(),
        }
    };
    ledger.active_quorums().map(info).collect()
}

/// All nodes that were ever registered.
pub fn nodes(ledger: &Ledger) -> NodeList {
    let nodes = ledger.nodes().take(NODES_MAX).map(|(node, known)| node_info(ledger, node, known));
    NodeList { nodes: nodes.collect(), total: ledger.nodes().count() as u64 }
}

fn node_info(ledger: &Ledger, node: &NodeId, known: &Node) -> NodeInfo {
    let description = known.description;
    let share = |ratio: Ratio| f64::from(ratio.ppm()) / 1e6;
    let quorum = ledger.quorum_of(node);
    let stages = quorum.and_then(|(_, quorum)| stages_in(quorum, node));
    NodeInfo {
        node: node.to_string(),
        owner: known.owner.to_string(),
        standing: match known.standing {
            Standing::Good => "good",
            Standing::Revoked => "revoked",
            Standing::Convicted => "convicted",
        }
        .to_owned(),
        tier: description.map(|description| description.tier.to_string()),
        held: description.map(|description| description.held.to_string()),
        memory_bytes: description.map(|description| description.memory_bytes),
        storage_bytes: description.map(|description| description.storage_bytes),
        quorum: quorum.map(|(id, _)| id.to_string()),
        stages: stages.map(|stages| stages.to_string()),
        uptime: ledger.uptime(node).map(share),
        reputation: ledger.reputation(node).map(share),
    }
}

/// The stages that a member of a quorum runs.
pub(crate) fn stages_in(quorum: &neuroshard_core::ledger::Quorum, node: &NodeId) -> Option<LayerRange> {
    quorum.plan.members.iter().find(|member| member.node == *node).map(|member| member.stages)
}

/// All stages of a model.
pub fn layers(ledger: &Ledger, all: LayerRange) -> Vec<LayerInfo> {
    let held: Vec<(&NodeId, LayerRange)> = holders(ledger).collect();
    let info = |stage: LayerIndex| {
        let holders = held.iter().filter(|(_, range)| range.contains(stage));
        let members = ledger.active_quorums().flat_map(|(_, quorum)| quorum.plan.members.iter());
        let runs = members.filter(|member| member.stages.contains(stage)).map(|member| member.node.to_string());
        let posts = ledger.stage(stage).map(|stage| &stage.posts[..]).unwrap_or_default();
        let post =
            |post: &neuroshard_core::ledger::Post| PostInfo { step: post.anchor.step.0, node: post.node.to_string() };
        LayerInfo {
            stage: stage.0,
            holders: holders.clone().take(HOLDERS_MAX).map(|(node, _)| node.to_string()).collect(),
            holders_total: holders.count() as u64,
            runs: runs.collect(),
            posted: posts.iter().max_by_key(|post| post.anchor.step).map(post),
            anchored: posts.iter().find(|post| Some(post.anchor) == ledger.anchor()).map(post),
        }
    };
    all.iter().map(info).collect()
}

/// Nodes in good standing with the stages that they say they have room for.
pub(crate) fn holders(ledger: &Ledger) -> impl Iterator<Item = (&NodeId, LayerRange)> {
    let good = ledger.nodes().filter(|(_, known)| known.standing == Standing::Good);
    good.filter_map(|(node, known)| Some((node, known.description?.held)))
}
