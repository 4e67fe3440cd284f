//! The agreed world on the wire: transactions, blocks, votes and certificates (PROTOCOL §0.1, §11).

mod block;
mod certificate;
mod state;
mod transaction;
mod vote;

pub use block::{BLOCK_BYTES_MAX, Block, BlocksWanted, Decided, Header, Proposal, TRANSACTIONS_MAX};
pub use certificate::{Certificate, CertificateError, Endorsement, Seats, Subject, VALIDATORS_MAX};
pub use state::{Advance, NextSeats, STEPS_MAX, StatePiece, StatePlace, StateWanted, Steps, StepsWanted};
pub use transaction::{
    Action, Author, PublicKey, SignedTransaction, Transaction, consent_digest, puzzle_bits, random_commitment,
};
pub use vote::{Evidence, Lock, SignedVote, Statement, Vote};
