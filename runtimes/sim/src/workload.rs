//! What users want of a world: transactions, put before whichever node they like.
//!
//! The founders' accounts pay one another, bond and unbond. A wallet asks its node for the account's next number, so it learns
//! what became of earlier wishes as people do: by looking.

use neuroshard_core::ledger::Ledger;
use neuroshard_proto::chain::{Action, Author, PublicKey, SignedTransaction, Transaction};
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
    let key = PublicKey(*keys.name(user).as_bytes());
    let author = Author::Account { owner: owner(user), key, sequence: account.sequence };
    let transaction = Transaction { author, action };
    let signature = keys.sign(user, &transaction.digest(network));
    Some(SignedTransaction { transaction, signature })
}
