//! A newcomer's way to the state at a finalized height: in chunks, from anybody, each checked on its own (PROTOCOL §11).
//!
//! [`Ledger::chunks`] cuts the state the same way on every node. The first chunk is what all modules hold beside their
//! trees; it is checked against the state's root, and names the roots of the trees. Every other chunk is a whole branch of
//! one tree, with the way up to that root: it hides nothing and adds nothing, or its hash is another. So chunks may come
//! from many peers, in any order after the first and more than once, and a wrong one is known at once and is its sender's
//! fault. [`Assembly`] keeps nothing that is not proved.

use alloc::vec::Vec;
use core::fmt;

use neuroshard_proto::chain::{Header, StatePlace};
use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Bytes, Hash, LayerIndex, List, NodeId, OwnerId, QuorumId};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::accounts::Account;
use super::anchors::Stage;
use super::nodes::Node;
use super::part::{Module, Part, digest};
use super::quorums::Quorum;
use super::tree::{PIECE_ENTRIES_MAX, Piece, Tree, TreeRoot};
use super::validators::Candidate;
use super::{Head, Ledger, MODULES, State, root_of};

/// Most bytes of a chunk.
pub const CHUNK_BYTES_MAX: u32 = 256 << 10;
/// Most modules that a first chunk may hold.
const MODULES_MAX: u32 = 64;

/// Most entries of a chunk: of small things, and of quorums and stages, which are larger.
const SMALL: u32 = PIECE_ENTRIES_MAX;
pub(super) const BIG: u32 = 128;

/// Stretches that a large tree is cut into, the width of each in a path's first byte, and the entries that make a tree large.
const STRETCHES: u8 = 8;
const STRETCH_WIDTH: u8 = 32;
const LARGE_ENTRIES: u64 = 2048;

/// A part of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Chunk {
    /// The encodings of all modules, without their trees.
    Modules(List<Bytes<CHUNK_BYTES_MAX>, MODULES_MAX>),
    Accounts(Piece<OwnerId, Account>),
    Nodes(Piece<NodeId, Node>),
    Candidates(Piece<NodeId, Candidate>),
    /// The candidates of the next committee.
    Frozen(Piece<NodeId, Candidate>),
    Quorums(Piece<QuorumId, Quorum>),
    Stages(Piece<LayerIndex, Stage>),
}

impl Canonical for Chunk {
    const BYTES_MAX: u32 = CHUNK_BYTES_MAX;
}

/// Why a chunk is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChunkError {
    /// The modules' encodings do not make the state's root.
    Root { expected: Hash, found: Hash },
    /// A module's encoding is none, though the root says so: the header is not one of this version.
    Module { place: u64 },
    /// The first chunk must come before all others.
    TooEarly,
    /// The entries are not all that stands under the chunk's prefix.
    Entries,
    /// Some entries are missing yet.
    Missing { entries: u64 },
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root { expected, found } => {
                write!(f, "the chunk belongs to a state with root {found:.16}, wanted is {expected:.16}")
            }
            Self::Module { place } => write!(f, "module {place} has an encoding that this version does not know"),
            Self::TooEarly => f.write_str("the chunk with the modules must come first"),
            Self::Entries => f.write_str("the chunk's entries are not those of the state"),
            Self::Missing { entries } => write!(f, "{entries} entries are still missing"),
        }
    }
}

impl core::error::Error for ChunkError {}

impl Ledger {
    /// The state in chunks, in an order and with limits that are the same on every node.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let State { rules, clock, money, accounts, nodes, counts, validators, beacon, quorums, anchors } =
            &self.inner.state;
        let modules: [Vec<u8>; MODULES] = [
            codec::encode(&**rules),
            codec::encode(&**clock),
            codec::encode(&**money),
            codec::encode(&**accounts),
            codec::encode(&**nodes),
            codec::encode(&**counts),
            codec::encode(&**validators),
            codec::encode(&**beacon),
            codec::encode(&**quorums),
            codec::encode(&**anchors),
        ];
        let modules = modules.into_iter().map(|bytes| Bytes::try_from(bytes).unwrap_or_default());
        let modules = List::try_from(modules.collect::<Vec<_>>()).unwrap_or_default();
        core::iter::once(Chunk::Modules(modules))
            .chain(accounts.tree.pieces(SMALL).map(Chunk::Accounts))
            .chain(nodes.tree.pieces(SMALL).map(Chunk::Nodes))
            .chain(validators.candidates.pieces(SMALL).map(Chunk::Candidates))
            .chain(validators.frozen.pieces(SMALL).map(Chunk::Frozen))
            .chain(quorums.tree.pieces(BIG).map(Chunk::Quorums))
            .chain(anchors.tree.pieces(BIG).map(Chunk::Stages))
    }

    /// The chunk in which a place lies; `None` for the block, which is no part of the state.
    pub fn chunk_at(&self, place: &StatePlace) -> Option<Chunk> {
        let State { accounts, nodes, validators, quorums, anchors, .. } = &self.inner.state;
        match place {
            StatePlace::Block => None,
            StatePlace::Modules => self.chunks().next(),
            StatePlace::Accounts(path) => Some(Chunk::Accounts(accounts.tree.piece_at(path, SMALL))),
            StatePlace::Nodes(path) => Some(Chunk::Nodes(nodes.tree.piece_at(path, SMALL))),
            StatePlace::Candidates(path) => Some(Chunk::Candidates(validators.candidates.piece_at(path, SMALL))),
            StatePlace::Frozen(path) => Some(Chunk::Frozen(validators.frozen.piece_at(path, SMALL))),
            StatePlace::Quorums(path) => Some(Chunk::Quorums(quorums.tree.piece_at(path, BIG))),
            StatePlace::Stages(path) => Some(Chunk::Stages(anchors.tree.piece_at(path, BIG))),
        }
    }
}

