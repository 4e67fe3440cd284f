//! The envelope around every message, and the one way to open it (PROTOCOL §1).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use ed25519_dalek::VerifyingKey;
use postcard_schema::Schema;
use postcard_schema::schema::{DataModelType, NamedType};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bounded::Bytes;
use crate::chain::CertificateError;
use crate::codec::{self, CONTROL_BYTES_MAX, Canonical, DecodeError};
use crate::hash::{Domain, Hash, Hasher};
use crate::hex;
use crate::ids::{NetworkId, NodeId};
use crate::message::{Kind, Message};
use crate::mutant::mutant;

/// The version of the wire this code speaks. Same major number: talk; else refuse with a reason (PROTOCOL §1).
pub const WIRE_VERSION: u16 = 1;

/// Room for the payload: a control message less the envelope's own fields.
const PAYLOAD_BYTES_MAX: u32 = CONTROL_BYTES_MAX - 256;

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Signature({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

impl Signature {
    fn halves(&self) -> ([u8; 32], [u8; 32]) {
        let (mut low, mut high) = ([0; 32], [0; 32]);
        for (to, from) in low.iter_mut().chain(high.iter_mut()).zip(self.0) {
            *to = from;
        }
        (low, high)
    }
}

// Fixed-size, without a length prefix: two arrays of the size serde knows.
impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(&hex::Hex(&self.0));
        }
        self.halves().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = alloc::string::String::deserialize(deserializer)?;
            return hex::array(&text).map(Self).ok_or_else(|| D::Error::custom("not 128 hexadecimal digits"));
        }
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(low.into_iter().chain(high)) {
            *to = from;
        }
        Ok(Self(bytes))
    }
}

impl Schema for Signature {
    const SCHEMA: &'static NamedType =
        &NamedType { name: "Signature", ty: &DataModelType::Tuple(&[<[u8; 32]>::SCHEMA, <[u8; 32]>::SCHEMA]) };
}

/// What travels: a payload with its network, version, kind and signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Envelope {
    pub network: NetworkId,
    pub wire_version: u16,
    /// See [`Kind::number`].
    pub kind: u16,
    pub payload: Bytes<PAYLOAD_BYTES_MAX>,
    pub signature: Signature,
}

impl Canonical for Envelope {}

/// The digest that a node signs for a message: `domain tag, network, wire version, kind, payload`.
pub fn signing_bytes(network: NetworkId, wire_version: u16, kind: u16, payload: &[u8]) -> Hash {
    let mut hasher = Hasher::new(Domain::Envelope);
    hasher.update(network.0.as_bytes()).update(&wire_version.to_le_bytes()).update(&kind.to_le_bytes());
    hasher.update(payload).finish()
}

/// Whether an ed25519 key may sign anything: it is a point of the curve and not of small order. In simulations any name is
/// a key.
pub fn is_usable(key: &NodeId) -> bool {
    if !REAL_SIGNATURES {
        return true;
    }
    VerifyingKey::from_bytes(key.as_bytes()).is_ok_and(|key| !key.is_weak() || mutant("weak keys accepted"))
}

/// The one rule for signatures (PROTOCOL §1): a usable key, and strict ed25519 verification.
#[cfg(not(feature = "sim-signatures"))]
pub fn verify(signer: &NodeId, digest: &Hash, signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    is_usable(signer)
        && VerifyingKey::from_bytes(signer.as_bytes())
            .is_ok_and(|key| key.verify_strict(digest.as_bytes(), &signature).is_ok())
}

/// In simulations a keyed hash stands for a signature. Anybody can make one: no node can be built like this.
#[cfg(feature = "sim-signatures")]
pub fn verify(signer: &NodeId, digest: &Hash, signature: &Signature) -> bool {
    *signature == sim_sign(signer, digest)
}

