//! Any bytes as any type: decoding never panics and never takes much memory, and what it accepts has that one encoding.

use neuroshard_core::ledger::light::Advance;
use neuroshard_core::ledger::sync::Chunk;
use neuroshard_core::ledger::{Account, Quorum, Stage, StateProof};
use neuroshard_core::tokenizer::Merges;
use neuroshard_core::{Config, Input, Output, Record};
use neuroshard_proto::chain::{
    Block, BlocksWanted, Certificate, Decided, Evidence, Header as BlockHeader, Proposal, Seats, SignedTransaction,
    SignedVote, StatePiece, StateWanted, Steps, StepsWanted, Transaction, Vote,
};
use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{
    Beacon, Carried, Commitment, Envelope, Fault, FormingMessage, Genesis, Hash, Heartbeat, Job, Kind, LayerIndex,
    Manifest, Message, ModelSpec, OwnerId, Params, Plan, QuorumId, QuorumMessage, Terms, Verified,
};
use neuroshard_replay::Header;

use crate::memory::peak;

/// Decoding may hold so many bytes for each byte it reads: a list of empty strings is the worst, while it grows.
const BYTES_PER_BYTE_MAX: u64 = 128;
/// And so many whatever it reads.
const BYTES_MAX: u64 = 8192;

/// A type's name and the check of bytes as that type.
pub type Check = (&'static str, fn(&[u8]));

/// Every type that is decoded from what others made. The first byte of an input chooses; the list only grows at its end.
pub const TYPES: [Check; 44] = [
    ("Envelope", check::<Envelope>),
    ("Heartbeat", check::<Heartbeat>),
    ("Genesis", check::<Genesis>),
    ("Manifest", check::<Manifest>),
    ("Params", check::<Params>),
    ("Job", check::<Job>),
    ("Commitment", check::<Commitment>),
    ("Fault", check::<Fault>),
    ("ModelSpec", check::<ModelSpec>),
    ("Config", check::<Config>),
    ("Input", check::<Input>),
    ("Output", check::<Output>),
    ("Record", check::<Record>),
    ("Merges", check::<Merges>),
    ("Header", check::<Header>),
    ("frame", check_frame),
    ("Transaction", check::<Transaction>),
    ("Vote", check::<Vote>),
    ("Certificate", check::<Certificate>),
    ("Proposal", check::<Proposal>),
    ("Decided", check::<Decided>),
    ("BlocksWanted", check::<BlocksWanted>),
    ("Chunk", check::<Chunk>),
    ("Advance", check::<Advance>),
    ("StateProof", check::<StateProof<OwnerId, Account>>),
    ("SignedTransaction", check::<SignedTransaction>),
    ("SignedVote", check::<SignedVote>),
    ("Evidence", check::<Evidence>),
    ("block header", check::<BlockHeader>),
    ("Block", check::<Block>),
    ("Seats", check::<Seats>),
    ("CarriedCertificate", check::<Carried<Certificate>>),
    ("CarriedDecided", check::<Carried<Decided>>),
    ("StepsWanted", check::<StepsWanted>),
    ("Steps", check::<Steps>),
    ("StateWanted", check::<StateWanted>),
    ("StatePiece", check::<StatePiece>),
    ("Plan", check::<Plan>),
    ("Terms", check::<Terms>),
    ("QuorumMessage", check::<QuorumMessage>),
    ("FormingMessage", check::<FormingMessage>),
    ("quorum's proof", check::<StateProof<QuorumId, Quorum>>),
    ("stage's proof", check::<StateProof<LayerIndex, Stage>>),
    ("Beacon", check::<Beacon>),
];

/// The target: a byte that chooses a type, and an encoding.
pub fn run(bytes: &[u8]) {
    if let Some((choice, encoding)) = bytes.split_first()
        && let Some((_, check)) = TYPES.get(usize::from(*choice))
    {
        check(encoding);
    }
}

fn check<T: Canonical>(bytes: &[u8]) {
    let limit = BYTES_MAX + BYTES_PER_BYTE_MAX * bytes.len() as u64;
    let (decoded, held) = peak(|| codec::decode::<T>(bytes));
    assert!(held <= limit, "decoding {} bytes as {} took {held}", bytes.len(), std::any::type_name::<T>());
    if let Ok(value) = decoded {
        assert_eq!(codec::encode(&value), bytes, "what was accepted has one encoding");
        assert!(bytes.len() as u64 <= u64::from(T::BYTES_MAX), "what was accepted is within its limit");
        assert!(codec::decode::<T>(&[bytes, &[0]].concat()).is_err(), "nothing may follow");
        let shorter = bytes.split_last().map(|(_, shorter)| shorter);
        assert!(shorter.is_none_or(|shorter| codec::decode::<T>(shorter).is_err()), "nothing may be missing");
    }
}

/// A frame from the network: it opens or is refused, and an opened one closes to the same bytes.
fn check_frame(bytes: &[u8]) {
    let limit = BYTES_MAX + BYTES_PER_BYTE_MAX * bytes.len() as u64;
    let (opened, held) = peak(|| Verified::open(bytes));
    assert!(held <= limit, "opening a frame of {} bytes took {held}", bytes.len());
    if let Ok(verified) = opened {
        assert_eq!(verified.frame(), bytes, "an opened frame closes to the same bytes");
        let message = verified.message();
        assert_eq!(Message::from_payload(message.kind(), &message.payload()).as_ref(), Ok(message));
    }
    for &kind in Kind::ALL {
        if let Ok(message) = Message::from_payload(kind, bytes) {
            assert_eq!(message.payload(), bytes, "a payload has one encoding");
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(hash) = Hash::from_hex(text)
    {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Deserializer, Serialize};

    use super::*;

    #[test]
    fn every_type_of_the_schema_is_fuzzed() {
        for ty in neuroshard_proto::schema::types() {
            assert!(TYPES.iter().any(|(name, _)| *name == ty.name), "{} is not", ty.name);
        }
    }

    /// Takes the memory that its bytes claim.
    #[derive(Serialize)]
    struct Greedy(u32);

    impl Canonical for Greedy {}

    impl<'de> Deserialize<'de> for Greedy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let len = u32::deserialize(deserializer)?;
            drop(vec![0_u8; len as usize]);
            Ok(Self(len))
        }
    }

    #[test]
    fn a_type_that_takes_what_its_bytes_claim_is_noticed() {
        check::<Greedy>(&codec::encode(&Greedy(100)));
        let claim = codec::encode(&Greedy(1 << 20));
        assert!(std::panic::catch_unwind(|| check::<Greedy>(&claim)).is_err());
    }
}
