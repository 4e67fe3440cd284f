//! Transactions that wait for a block.
//!
//! They wait by author and in the order of the author's sequence; a draft takes them in the order they came, as far as that
//! order allows. Everything is bounded: how many wait, their bytes, how many of one author, and how long. When it is full,
//! what waits stays and what comes is refused, so nobody can push others out.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Author, SignedTransaction};
use neuroshard_proto::{Hash, NetworkId, NodeId, OwnerId, Text, Time, codec};
use serde::Serialize;

use crate::cx::as_pairs;
use crate::io::{DROP_WORDS_MAX, DropReason};
use crate::lean;
use crate::ledger::{Ledger, Refusal};

/// Most transactions that wait.
pub(crate) const WAITING_MAX: usize = 4096;
/// Most bytes they take.
pub(crate) const WAITING_BYTES_MAX: u64 = 4 << 20;
/// Most transactions of one author that wait.
pub(crate) const AUTHOR_WAITING_MAX: usize = 64;
/// A node without a vote tells again after so long what it wants and no block has.
const TELL_AGAIN_MS: u64 = 10_000;
/// How long a transaction waits.
pub(crate) const WAIT_MS: u64 = 600_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Mempool {
    #[serde(serialize_with = "as_pairs")]
    waiting: BTreeMap<Place, Waiting>,
    bytes: u64,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Who {
    Account(OwnerId),
    Node(NodeId),
}

/// Author, sequence or epoch, name.
type Place = (Who, u64, Hash);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Waiting {
    bytes: u64,
    arrival: u64,
    since: Time,
    /// When it was last told here.
    told: Time,
    /// Whether it applies to the head, so that a block can be made.
    ready: bool,
    #[serde(skip)]
    signed: Arc<SignedTransaction>,
}

fn place(signed: &SignedTransaction, name: Hash) -> Place {
    match signed.transaction.author {
        Author::Account { owner, sequence, .. } => (Who::Account(owner), sequence, name),
        Author::Node { node, epoch } => (Who::Node(node), epoch, name),
    }
}

/// A refusal in words.
fn refused(refusal: &Refusal) -> DropReason {
    // The ledger's words are ASCII, so a character is a byte.
    let words: String = refusal.to_string().chars().take(usize::try_from(DROP_WORDS_MAX).unwrap_or(0)).collect();
    DropReason::Refused { why: Text::try_from(words).unwrap_or_default() }
}

impl Mempool {
    /// Takes in a transaction whose signature holds; false if it waits already.
    pub(crate) fn add(&mut self, signed: SignedTransaction, ledger: &Ledger, now: Time) -> Result<bool, DropReason> {
        let name = signed.transaction.digest(ledger.network());
        let place = place(&signed, name);
        if self.waiting.contains_key(&place) {
            return Ok(false);
        }
        let bytes = u64::try_from(codec::encode(&signed).len()).unwrap_or(u64::MAX);
        let total = self.bytes.saturating_add(bytes);
        if self.waiting.len() >= WAITING_MAX || total > WAITING_BYTES_MAX {
            return Err(DropReason::Full);
        }
        let (who, number, _) = place;
        let of_author = self.waiting.range((who, 0, Hash::default())..).take_while(|((other, ..), _)| *other == who);
        if of_author.take(AUTHOR_WAITING_MAX).count() >= AUTHOR_WAITING_MAX {
            return Err(DropReason::AuthorFull);
        }
        let same = self.waiting.range((who, number, Hash::default())..).next().map(|((other, at, _), _)| (*other, *at));
        if matches!(who, Who::Account(_)) && same == Some((who, number)) {
            return Err(DropReason::Taken);
        }
        let ready = match ledger.admits(&signed) {
            Ok(()) => true,
            Err(refusal) if refusal.is_premature() => false,
            Err(refusal) => return Err(refused(&refusal)),
        };
        let waiting = Waiting { bytes, arrival: self.arrivals, since: now, told: now, ready, signed: Arc::new(signed) };
        self.arrivals = self.arrivals.saturating_add(1);
        self.bytes = total;
        self.waiting.insert(place, waiting);
        Ok(true)
    }

    /// Looks at everything anew after a block, and drops what never applies.
    pub(crate) fn refresh(&mut self, ledger: &Ledger, now: Time) -> Vec<(Hash, DropReason)> {
        let mut dropped = Vec::new();
        let mut blocked = None;
        for (place, waiting) in &mut self.waiting {
            let (who, _, name) = *place;
            waiting.ready = false;
            if now.ms_since(waiting.since) > WAIT_MS {
                dropped.push((*place, DropReason::TooOld));
                continue;
            }
            // Behind an account's first wish the others wait for their turn.
            if blocked == Some(who) {
                continue;
            }
            match ledger.admits(&waiting.signed) {
                Ok(()) => waiting.ready = true,
                Err(refusal) if refusal.is_premature() => {}
                Err(refusal) => {
                    dropped.push(((who, place.1, name), refused(&refusal)));
                    continue;
                }
            }
            blocked = matches!(who, Who::Account(_)).then_some(who);
        }
        dropped.into_iter().filter_map(|(place, why)| self.remove(&place).map(|()| (place.2, why))).collect()
    }

    fn remove(&mut self, place: &Place) -> Option<()> {
        let waiting = lean::remove(&mut self.waiting, place)?;
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        Some(())
    }

    /// Forgets a transaction: it is in a block, or a draft refused it for good.
    pub(crate) fn forget(&mut self, signed: &SignedTransaction, network: NetworkId) {
        let _ = self.remove(&place(signed, signed.transaction.digest(network)));
    }

    /// Whether a block could be made of something that waits.
    pub(crate) fn is_ready(&self) -> bool {
        self.waiting.values().any(|waiting| waiting.ready)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What a block may be made of, in the order it came, but each author's in the author's order.
    pub(crate) fn candidates(&self) -> Vec<Arc<SignedTransaction>> {
        let mut chosen: Vec<(u64, Arc<SignedTransaction>)> = Vec::new();
        let (mut run, mut last) = (None, 0);
        for ((who, ..), waiting) in &self.waiting {
            if waiting.ready {
                (run, last) = (Some(*who), 0);
            } else if run != Some(*who) {
                continue;
            }
            // Nothing goes before an earlier wish of the same author.
            last = waiting.arrival.max(last);
            chosen.push((last, Arc::clone(&waiting.signed)));
        }
        chosen.sort_by_key(|(arrival, _)| *arrival);
        chosen.into_iter().map(|(_, signed)| signed).collect()
    }

    /// What waits for long and was not told lately: whoever was told first may not have heard it.
    pub(crate) fn untold(&mut self, count: usize, now: Time) -> Vec<Arc<SignedTransaction>> {
        let old = self.waiting.values_mut().filter(|waiting| now.ms_since(waiting.told) >= TELL_AGAIN_MS);
        let tell = |waiting: &mut Waiting| {
            waiting.told = now;
            Arc::clone(&waiting.signed)
        };
        old.take(count).map(tell).collect()
    }

    /// The oldest that a block could be made of: worth telling again where nothing moves.
    pub(crate) fn oldest(&self, count: usize) -> Vec<Arc<SignedTransaction>> {
        self.candidates().into_iter().take(count).collect()
    }
}