/// A place of a tree, by its path.
type At = fn(Hash) -> StatePlace;

/// What is missing of a tree: from a place up to a path; to its end if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    pub from: StatePlace,
    pub to: Option<Hash>,
}

impl Stretch {
    /// What is left of the stretch with this chunk; `None` if nothing is. One that does not begin in the chunk stays whole.
    #[must_use]
    pub fn without(self, chunk: &Chunk) -> Option<Self> {
        let (end, from): (_, At) = match (chunk, self.from) {
            (Chunk::Accounts(piece), StatePlace::Accounts(path)) if piece.covers(&path) => {
                (piece.end(), StatePlace::Accounts)
            }
            (Chunk::Nodes(piece), StatePlace::Nodes(path)) if piece.covers(&path) => (piece.end(), StatePlace::Nodes),
            (Chunk::Candidates(piece), StatePlace::Candidates(path)) if piece.covers(&path) => {
                (piece.end(), StatePlace::Candidates)
            }
            (Chunk::Frozen(piece), StatePlace::Frozen(path)) if piece.covers(&path) => {
                (piece.end(), StatePlace::Frozen)
            }
            (Chunk::Quorums(piece), StatePlace::Quorums(path)) if piece.covers(&path) => {
                (piece.end(), StatePlace::Quorums)
            }
            (Chunk::Stages(piece), StatePlace::Stages(path)) if piece.covers(&path) => {
                (piece.end(), StatePlace::Stages)
            }
            (
                Chunk::Modules(_)
                | Chunk::Accounts(_)
                | Chunk::Nodes(_)
                | Chunk::Candidates(_)
                | Chunk::Frozen(_)
                | Chunk::Quorums(_)
                | Chunk::Stages(_),
                StatePlace::Block
                | StatePlace::Modules
                | StatePlace::Accounts(_)
                | StatePlace::Nodes(_)
                | StatePlace::Candidates(_)
                | StatePlace::Frozen(_)
                | StatePlace::Quorums(_)
                | StatePlace::Stages(_),
            ) => return Some(self),
        };
        let end = end.filter(|end| self.to.is_none_or(|to| *end < to))?;
        Some(Self { from: from(end), to: self.to })
    }
}

/// A ledger that is put together from chunks.
#[derive(Clone, Debug)]
pub struct Assembly {
    header: Header,
    base: Option<Base>,
}

#[derive(Clone, Debug)]
struct Base {
    /// Its trees grow with the chunks.
    state: State,
    accounts: TreeRoot,
    nodes: TreeRoot,
    candidates: TreeRoot,
    frozen: TreeRoot,
    quorums: TreeRoot,
    stages: TreeRoot,
}

impl Assembly {
    /// The state of this header, which is final: its certificate was checked.
    pub const fn new(header: Header) -> Self {
        Self { header, base: None }
    }

    /// Takes up a chunk. One that was taken up before changes nothing.
    ///
    /// # Errors
    /// What is wrong with the chunk; nothing of it was kept.
    pub fn accept(&mut self, chunk: &Chunk) -> Result<(), ChunkError> {
        if let Chunk::Modules(modules) = chunk {
            let base = Base::open(&self.header, modules)?;
            self.base.get_or_insert(base);
            return Ok(());
        }
        let base = self.base.as_mut().ok_or(ChunkError::TooEarly)?;
        let Base { state, accounts, nodes, candidates, frozen, quorums, stages } = base;
        match chunk {
            Chunk::Modules(_) => Ok(()),
            Chunk::Accounts(piece) => take(&mut state.accounts.edit().tree, accounts, piece),
            Chunk::Nodes(piece) => take(&mut state.nodes.edit().tree, nodes, piece),
            Chunk::Candidates(piece) => take(&mut state.validators.edit().candidates, candidates, piece),
            Chunk::Frozen(piece) => take(&mut state.validators.edit().frozen, frozen, piece),
            Chunk::Quorums(piece) => take(&mut state.quorums.edit().tree, quorums, piece),
            Chunk::Stages(piece) => take(&mut state.anchors.edit().tree, stages, piece),
        }
    }

