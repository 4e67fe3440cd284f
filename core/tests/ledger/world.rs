//! A small world around a ledger: keys, blocks that are drafted, decided and applied, and time that passes.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::ledger::{BlockError, Ledger, Refusal};
use neuroshard_core::proto::chain::{
    Action, Author, Block, Certificate, PublicKey, SignedTransaction, SignedVote, Statement, Subject, Transaction,
    Vote, consent_digest, puzzle_bits,
};
use neuroshard_core::proto::{
    Allocation, Amount, Founder, Genesis, Hash, NetworkId, NodeId, OwnerId, Params, Preset, Signature, Time,
};

pub(crate) const NEURO: u64 = Amount::NEURO;

/// The key of a name.
pub(crate) fn key(name: &str) -> SigningKey {
    SigningKey::from_bytes(Hash::of_blob(name.as_bytes()).as_bytes())
}

pub(crate) fn owner(name: &str) -> OwnerId {
    OwnerId::from_bytes(key(name).verifying_key().to_bytes())
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::from_bytes(key(name).verifying_key().to_bytes())
}

pub(crate) fn sign(name: &str, digest: &Hash) -> Signature {
    Signature(key(name).sign(digest.as_bytes()).to_bytes())
}

/// Parameters with a puzzle that tests can solve.
pub(crate) fn params() -> Params {
    let mut params = Params::DEFAULT;
    params.nodes.puzzle_bits = 6;
    params
}

/// A genesis whose founders' nodes and owners have these names, and that gives money to these owners.
pub(crate) fn genesis(params: Params, founders: &[&str], rich: &[(&str, u64)]) -> Genesis {
    let (model, training) = Preset::Nano.specs();
    let founders =
        founders.iter().map(|name| Founder { owner: owner(name), node: node(&format!("{name}'s node")), power: 1 });
    let allocations = rich.iter().map(|(name, units)| Allocation { owner: owner(name), amount: amount(*units) });
    Genesis {
        created_unix_ms: 0,
        seed: Hash::of_blob(b"seed"),
        model,
        training,
        params,
        manifest: Hash::default(),
        founders: founders.collect::<Vec<_>>().try_into().expect("few"),
        allocations: allocations.collect::<Vec<_>>().try_into().expect("few"),
        first: None,
    }
}

pub(crate) fn amount(units: u64) -> Amount {
    Amount::from_units(units)
}

/// A vote with its signature.
pub(crate) fn vote(network: NetworkId, validator: &str, statement: Statement) -> SignedVote {
    let vote = Vote { validator: node(validator), statement };
    SignedVote { vote, signature: sign(validator, &vote.digest(network)) }
}

/// A finalization of a block by these nodes.
pub(crate) fn finalization(network: NetworkId, height: u64, block: Hash, signers: &[&str]) -> Certificate {
    let statement = Statement::Finalize { height, view: 0, block };
    let votes = signers.iter().map(|name| vote(network, name, statement));
    Certificate::gather(Subject::Finalized { height, view: 0, block }, votes)
}

/// A chain that grows.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    /// The nodes that propose and finalize, by name; the first proposes.
    pub(crate) validators: Vec<String>,
    /// The names of the keys that sign for owners, where they were rotated.
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) blocks: Vec<(Block, Certificate)>,
}

impl World {
    pub(crate) fn new(params: Params, founders: &[&str], rich: &[(&str, u64)]) -> Self {
        let validators = founders.iter().map(|name| format!("{name}'s node")).collect();
        let ledger = Ledger::genesis(&genesis(params, founders, rich));
        Self { ledger, validators, keys: BTreeMap::new(), blocks: Vec::new() }
    }

    /// An owner's wish, signed, with the sequence number that is next.
    pub(crate) fn wish(&self, name: &str, action: Action) -> SignedTransaction {
        let sequence = self.ledger.account(&owner(name)).map_or(0, |account| account.sequence);
        self.wish_at(name, sequence, action)
    }

    pub(crate) fn wish_at(&self, name: &str, sequence: u64, action: Action) -> SignedTransaction {
        let signer = self.keys.get(name).map_or(name, String::as_str);
        let key = PublicKey(*node(signer).as_bytes());
        self.signed(signer, Transaction { author: Author::Account { owner: owner(name), key, sequence }, action })
    }

    /// A node's message of this epoch, signed.
    pub(crate) fn message(&self, name: &str, action: Action) -> SignedTransaction {
        let author = Author::Node { node: node(name), epoch: self.ledger.epoch() };
        self.signed(name, Transaction { author, action })
    }

    fn signed(&self, signer: &str, transaction: Transaction) -> SignedTransaction {
        let signature = sign(signer, &transaction.digest(self.ledger.network()));
        SignedTransaction { transaction, signature }
    }

    /// The registration of a node by its owner, with a solved puzzle.
    pub(crate) fn registration(&self, owner_name: &str, node_name: &str) -> Action {
        let (network, wanted) = (self.ledger.network(), self.ledger.params().nodes.puzzle_bits);
        let (owner, node) = (owner(owner_name), node(node_name));
        let puzzle = (0..).find(|nonce| puzzle_bits(network, node, *nonce) >= wanted);
        Action::RegisterNode { node, consent: sign(node_name, &consent_digest(network, owner, node)), puzzle }
    }

    /// Drafts a block at a time, has it decided and applies it.
    pub(crate) fn try_block(
        &mut self,
        time: Time,
        wishes: &[SignedTransaction],
    ) -> Result<Vec<(usize, Refusal)>, BlockError> {
        let signers: Vec<&str> = self.validators.iter().map(String::as_str).collect();
        let finality = self.blocks.last().map(|(_, certificate)| certificate.clone());
        let draft = self.ledger.draft(node(signers[0]), time, finality.as_ref(), wishes)?;
        let (applied, receipts) = self.ledger.apply(&draft.block)?;
        assert_eq!((applied.root(), applied.head()), (draft.ledger.root(), draft.ledger.head()), "as it was drafted");
        assert_eq!(receipts.len(), draft.block.transactions.len());
        let certificate = finalization(self.ledger.network(), applied.head().height, applied.head().id, &signers);
        self.blocks.push((draft.block, certificate));
        self.ledger = applied;
        Ok(draft.refused)
    }

    /// A block one millisecond later in which all these wishes must apply.
    pub(crate) fn block(&mut self, wishes: &[SignedTransaction]) {
        let refused = self.try_block(self.ledger.head().time.after_ms(1), wishes).expect("a block");
        assert_eq!(refused, [], "all of them apply");
    }

    /// One wish of an owner, which must apply.
    pub(crate) fn does(&mut self, name: &str, action: Action) {
        let wish = self.wish(name, action);
        self.block(&[wish]);
    }

    /// Why a wish of an owner would be refused.
    pub(crate) fn refusal(&self, name: &str, action: Action) -> Option<Refusal> {
        self.ledger.admits(&self.wish(name, action)).err()
    }

    /// Empty blocks until so many epochs have ended.
    pub(crate) fn epochs(&mut self, count: u64) {
        let until = self.ledger.epoch() + count;
        while self.ledger.epoch() < until {
            let refused = self.try_block(self.ledger.next_due(), &[]).expect("an empty block that is due");
            assert_eq!(refused, []);
        }
    }

    pub(crate) fn balance(&self, name: &str) -> u64 {
        self.ledger.account(&owner(name)).map_or(0, |account| account.spendable(self.ledger.protocol_ms()).units())
    }
}
