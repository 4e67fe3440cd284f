//! Bytes as text: hexadecimal wherever people read, raw bytes in the canonical encoding.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Displays bytes as hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Writes bytes in hexadecimal; a precision (`{:.8}`) limits the digits shown.
pub(crate) fn pad(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    use fmt::Write as _;

    let mut text = String::with_capacity(64);
    write!(text, "{}", Hex(bytes))?;
    f.pad(&text)
}

/// Reads pairs of hexadecimal digits.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let [high, low] = pair else { return None };
            nibble(*high)?.checked_mul(16)?.checked_add(nibble(*low)?)
        })
        .collect()
}

/// Reads exactly `N` pairs of hexadecimal digits.
pub(crate) fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N.saturating_mul(2) {
        return None;
    }
    bytes(text)?.try_into().ok()
}

pub(crate) fn serialize_array<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        return serializer.collect_str(&Hex(bytes));
    }
    bytes.serialize(serializer)
}

pub(crate) fn deserialize_array<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    if deserializer.is_human_readable() {
        return array(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"));
    }
    <[u8; 32]>::deserialize(deserializer)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use crate::{Bytes, Hash, NodeId, Signature};

    #[test]
    fn people_read_hexadecimal_and_machines_read_bytes() {
        let hash = Hash::of_blob(b"abc");
        assert_eq!(serde_json::to_value(hash).unwrap(), hash.to_string());
        assert_eq!(postcard::to_allocvec(&hash).unwrap(), hash.as_bytes());
        let bytes = Bytes::<4>::try_from(std::vec![0, 0xab]).unwrap();
        assert_eq!(serde_json::to_value(&bytes).unwrap(), "00ab");
        assert_eq!(postcard::to_allocvec(&bytes).unwrap(), [2, 0, 0xab]);
    }

    #[test]
    fn what_people_read_reads_back() {
        let (hash, signature) = (Hash::of_blob(b"abc"), Signature([0xa5; 64]));
        let node = NodeId::from_bytes(*hash.as_bytes());
        let text = serde_json::to_string(&(hash, node, signature)).unwrap();
        assert_eq!(serde_json::from_str::<(Hash, NodeId, Signature)>(&text).unwrap(), (hash, node, signature));
        assert!(serde_json::from_str::<Hash>("\"00\"").is_err());
        assert!(serde_json::from_str::<Bytes<4>>("\"0\"").is_err());
        assert!(serde_json::from_str::<Bytes<1>>("\"0000\"").is_err());
        assert!(serde_json::from_str::<Bytes<4>>("\"zz\"").is_err());
    }
}
