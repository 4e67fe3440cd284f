//! The one canonical encoding: postcard, read back strictly (PROTOCOL §1).
//!
//! postcard alone accepts overlong integers and trailing bytes. Here a value has exactly one encoding: [`decode`] demands
//! full consumption and that encoding the result again gives the same bytes.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::mutant::mutant;

/// Largest control message, in bytes (PROTOCOL §1).
pub const CONTROL_BYTES_MAX: u32 = 1 << 20;
/// Largest chunk of a tensor or blob on the wire, in bytes (PROTOCOL §1).
pub const CHUNK_BYTES_MAX: u32 = 256 << 10;

/// A type with one canonical encoding, and the most bytes that encoding may take.
pub trait Canonical: Serialize + DeserializeOwned {
    /// Bytes above this are refused before anything is read.
    const BYTES_MAX: u32 = CONTROL_BYTES_MAX;
}

impl<T: Canonical> Canonical for Box<T> {
    const BYTES_MAX: u32 = T::BYTES_MAX;
}

/// Why bytes are not a canonical encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than the type may take.
    TooLarge { len: u64, max: u32 },
    /// The bytes end early, or hold an unknown variant, an over-long list or an invalid value.
    Malformed,
    /// Bytes follow the value.
    TrailingBytes { extra: u64 },
    /// The same value has a shorter encoding.
    NotCanonical,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { len, max } => write!(f, "{len} bytes where at most {max} are allowed"),
            Self::Malformed => f.write_str("malformed encoding"),
            Self::TrailingBytes { extra } => write!(f, "{extra} bytes follow the value"),
            Self::NotCanonical => f.write_str("not the canonical encoding of its value"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Most messages and records fit into this.
const CAPACITY: usize = 256;

/// Encodes a value. What can be constructed can be encoded.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let encoded = postcard::to_extend(value, Vec::with_capacity(CAPACITY));
    assert!(encoded.is_ok(), "a constructed value has an encoding");
    encoded.unwrap_or_default()
}

/// Length of [`encode`]'s answer.
pub fn encoded_len<T: Serialize + ?Sized>(value: &T) -> u64 {
    let len = postcard::experimental::serialized_size(value);
    assert!(len.is_ok(), "a constructed value has an encoding");
    u64::try_from(len.unwrap_or_default()).unwrap_or(u64::MAX)
}

/// Decodes a value from exactly these bytes.
///
/// # Errors
/// Says which rule of the canonical encoding the bytes break; no bytes panic or allocate more than a small multiple of
/// their own length.
pub fn decode<T: Canonical>(bytes: &[u8]) -> Result<T, DecodeError> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if len > u64::from(T::BYTES_MAX) {
        return Err(DecodeError::TooLarge { len, max: T::BYTES_MAX });
    }
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| DecodeError::Malformed)?;
    if !rest.is_empty() && !mutant("trailing bytes accepted") {
        return Err(DecodeError::TrailingBytes { extra: u64::try_from(rest.len()).unwrap_or(u64::MAX) });
    }
    if encode(&value) != bytes && !mutant("trailing bytes accepted") {
        return Err(DecodeError::NotCanonical);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u64, bool);
    impl Canonical for Pair {
        const BYTES_MAX: u32 = 16;
    }

    #[test]
    fn one_value_has_one_encoding() {
        let bytes = encode(&Pair(300, true));
        assert_eq!(decode(&bytes), Ok(Pair(300, true)));
        assert_eq!(decode::<Pair>(&[0x80, 0x00, 1]), Err(DecodeError::NotCanonical));
        assert_eq!(decode::<Pair>(&[0, 1, 9]), Err(DecodeError::TrailingBytes { extra: 1 }));
        assert_eq!(decode::<Pair>(&[0, 2]), Err(DecodeError::Malformed));
        assert_eq!(decode::<Pair>(&[0; 17]), Err(DecodeError::TooLarge { len: 17, max: 16 }));
    }
}