/// What stands for a node's signature in a simulation.
#[cfg(feature = "sim-signatures")]
pub fn sim_sign(signer: &NodeId, digest: &Hash) -> Signature {
    let mut hasher = Hasher::new(Domain::Envelope);
    let half = *hasher.update(b"simulated").update(signer.as_bytes()).update(digest.as_bytes()).finish().as_bytes();
    let mut bytes = [0; 64];
    for (to, from) in bytes.iter_mut().zip(half.into_iter().chain(half)) {
        *to = from;
    }
    Signature(bytes)
}

/// Whether signatures are real. A program that people run must refuse to be built otherwise.
pub const REAL_SIGNATURES: bool = cfg!(not(feature = "sim-signatures"));

impl Envelope {
    /// Puts a signature that was made elsewhere under a message.
    pub fn signed(network: NetworkId, message: &Message, signature: Signature) -> Self {
        Self::seal(network, message, |_| signature)
    }

    /// Seals a message with the signature over [`Self::digest`].
    pub fn seal(network: NetworkId, message: &Message, sign: impl FnOnce(&Hash) -> Signature) -> Self {
        let (kind, payload) = (message.kind().number(), message.payload());
        let signature = sign(&signing_bytes(network, WIRE_VERSION, kind, &payload));
        let payload = Bytes::try_from(payload);
        assert!(payload.is_ok(), "every message fits in an envelope");
        Self { network, wire_version: WIRE_VERSION, kind, payload: payload.unwrap_or_default(), signature }
    }

    /// What was signed.
    pub fn digest(&self) -> Hash {
        signing_bytes(self.network, self.wire_version, self.kind, &self.payload)
    }
}

/// Why a frame from a peer is refused: the peer's fault, never fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reject {
    /// The envelope breaks the encoding.
    Envelope(DecodeError),
    /// The payload breaks the encoding.
    Payload(DecodeError),
    /// Another wire version; the operator sees which.
    WireVersion { theirs: u16 },
    /// A kind of message this version does not know.
    UnknownKind { number: u16 },
    /// The signer's key is not a point of the curve, or is of small order.
    WeakKey { signer: NodeId },
    /// The signature does not hold.
    Signature { signer: NodeId },
    /// Signed for another network.
    OtherNetwork { theirs: NetworkId },
    /// A certificate inside is none.
    Certificate(CertificateError),
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Envelope(error) => write!(f, "envelope: {error}"),
            Self::Payload(error) => write!(f, "payload: {error}"),
            Self::WireVersion { theirs } => {
                write!(
                    f,
                    "the peer speaks wire version {theirs}, this node {WIRE_VERSION}: one of them must be updated"
                )
            }
            Self::UnknownKind { number } => write!(f, "unknown kind of message {number}"),
            Self::WeakKey { signer } => write!(f, "{signer:.16} is not a usable key"),
            Self::Signature { signer } => write!(f, "the signature is not that of {signer:.16}"),
            Self::Certificate(error) => write!(f, "certificate: {error}"),
            Self::OtherNetwork { theirs } => write!(f, "the message is for network {theirs:.16}"),
        }
    }
}

impl core::error::Error for Reject {}

/// A message whose signature holds. Only [`Verified::open`] makes one, so no host can skip the check. Clones share it: a
/// frame is opened once, however many read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Arc<Opened>);

#[derive(Debug, PartialEq, Eq)]
struct Opened {
    envelope: Envelope,
    message: Message,
}

impl Verified {
    /// Opens a frame: decodes it strictly and verifies the signature. A pure function that any thread may call.
    ///
    /// # Errors
    /// Which rule the frame breaks.
    pub fn open(frame: &[u8]) -> Result<Self, Reject> {
        Self::open_envelope(codec::decode(frame).map_err(Reject::Envelope)?)
    }

