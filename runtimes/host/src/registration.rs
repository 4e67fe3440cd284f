//! Making a node its owner's (PROTOCOL §1, §8): who joined a network and is not registered yet pays with a puzzle and asks to
//! be. It is asked again until the ledger says so.

use std::io;
use std::time::Duration;

use neuroshard_core::Command;
use neuroshard_proto::chain::{Action, Author, PublicKey, SignedTransaction, Transaction, consent_digest, puzzle_bits};
use neuroshard_proto::{Genesis, NetworkId, NodeId};

use crate::keys::Keys;
use crate::node::Handle;

/// How often is looked whether the node is registered.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks before it is asked again.
const LOOKS: u32 = 20;

/// Registers a node in the background, unless it is registered.
///
/// # Errors
/// If the system gives no threads.
pub fn start(handle: &Handle, keys: &Keys, genesis: &Genesis) -> io::Result<()> {
    let (node, network) = (keys.node_id(), genesis.network());
    let is_registered = move |handle: &Handle| handle.live.agreed.ledger().node(&node).is_some();
    if is_registered(handle) {
        return Ok(());
    }
    let (handle, keys, bits) = (handle.clone(), keys.clone(), genesis.params.nodes.puzzle_bits);
    let work = move || {
        let (mut puzzle, mut asked) = (None, None);
        for look in 0_u32.. {
            std::thread::sleep(LOOK_EVERY);
            if is_registered(&handle) || handle.has_ended() {
                return;
            }
            let ledger = handle.live.agreed.ledger();
            // A node that knows no block yet knows no sequence number either.
            if ledger.head().height == 0 || !is_due(look, asked) {
                continue;
            }
            asked = Some(look);
            let sequence = ledger.account(&keys.owner_id()).map(|account| account.sequence).unwrap_or_default();
            let nonce = *puzzle.get_or_insert_with(|| solve(network, node, bits));
            let wish = signed(&keys, network, nonce, sequence);
            handle.command(Command::Submit(Box::new(wish)));
        }
    };
    std::thread::Builder::new().name("registration".to_owned()).spawn(work).map(|_| ())
}

/// Whether to ask at this look, if that was done last at another.
fn is_due(look: u32, asked: Option<u32>) -> bool {
    asked.is_none_or(|asked| look.saturating_sub(asked) >= LOOKS)
}

/// A number that solves a node's puzzle. It takes two to the power of `bits` hashes, more or less.
fn solve(network: NetworkId, node: NodeId, bits: u32) -> u64 {
    (0..).find(|nonce| puzzle_bits(network, node, *nonce) >= bits).unwrap_or_default()
}

fn signed(keys: &Keys, network: NetworkId, nonce: u64, sequence: u64) -> SignedTransaction {
    let (owner, node) = (keys.owner_id(), keys.node_id());
    let consent = keys.sign(&consent_digest(network, owner, node));
    let author = Author::Account { owner, key: PublicKey(*owner.as_bytes()), sequence };
    let transaction = Transaction { author, action: Action::RegisterNode { node, consent, puzzle: Some(nonce) } };
    let signature = keys.sign_for_account(&transaction.digest(network));
    SignedTransaction { transaction, signature }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_as_soon_as_it_can_and_again_when_it_was_not_heard() {
        assert!(is_due(0, None) && is_due(7, None));
        assert!(!is_due(7, Some(7)) && !is_due(6 + LOOKS, Some(7)) && is_due(7 + LOOKS, Some(7)));
    }

    #[test]
    fn a_registration_is_one_that_the_ledger_takes() {
        let keys = Keys::generate().unwrap();
        let network = NetworkId(neuroshard_proto::Hash::of_blob(b"network"));
        let nonce = solve(network, keys.node_id(), 8);
        assert!(puzzle_bits(network, keys.node_id(), nonce) >= 8);
        let wish = signed(&keys, network, nonce, 3);
        assert!(wish.holds(network));
        assert!(matches!(wish.transaction.author, Author::Account { sequence: 3, .. }));
        let Action::RegisterNode { node, consent, .. } = wish.transaction.action else { panic!("a registration") };
        let digest = consent_digest(network, keys.owner_id(), node);
        assert!(neuroshard_proto::verify(&node, &digest, &consent));
    }
}
