//! What users want of a world: transactions, put before whichever node they like.
//!
//! The founders' accounts pay one another, bond and unbond. A wallet asks its node for the account's next number, so it learns
//! what became of earlier wishes as people do: by looking.

use neuroshard_core::ledger::Ledger;
use neuroshard_proto::chain::{Action, Author, PublicKey, SignedTransaction, Transaction, consent_digest};
use neuroshard_proto::{Amount, NetworkId, OwnerId};

use crate::draw::Draw;
use crate::keys::Keys;

/// Largest sum that a user moves, in units.
const SUM_MAX: u64 = 5_000_000_000;

/// What a user wants at a moment: the founder's number that wants it, and the signed wish, if the account is known.
pub(crate) fn wish(
    keys: &Keys,
    network: NetworkId,
    ledger: &Ledger,
    founders: u32,
    draw: Draw,
) -> Option<SignedTransaction> {
    let user = draw.of(0).below(u64::from(founders)) as u32;
    let owner = |user: u32| OwnerId::from_bytes(*keys.name(user).as_bytes());
    let account = ledger.account(&owner(user))?;
    let amount = Amount::from_units(draw.of(1).between(1, SUM_MAX));
    let action = match draw.of(2).below(10) {
        0..=6 => Action::Transfer { to: owner(draw.of(3).below(u64::from(founders)) as u32), amount },
        7 | 8 => Action::Bond { amount },
        _ => Action::Unbond { amount },
    };
    Some(signed(keys, user, account.sequence, action, network))
}

/// A node's wish to be known to the ledger; it is its own owner, and new.
pub(crate) fn registration(keys: &Keys, host: u32, network: NetworkId) -> SignedTransaction {
    let node = keys.name(host);
    let consent = keys.sign(host, &consent_digest(network, OwnerId::from_bytes(*node.as_bytes()), node));
    signed(keys, host, 0, Action::RegisterNode { node, consent, puzzle: Some(0) }, network)
}

fn signed(keys: &Keys, user: u32, sequence: u64, action: Action, network: NetworkId) -> SignedTransaction {
    let name = keys.name(user);
    let (owner, key) = (OwnerId::from_bytes(*name.as_bytes()), PublicKey(*name.as_bytes()));
    let transaction = Transaction { author: Author::Account { owner, key, sequence }, action };
    let signature = keys.sign(user, &transaction.digest(network));
    SignedTransaction { transaction, signature }
}
