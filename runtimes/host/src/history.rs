//! Transactions of an account, each with the way to its block's header: of any account in the blocks that the core keeps, of
//! the node's own account since the node knows of it.

use std::fmt;

use neuroshard_proto::chain::{Action, Author, Decided, Header, SignedTransaction};
use neuroshard_proto::{OwnerId, codec, merkle};
use serde::{Deserialize, Serialize};

use crate::agreed::{from_hex, to_hex};
use crate::store::{Store, StoreError};

/// Entries after which an answer ends with the block at hand.
pub const HISTORY_MAX: usize = 256;

/// A transaction of an account, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub height: u64,
    pub time_ms: u64,
    /// The transaction's name.
    pub id: String,
    /// The signed transaction in canonical encoding and hexadecimal.
    pub transaction: String,
    /// The block's header, likewise.
    pub header: String,
    /// A [`merkle::Proof`] that leads to the header's root over its transactions, likewise.
    pub proof: String,
}

/// Why an [`Entry`] proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproved;

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the node's answer does not prove what it says")
    }
}

impl std::error::Error for Unproved {}

impl Entry {
    /// The transaction and its block's header, after following the proof.
    ///
    /// # Errors
    /// If something in the entry does not fit together.
    pub fn check(&self) -> Result<(SignedTransaction, Header), Unproved> {
        let transaction: SignedTransaction = from_hex(&self.transaction).ok_or(Unproved)?;
        let header: Header = from_hex(&self.header).ok_or(Unproved)?;
        let proof: merkle::Proof = from_hex(&self.proof).ok_or(Unproved)?;
        let leaf = merkle::leaf(&codec::encode(&transaction));
        let stands = proof.root(&leaf) == Some(header.transactions);
        let told = (header.height, header.time.as_ms(), transaction.transaction.digest(header.network).to_string());
        if !stands || !transaction.holds(header.network) || told != (self.height, self.time_ms, self.id.clone()) {
            return Err(Unproved);
        }
        Ok((transaction, header))
    }
}

/// What concerns an account in a block, in the block's order: which of its transactions, and each with its proof.
pub fn entries(decided: &Decided, owner: &OwnerId) -> Vec<(u32, Entry)> {
    let block = &decided.block;
    if !block.transactions.iter().any(|one| concerns(one, owner)) {
        return Vec::new();
    }
    let leaf = |one: &SignedTransaction| merkle::leaf(&codec::encode(one));
    let tree = merkle::Tree::new(&block.transactions.iter().map(leaf).collect::<Vec<_>>());
    let entry = |(place, signed): (u32, &SignedTransaction)| {
        let entry = Entry {
            height: block.header.height,
            time_ms: block.header.time.as_ms(),
            id: signed.transaction.digest(block.header.network).to_string(),
            transaction: to_hex(signed),
            header: to_hex(&block.header),
            proof: to_hex(&tree.prove(u64::from(place))?),
        };
        Some((place, entry))
    };
    let concerned = (0_u32..).zip(&block.transactions).filter(|(_, one)| concerns(one, owner));
    concerned.filter_map(entry).collect()
}

fn concerns(signed: &SignedTransaction, owner: &OwnerId) -> bool {
    let made = matches!(signed.transaction.author, Author::Account { owner: author, .. } if author == *owner);
    made || matches!(signed.transaction.action, Action::Transfer { to, .. } if to == *owner)
}

/// An account's transactions below a height, newest first: from these blocks, given newest first, and then from what was
/// remembered of older ones, if it is the account whose transactions are.
///
/// # Errors
/// If the store fails.
pub fn history<'a>(
    blocks: impl Iterator<Item = &'a Decided>,
    remembered: Option<&Store>,
    owner: &OwnerId,
    before: u64,
) -> Result<Vec<Entry>, StoreError> {
    let (mut found, mut oldest) = (Vec::new(), before);
    for decided in blocks.filter(|decided| decided.block.header.height < before) {
        oldest = decided.block.header.height;
        found.extend(entries(decided, owner).into_iter().rev().map(|(_, entry)| entry));
        if found.len() >= HISTORY_MAX {
            break;
        }
    }
    if let Some(store) = remembered
        && found.len() < HISTORY_MAX
    {
        let older = store.remembered(oldest, HISTORY_MAX - found.len())?;
        // What the disk did to an entry shows when its proof is followed; one that is no entry at all is left out.
        found.extend(older.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()));
    }
    Ok(found)
}