    fn open_envelope(envelope: Envelope) -> Result<Self, Reject> {
        if envelope.wire_version != WIRE_VERSION {
            return Err(Reject::WireVersion { theirs: envelope.wire_version });
        }
        let message = Message::from_payload(Kind::from_number(envelope.kind)?, &envelope.payload)?;
        let signer = message.signer();
        if !is_usable(&signer) {
            return Err(Reject::WeakKey { signer });
        }
        if !verify(&signer, &envelope.digest(), &envelope.signature) {
            return Err(Reject::Signature { signer });
        }
        message.check_inside(envelope.network)?;
        Ok(Self(Arc::new(Opened { envelope, message })))
    }

    pub fn message(&self) -> &Message {
        &self.0.message
    }

    pub fn network(&self) -> NetworkId {
        self.0.envelope.network
    }

    /// The signer's signature over the message's digest.
    pub fn signature(&self) -> Signature {
        self.0.envelope.signature
    }

    /// The envelope as it came, to be passed on.
    pub fn envelope(&self) -> &Envelope {
        &self.0.envelope
    }

    /// The frame as it came.
    pub fn frame(&self) -> Vec<u8> {
        codec::encode(&self.0.envelope)
    }
}

// A verified message is stored as its envelope and verified again when read back: a trace cannot forge one.
impl Serialize for Verified {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.envelope.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Verified {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::open_envelope(Envelope::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Schema for Verified {
    const SCHEMA: &'static NamedType = Envelope::SCHEMA;
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::ids::Step;
    use crate::message::Heartbeat;
    use crate::time::Time;

    fn frame(edit: impl FnOnce(&mut Envelope)) -> Vec<u8> {
        let key = SigningKey::from_bytes(&[7; 32]);
        let heartbeat = Heartbeat {
            node: NodeId::from_bytes(key.verifying_key().to_bytes()),
            time: Time::from_ms(5),
            quorum: None,
            queue_depth: 0,
            free_bytes: 1 << 30,
            step: Step(3),
        };
        let network = NetworkId(Hash::of_blob(b"network"));
        let mut envelope = Envelope::seal(network, &Message::Heartbeat(heartbeat), |digest| {
            Signature(key.sign(digest.as_bytes()).to_bytes())
        });
        edit(&mut envelope);
        codec::encode(&envelope)
    }

    #[test]
    fn an_honest_frame_opens_and_closes_to_the_same_bytes() {
        let bytes = frame(|_| {});
        let verified = Verified::open(&bytes).unwrap();
        assert_eq!(verified.frame(), bytes);
        assert_eq!(verified.message().kind(), Kind::Heartbeat);
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let other = NetworkId(Hash::of_blob(b"another"));
        assert!(matches!(Verified::open(&frame(|e| e.network = other)), Err(Reject::Signature { .. })));
        assert!(matches!(Verified::open(&frame(|e| e.wire_version = 2)), Err(Reject::WireVersion { theirs: 2 })));
        assert!(matches!(Verified::open(&frame(|e| e.kind = 999)), Err(Reject::UnknownKind { number: 999 })));
        let flip = |e: &mut Envelope| {
            let mut payload = e.payload.clone().into_vec();
            *payload.last_mut().unwrap() ^= 1;
            e.payload = payload.try_into().unwrap();
        };
        assert!(matches!(Verified::open(&frame(flip)), Err(Reject::Signature { .. })));
    }

    #[test]
    fn a_small_order_key_is_refused() {
        let weak = |e: &mut Envelope| {
            let mut payload = e.payload.clone().into_vec();
            payload[..32].copy_from_slice(&[&[1][..], &[0; 31]].concat());
            e.payload = payload.try_into().unwrap();
        };
        assert!(matches!(Verified::open(&frame(weak)), Err(Reject::WeakKey { .. })));
    }

    #[test]
    fn truncated_and_padded_frames_are_refused() {
        let bytes = frame(|_| {});
        for len in 0..bytes.len() {
            assert!(matches!(Verified::open(&bytes[..len]), Err(Reject::Envelope(_))), "{len}");
        }
        let padded = [bytes, alloc::vec![0]].concat();
        assert_eq!(Verified::open(&padded), Err(Reject::Envelope(DecodeError::TrailingBytes { extra: 1 })));
    }
}
