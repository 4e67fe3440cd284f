//! Where the newest state of the model lies that all stages have posted (PROTOCOL §4, §5).
//!
//! Until rounds make anchors, the members of a quorum post where their stages' states lie, with a root for each stage. Of a
//! stage the two newest posts are kept. Once every stage has one of the same quorum, step and position, that step is the
//! *anchor*: whoever joins, and whoever forms the next quorum, takes it up, each stage from who posted it, checked against
//! its root. An anchor stays until a later one is complete, however many quorums end; before the first, training begins with
//! the genesis.
//!
//! Posts of two quorums never make an anchor together, even at the same step: with other batches to a step they would be
//! parts of two different models. And who posts a step far ahead, or a wrong position, spoils its own stages alone, and no
//! longer than its quorum lasts.

use alloc::vec::Vec;

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{LayerBlobs, LayerIndex, LayerRange, List, NodeId, Position, QuorumId, Step, mutant};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::part::Module;
use super::tree::{Tree, TreeRoot};
use super::{Refusal, State, quorums};

/// Posts of a stage that are kept beside the anchor's.
const NEWER_MAX: u32 = 2;
const POSTS_MAX: u32 = NEWER_MAX.saturating_add(1);

/// A step of which the states of all stages were posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Anchor {
    /// Whose members posted it.
    pub quorum: QuorumId,
    /// Steps taken to reach it.
    pub step: Step,
    pub position: Position,
}

/// What was posted of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Stage {
    /// By step: the anchor's, and newer ones of one quorum.
    pub posts: List<Post, POSTS_MAX>,
}

impl Canonical for Stage {}

/// Where the state of a stage lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Post {
    pub anchor: Anchor,
    /// Who posted it, and holds it.
    pub node: NodeId,
    pub blobs: LayerBlobs,
}

/// What was posted of all stages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Anchors {
    root: TreeRoot,
    pub(super) newest: Option<Anchor>,
    #[serde(skip)]
    pub(super) tree: Tree<LayerIndex, Stage>,
}

impl Canonical for Anchors {}

impl Module for Anchors {
    const NAME: &'static str = "anchors";
    const PLACE: u64 = 9;

    fn seal(&mut self) {
        self.tree.seal();
        self.root = self.tree.commitment();
    }
}

impl Anchors {
    /// What the tree must be to fit the digest.
    pub(super) const fn root(&self) -> TreeRoot {
        self.root
    }

    /// The anchor's posts of these stages, in order; nothing before the first anchor.
    pub(super) fn stages(&self, range: LayerRange) -> impl Iterator<Item = &Post> {
        let newest = self.newest;
        range.iter().filter_map(move |layer| {
            let posts = &self.tree.get(&layer)?.posts;
            posts.iter().find(|post| Some(post.anchor) == newest)
        })
    }

    /// Whether every stage up to this one has a post of this kind.
    fn is_complete(&self, stages: u32, anchor: Anchor) -> bool {
        (0..stages).map(LayerIndex).all(|layer| {
            self.tree.get(&layer).is_some_and(|stage| stage.posts.iter().any(|post| post.anchor == anchor))
        })
    }

    /// Whether a stage may be posted at this step.
    fn check(&self, layer: LayerIndex, anchor: Anchor) -> Result<(), Refusal> {
        let posts = self.tree.get(&layer).map_or(&[][..], |stage| &stage.posts[..]);
        let own = posts.iter().filter(|post| post.anchor.quorum == anchor.quorum).map(|post| post.anchor.step);
        let newest = own.chain(self.newest.map(|newest| newest.step)).max().unwrap_or_default();
        if anchor.step <= newest && !mutant("stages posted twice") {
            return Err(Refusal::Posted { newest, found: anchor.step });
        }
        Ok(())
    }

    /// Takes up a post that was checked, in place of those that nobody will need.
    fn put(&mut self, layer: LayerIndex, post: Post) {
        let posts = self.tree.get(&layer).map(|stage| stage.posts.to_vec()).unwrap_or_default();
        let (mut kept, mut newer): (Vec<Post>, Vec<Post>) =
            posts.into_iter().partition(|one| Some(one.anchor) == self.newest);
        newer.retain(|one| one.anchor.quorum == post.anchor.quorum && Some(one.anchor.step) > self.step());
        newer.push(post);
        newer.drain(..newer.len().saturating_sub(usize::try_from(NEWER_MAX).unwrap_or(usize::MAX)));
        kept.extend(newer);
        let posts = List::try_from(kept);
        assert!(posts.is_ok(), "the anchor's post is one");
        self.tree.insert(layer, Stage { posts: posts.unwrap_or_default() });
    }

    fn step(&self) -> Option<Step> {
        self.newest.map(|newest| newest.step)
    }
}

/// A member posts where the states of some of its stages lie, from stage `first` on.
pub(super) fn post(
    state: &mut State,
    node: NodeId,
    anchor: Anchor,
    first: LayerIndex,
    stages: &[LayerBlobs],
) -> Result<(), Refusal> {
    let own = quorums::stages_of(state, &anchor.quorum, &node)?;
    let count = u32::try_from(stages.len()).unwrap_or(u32::MAX);
    let posted = LayerRange { start: first.0, end: first.0.saturating_add(count) };
    if posted.start < own.start || posted.end > own.end || stages.is_empty() {
        return Err(Refusal::Stages { own });
    }
    posted.iter().try_for_each(|layer| state.anchors.check(layer, anchor))?;
    let all = state.rules.stages;
    let anchors = state.anchors.edit();
    for (layer, blobs) in posted.iter().zip(stages) {
        anchors.put(layer, Post { anchor, node, blobs: *blobs });
    }
    if anchors.is_complete(all, anchor) {
        anchors.newest = Some(anchor);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::vec;

    use neuroshard_proto::{BatchId, Hash, codec};

    use super::super::proof::MODULE_BYTES_MAX;
    use super::super::sync::{BIG, CHUNK_BYTES_MAX, Chunk};
    use super::*;

    #[test]
    fn the_largest_posts_fit_in_a_chunk_and_the_module_in_a_proof() {
        let hash = Hash::from_bytes([255; 32]);
        let position = Position { batch: BatchId(u64::MAX), tokens: u64::MAX, voids: u64::MAX };
        let anchor = Anchor { quorum: QuorumId(hash), step: Step(u64::MAX), position };
        let blobs = LayerBlobs { root: hash, weights: hash, moments: hash };
        let posts = vec![Post { anchor, node: NodeId::from_bytes([255; 32]), blobs }; 3];
        let mut anchors = Anchors { newest: Some(anchor), ..Anchors::default() };
        for layer in 0..1025 {
            anchors.tree.insert(LayerIndex(layer), Stage { posts: posts.clone().try_into().unwrap() });
        }
        anchors.seal();
        let module = codec::encode(&anchors).len();
        assert!(module <= MODULE_BYTES_MAX as usize && module > 90, "{module}");
        let pieces = anchors.tree.pieces(BIG);
        let sizes: Vec<usize> = pieces.map(|piece| codec::encode(&Chunk::Stages(piece)).len()).collect();
        assert!(sizes.iter().all(|bytes| *bytes <= CHUNK_BYTES_MAX as usize / 2), "{sizes:?}");
        assert!(sizes.iter().sum::<usize>() > 1025 * 500, "{sizes:?}");
    }
}
