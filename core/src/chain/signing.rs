//! What waits for this node's signature.
//!
//! The host signs digests and never sees what for. Each request has a deadline, after which it is asked again under another
//! id. Nothing is signed before the journal record it depends on is durable: a vote above all.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use neuroshard_proto::chain::{Transaction, Vote};
use neuroshard_proto::{Hash, JournalSeq, Message, NetworkId, NodeId, QuorumId, RequestId, Signature, Time};
use serde::Serialize;

use crate::cx::Cx;
use crate::io::{Output, Topic};
use crate::lean;

/// Most things that wait for a signature; votes always find room, since a height has few that are not signed yet.
const SIGNING_MAX: usize = 64;
/// A signature that takes longer is asked for again.
const SIGN_MS: u64 = 5000;
/// The wait doubles from one time to the next, but not for ever.
const DOUBLINGS_MAX: u32 = 6;
/// Most that are asked for again in one step.
const AGAIN_MAX: usize = 8;

/// What will be done with a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Vote(Vote),
    Transaction(Transaction),
    /// Terms of a quorum, for who proposed them.
    Consent {
        quorum: QuorumId,
        digest: Hash,
        to: NodeId,
    },
    Send {
        to: NodeId,
        message: Box<Message>,
    },
    Publish {
        topic: Topic,
        message: Box<Message>,
    },
}

impl Wish {
    fn digest(&self, network: NetworkId) -> Hash {
        match self {
            Self::Vote(vote) => vote.digest(network),
            Self::Consent { digest, .. } => *digest,
            Self::Transaction(transaction) => transaction.digest(network),
            Self::Send { message, .. } | Self::Publish { message, .. } => message.digest(network),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Pending {
    #[serde(skip)]
    wish: Wish,
    digest: Hash,
    /// The record that must be durable before.
    after: Option<JournalSeq>,
    deadline: Time,
    /// How often it was asked for in vain.
    tries: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Signing {
    pending: BTreeMap<RequestId, Pending>,
}

impl Signing {
    /// Asks for a signature, once the record is durable. What finds no room is not signed: it can be asked for again.
    pub(crate) fn ask(&mut self, cx: &mut Cx<'_>, wish: Wish, after: Option<JournalSeq>) {
        if self.pending.len() >= SIGNING_MAX && !matches!(wish, Wish::Vote(_)) {
            return;
        }
        let digest = wish.digest(cx.config.genesis.network());
        self.request(cx, Pending { wish, digest, after, deadline: Time::ZERO, tries: 0 });
    }

    /// Whether so many things, and one more, would find room.
    pub(crate) fn has_room_for(&self, count: u64) -> bool {
        usize::try_from(count).is_ok_and(|count| self.pending.len().saturating_add(count) < SIGNING_MAX)
    }

    fn request(&mut self, cx: &mut Cx<'_>, mut pending: Pending) {
        let id = cx.requests.issue();
        let patience = SIGN_MS.saturating_mul(1_u64.checked_shl(pending.tries.min(DOUBLINGS_MAX)).unwrap_or(1));
        pending.deadline = cx.now.after_ms(patience);
        let sign = Output::Sign { id, digest: pending.digest };
        match pending.after.filter(|record| !cx.journal.is_durable(*record)) {
            Some(record) => cx.after(record, sign),
            None => cx.out.push(sign),
        }
        self.pending.insert(id, pending);
    }

    /// Takes what a signature is for; `None` for an answer that nobody waits for.
    pub(crate) fn take(&mut self, id: RequestId) -> Option<Wish> {
        lean::remove(&mut self.pending, &id).map(|pending| pending.wish)
    }

    /// Asks again for what was not answered in time, unless its record is not even durable.
    pub(crate) fn on_late(&mut self, cx: &mut Cx<'_>) {
        let late = self.pending.iter().filter(|(_, pending)| pending.deadline <= cx.now);
        let late: alloc::vec::Vec<RequestId> = late.map(|(id, _)| *id).take(AGAIN_MAX).collect();
        for id in late {
            let Some(mut pending) = self.pending.remove(&id) else { continue };
            if pending.after.is_some_and(|record| !cx.journal.is_durable(record)) {
                // The request itself still waits for the disk.
                pending.deadline = cx.now.after_ms(SIGN_MS);
                self.pending.insert(id, pending);
            } else {
                pending.tries = pending.tries.saturating_add(1);
                self.request(cx, pending);
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.pending.values().map(|pending| pending.deadline).min()
    }

    /// Drops votes of heights that are over.
    pub(crate) fn forget_votes(&mut self, head: u64) {
        self.pending.retain(|_, pending| !matches!(pending.wish, Wish::Vote(vote) if vote.statement.height() <= head));
    }
}

/// A transaction of this node with its signature.
pub(crate) fn signed(transaction: Transaction, signature: Signature) -> neuroshard_proto::chain::SignedTransaction {
    neuroshard_proto::chain::SignedTransaction { transaction, signature }
}