    /// The trees, cut so that several peers can be asked for each that is large; nothing before the first chunk.
    pub fn stretches(&self) -> Vec<Stretch> {
        let Some(Base { accounts, nodes, candidates, frozen, quorums, stages, .. }) = &self.base else {
            return Vec::new();
        };
        let trees: [(&TreeRoot, At); 6] = [
            (accounts, StatePlace::Accounts),
            (nodes, StatePlace::Nodes),
            (candidates, StatePlace::Candidates),
            (frozen, StatePlace::Frozen),
            (quorums, StatePlace::Quorums),
            (stages, StatePlace::Stages),
        ];
        let mut stretches = Vec::new();
        for (root, place) in trees {
            let large = root.len > LARGE_ENTRIES;
            let cuts = if large { STRETCHES } else { 1 };
            let begin = |cut: u8| {
                let mut path = [0; 32];
                path[0] = cut.saturating_mul(STRETCH_WIDTH);
                Hash::from_bytes(path)
            };
            let stretch = |cut: u8| {
                let to = cut.checked_add(1).filter(|next| *next < cuts).map(begin);
                Stretch { from: place(begin(cut)), to }
            };
            stretches.extend((0..cuts).filter(|_| root.len > 0).map(stretch));
        }
        stretches
    }

    /// Entries that have not come yet; `None` before the first chunk.
    pub fn missing(&self) -> Option<u64> {
        let Base { state, accounts, nodes, candidates, frozen, quorums, stages } = self.base.as_ref()?;
        let lens = [
            (accounts, state.accounts.tree.len()),
            (nodes, state.nodes.tree.len()),
            (candidates, state.validators.candidates.len()),
            (frozen, state.validators.frozen.len()),
            (quorums, state.quorums.tree.len()),
            (stages, state.anchors.tree.len()),
        ];
        Some(lens.iter().map(|(root, len)| root.len.saturating_sub(*len)).fold(0, u64::saturating_add))
    }

    /// The ledger at the header.
    ///
    /// # Errors
    /// [`ChunkError::TooEarly`] or [`ChunkError::Missing`] while chunks are missing.
    pub fn finish(self) -> Result<Ledger, ChunkError> {
        match self.missing() {
            None => return Err(ChunkError::TooEarly),
            Some(0) => {}
            Some(entries) => return Err(ChunkError::Missing { entries }),
        }
        let state = self.base.ok_or(ChunkError::TooEarly)?.state;
        let head = Head { height: self.header.height, id: self.header.id(), time: self.header.time };
        let ledger = Ledger::seal(head, state, None);
        assert_eq!(ledger.root(), self.header.state, "proved parts make the whole");
        Ok(ledger)
    }
}

impl Base {
    fn open(header: &Header, modules: &[Bytes<CHUNK_BYTES_MAX>]) -> Result<Self, ChunkError> {
        let [rules, clock, money, accounts, nodes, counts, validators, beacon, quorums, anchors] = modules else {
            return Err(ChunkError::Root { expected: header.state, found: Hash::default() });
        };
        let found = root_of(&[
            digest::<super::Rules>(rules),
            digest::<super::Clock>(clock),
            digest::<super::Money>(money),
            digest::<super::Accounts>(accounts),
            digest::<super::Nodes>(nodes),
            digest::<super::Counts>(counts),
            digest::<super::Validators>(validators),
            digest::<super::Beacon>(beacon),
            digest::<super::Quorums>(quorums),
            digest::<super::Anchors>(anchors),
        ]);
        if found != header.state {
            return Err(ChunkError::Root { expected: header.state, found });
        }
        let state = State {
            rules: part(0, rules)?,
            clock: part(1, clock)?,
            money: part(2, money)?,
            accounts: part(3, accounts)?,
            nodes: part(4, nodes)?,
            counts: part(5, counts)?,
            validators: part(6, validators)?,
            beacon: part(7, beacon)?,
            quorums: part(8, quorums)?,
            anchors: part(9, anchors)?,
        };
        let (candidates, frozen) = state.validators.roots();
        let (quorums, stages) = (state.quorums.root(), state.anchors.root());
        let (accounts, nodes) = (state.accounts.root(), state.nodes.root());
        Ok(Self { accounts, nodes, candidates, frozen, quorums, stages, state })
    }
}

fn part<T: Module>(place: u64, bytes: &[u8]) -> Result<Part<T>, ChunkError> {
    codec::decode::<T>(bytes).map(Part::new).map_err(|_| ChunkError::Module { place })
}

fn take<K, V>(tree: &mut Tree<K, V>, root: &TreeRoot, piece: &Piece<K, V>) -> Result<(), ChunkError>
where
    K: Clone + Serialize,
    V: Clone + Serialize,
{
    for (key, value) in piece.check(&root.root).map_err(|_| ChunkError::Entries)? {
        tree.insert(key.clone(), value.clone());
    }
    Ok(())
}
