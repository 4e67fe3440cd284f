//! How validators decide one block a height (PROTOCOL §11): a BFT protocol behind one trait.
//!
//! Heights are decided one after the other. So the seats that decide are fixed within a height, the parent is final, and
//! who missed a height needs its block and one certificate. [`Agreement`] is what a height asks of a protocol, and
//! [`Simplex`] is ours, after Chan and Pass, *Simplex Consensus* (TCC 2023), with locks in the place of growing chains.
//!
//! # The protocol
//!
//! A height has views 0, 1, 2 ... with a leader each. In a view a validator
//! * **notarizes** one block at most: the leader's proposal, if it is justified (below) and valid;
//! * on a *notarization* (a quorum of such votes) of block `b` in view `v` takes the **lock** `(v, b)`, enters view `v + 1`,
//!   and **finalizes** `(v, b)`, unless it nullified view `v` or a later one;
//! * after a timeout **nullifies** the view once, and reports its newest lock; never if it finalized in it;
//! * on a *nullification* (a quorum of such votes) of view `v` enters view `v + 1`;
//! * on a *finalization* (a quorum that finalized `b` in one view) has decided `b`.
//!
//! A proposal of view 0 is free. One of view `v + 1` carries the certificate that ended view `v`. If that is a notarization
//! of `b`, it must propose `b`. If it is a nullification, it must propose the newest lock that its signers report, and
//! carry that lock's notarization; if none reports a lock, it is free. A nullifying vote counts only where the notarization of
//! the lock it reports is known, so that nobody can block a view with a lock that does not exist; lockers show theirs.
//!
//! # Why it is safe
//!
//! Less than a third of the weight is faulty, so two quorums share an honest validator. Let `(v, b)` be finalized by a
//! quorum `F`. In view `v` nothing but `b` was notarized, since honest validators notarize once a view. View `v` is never
//! nullified: its signers would share an honest validator with `F`, which finalizes only if it did not nullify `v`, and does
//! not nullify `v` afterwards. Nor did an honest member of `F` nullify any later view before it finalized; so whatever it
//! nullifies after `v`, it reports a lock of view `v` or later. Now by induction every notarization from view `v` on is of
//! `b`: take view `w > v`, and all notarizations in `v..w` are of `b`. A justified proposal in `w` rests on a notarization
//! in `w - 1`, which is of `b`, or on a nullification of `w - 1 > v`, whose signers share an honest validator with `F`;
//! then the newest lock reported has a view in `v..w`, its notarization is shown, and it is of `b`. So no other block is ever
//! finalized.
//!
//! A crash changes nothing: each vote is durable before it is signed, together with the certificates it rests on, and after
//! a restart these facts forbid what would contradict them.
//!
//! # Why it goes on
//!
//! A notarized block is most often finalized a delay later, so the leader of the next view waits a quarter of it before it
//! proposes the block again: where all goes well nothing is said twice.
//!
//! Votes are said again each second for as long as a view lasts: where many are lost, a long view is no worse than a short
//! one.
//!
//! Suppose that messages arrive in time. An honest validator leaves a view by a certificate, shows it again with every
//! timeout, and so takes the others along. If one of them finalized in view `v`, it holds a notarization, which moves all;
//! otherwise all honest ones nullify `v` in the end, and each vote of theirs counts, because each shows its lock. Timeouts
//! double up to 30 s, so in some view an honest leader has time enough: its proposal is justified by the certificate that
//! it carries, all notarize it, and since nobody nullified yet all finalize. With an honest leader that takes three message
//! delays: proposal, notarization, finalization.
//!
//! # Silence
//!
//! Timers run only while there is something to decide: the host part says so ([`Input::Wanted`]), a lock is held, or somebody
//! was heard in this view. A network at rest sends nothing.

mod ballots;
mod simplex;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Certificate, Evidence, Seats, SignedVote, Statement};
use neuroshard_proto::{Hash, List, NodeId, Time};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

pub use simplex::Simplex;

/// Most certificates that a vote rests on: a lock, the entry into its view, and the lock that the entry reports.
pub const PROOFS_MAX: u32 = 3;
/// How long the first view of a height lasts, and the longest any lasts.
pub const VIEW_MS: u64 = 1000;
pub const VIEW_MS_MAX: u64 = 30_000;

/// A vote that this node casts, and what it rests on: a fact to be durable before it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Ballot {
    pub statement: Statement,
    /// Certificates that no earlier ballot of the height holds.
    pub proofs: List<Certificate, PROOFS_MAX>,
}

/// A leader's proposal without the block itself.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    pub leader: NodeId,
    pub view: u64,
    pub block: Hash,
    pub entry: Option<&'a Certificate>,
    pub lock: Option<&'a Certificate>,
}

/// What the agreement of a height hears. Signatures were checked before; nothing else was.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Whether there is something to decide.
    Wanted(bool),
    Proposal(Offer<'a>),
    /// The answer to [`Output::Check`].
    Checked {
        view: u64,
        block: Hash,
        valid: bool,
    },
    Vote(&'a SignedVote),
    Certificate(&'a Certificate),
    /// Time has moved: [`Agreement::deadline`] may be reached.
    Tick,
}

/// What the agreement of a height asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make the ballot durable, sign it, hand it back as [`Input::Vote`] and spread it.
    Cast(Ballot),
    /// This node leads: propose. The proposal is handed back as [`Input::Proposal`].
    Propose {
        view: u64,
        /// The block to propose again; `None` if the leader is free.
        again: Option<Hash>,
        entry: Option<Certificate>,
        lock: Option<Certificate>,
    },
    /// Is this block valid at this height? Answer with [`Input::Checked`]. The block may be decided: keep it.
    Check { view: u64, block: Hash },
    /// Spread these once more: somebody may have missed them.
    Repeat { votes: Vec<SignedVote>, certificates: Vec<Certificate> },
    /// The height is decided by this finalization.
    Decided(Certificate),
    /// A validator contradicted itself.
    Caught(Box<Evidence>),
}

/// A protocol that decides one height. It is a value: equal inputs at equal times give equal outputs and states.
pub trait Agreement: Sized {
    /// Begins a height, or takes it up again after a crash with the ballots that are durable, in the order they were cast.
    /// Who has no seat follows without a vote.
    fn start<'a>(height: u64, seats: Arc<Seats>, node: NodeId, ballots: impl IntoIterator<Item = &'a Ballot>) -> Self;

    /// Takes one input; what it asks for is added to `out`.
    fn on(&mut self, now: Time, input: Input<'_>, out: &mut Vec<Output>);

    /// When it wants [`Input::Tick`].
    fn deadline(&self) -> Option<Time>;

    fn height(&self) -> u64;

    /// The view this node is in.
    fn view(&self) -> u64;

    /// The finalization, once there is one.
    fn decided(&self) -> Option<&Certificate>;
}
