//! What members persisted of the model (PROTOCOL §4). Until cohorts agree on anchors, this is where those begin who join or
//! replace a member: the newest step after which every stage was persisted. It outlives the quorum that posted it.
//!
//! A post is its poster's word alone: whoever takes stages up checks that their bytes are what was posted, not that they were
//! trained honestly. Proofs and cohorts are for that (PROTOCOL §5, §8).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{LayerBlobs, LayerRange, NodeId, PostedStages, Progress, QuorumId, Step, tile};
use serde::{Deserialize, Serialize};

use super::part::Module;
use super::{Refusal, State};

/// Steps of which posts are kept: an anchor, the one before for those who take it up just now, and one that is not whole yet.
const STEPS_MAX: usize = 3;

/// Stages that a node persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    /// Who gives them.
    pub holder: NodeId,
    pub stages: LayerRange,
    pub layers: Vec<LayerBlobs>,
    pub progress: Progress,
}

/// Posts by step, and of each by first stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Anchors {
    steps: BTreeMap<Step, BTreeMap<u32, Post>>,
}

impl Canonical for Anchors {}

impl Module for Anchors {
    const NAME: &'static str = "anchors";
}

impl Anchors {
    /// The steps after which all stages were persisted, the newest last, with the posts in the order of their stages.
    pub(super) fn whole(&self, stages: u32) -> impl Iterator<Item = (Step, Vec<&Post>)> {
        self.steps.iter().filter_map(move |(step, posts)| Some((*step, row(posts, stages)?)))
    }

    /// The newest step after which a node posted these stages.
    pub(super) fn newest(&self, node: &NodeId, stages: LayerRange) -> Option<Step> {
        let own = |posts: &BTreeMap<u32, Post>| {
            posts.get(&stages.start).is_some_and(|post| post.holder == *node && post.stages == stages)
        };
        self.steps.iter().rev().find(|(_, posts)| own(posts)).map(|(step, _)| *step)
    }
}

/// A member of a quorum posts its stages.
pub(super) fn post(state: &mut State, author: NodeId, quorum: &QuorumId, posted: &PostedStages) -> Result<(), Refusal> {
    let PostedStages { stages, snapshot, progress } = posted;
    let known = state.quorums.get(quorum).ok_or(Refusal::NoQuorum)?;
    let member = known.plan.members.iter().find(|member| member.node == author).ok_or(Refusal::NotAMember)?;
    let roots: Vec<_> = snapshot.layers.iter().map(|layer| layer.root).collect();
    let fits = member.stages == *stages && roots.len() == stages.iter().count();
    if !fits || tile::model_state(snapshot.step, &roots) != snapshot.root {
        return Err(Refusal::PostedStages);
    }
    if state.anchors.newest(&author, *stages).is_some_and(|step| step >= snapshot.step) {
        return Err(Refusal::PostedBefore { step: snapshot.step });
    }
    let anchors = state.anchors.edit();
    let layers = snapshot.layers.to_vec();
    let post = Post { holder: author, stages: *stages, layers, progress: *progress };
    let first_step = anchors.steps.keys().next().copied();
    if anchors.steps.len() >= STEPS_MAX && first_step.is_some_and(|first| snapshot.step < first) {
        return Err(Refusal::PostedBefore { step: snapshot.step });
    }
    anchors.steps.entry(snapshot.step).or_default().insert(stages.start, post);
    // The newest whole anchor stays, whatever is posted after it.
    let newest = anchors.whole(state.rules.stages).last().map(|(step, _)| step);
    while anchors.steps.len() > STEPS_MAX {
        let oldest = anchors.steps.keys().find(|step| Some(**step) != newest).copied();
        let Some(oldest) = oldest else { break };
        anchors.steps.remove(&oldest);
    }
    Ok(())
}

/// Posts that together are the whole model.
fn row(posts: &BTreeMap<u32, Post>, stages: u32) -> Option<Vec<&Post>> {
    let (mut row, mut next) = (Vec::new(), 0);
    while next < stages {
        let post = posts.get(&next)?;
        next = post.stages.end;
        row.push(post);
    }
    (next == stages).then_some(row)
}
