//! Collections with a limit in their type, so that a hostile length never allocates (PROTOCOL §1).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

use postcard_schema::Schema;
use postcard_schema::schema::{DataModelType, NamedType};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex;

/// More items than the type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub len: u64,
    pub max: u32,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items where at most {} are allowed", self.len, self.max)
    }
}

impl core::error::Error for TooLong {}

fn check(len: usize, max: u32) -> Result<(), TooLong> {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    if len > u64::from(max) { Err(TooLong { len, max }) } else { Ok(()) }
}

/// A list of at most `MAX` items.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct List<T, const MAX: u32>(Vec<T>);

impl<T, const MAX: u32> List<T, MAX> {
    pub const MAX: u32 = MAX;
    // A zero-sized item would let two bytes claim four billion items.
    const SIZED: () = assert!(size_of::<T>() > 0, "items of a List must have a size");

    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: u32> Default for List<T, MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const MAX: u32> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = TooLong;

    fn try_from(items: Vec<T>) -> Result<Self, TooLong> {
        check(items.len(), MAX).map(|()| Self(items))
    }
}

impl<T, const MAX: u32> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T, const MAX: u32> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: fmt::Debug, const MAX: u32> fmt::Debug for List<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize, const MAX: u32> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: u32> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: u32>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: u32> Visitor<'de> for Items<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let () = List::<T, MAX>::SIZED;
                let mut items = Vec::new();
                // Grown item by item: memory follows the bytes that really came, not the length they claim.
                while let Some(item) = access.next_element()? {
                    items.push(item);
                    check(items.len(), MAX).map_err(A::Error::custom)?;
                }
                Ok(List(items))
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}

impl<T: Schema, const MAX: u32> Schema for List<T, MAX> {
    const SCHEMA: &'static NamedType = &NamedType { name: Limit::<MAX>::NAME, ty: &DataModelType::Seq(T::SCHEMA) };
}

/// At most `MAX` bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes<const MAX: u32>(Vec<u8>);

impl<const MAX: u32> Bytes<MAX> {
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: u32> TryFrom<Vec<u8>> for Bytes<MAX> {
    type Error = TooLong;

    fn try_from(bytes: Vec<u8>) -> Result<Self, TooLong> {
        check(bytes.len(), MAX).map(|()| Self(bytes))
    }
}

impl<const MAX: u32> Deref for Bytes<MAX> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: u32> fmt::Debug for Bytes<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const MAX: u32> Serialize for Bytes<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(&hex::Hex(&self.0));
        }
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const MAX: u32> Deserialize<'de> for Bytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let bytes =
                hex::bytes(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("not hexadecimal"))?;
            return Self::try_from(bytes).map_err(D::Error::custom);
        }
        let bytes: &[u8] = serde_bytes::deserialize(deserializer)?;
        check(bytes.len(), MAX).map_err(D::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

impl<const MAX: u32> Schema for Bytes<MAX> {
    const SCHEMA: &'static NamedType = &NamedType { name: Limit::<MAX>::NAME, ty: &DataModelType::ByteArray };
}

/// UTF-8 text of at most `MAX` bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<const MAX: u32>(String);

impl<const MAX: u32> TryFrom<String> for Text<MAX> {
    type Error = TooLong;

    fn try_from(text: String) -> Result<Self, TooLong> {
        check(text.len(), MAX).map(|()| Self(text))
    }
}

impl<const MAX: u32> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: u32> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MAX: u32> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MAX: u32> Serialize for Text<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: u32> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        check(text.len(), MAX).map_err(D::Error::custom)?;
        Ok(Self(text.into()))
    }
}

impl<const MAX: u32> Schema for Text<MAX> {
    const SCHEMA: &'static NamedType = &NamedType { name: Limit::<MAX>::NAME, ty: &DataModelType::String };
}

/// A limit as a name: the schema has no other place for it.
struct Limit<const MAX: u32>;

impl<const MAX: u32> Limit<MAX> {
    const DIGITS: [u8; 10] = [
        digit(MAX, 1_000_000_000),
        digit(MAX, 100_000_000),
        digit(MAX, 10_000_000),
        digit(MAX, 1_000_000),
        digit(MAX, 100_000),
        digit(MAX, 10_000),
        digit(MAX, 1000),
        digit(MAX, 100),
        digit(MAX, 10),
        digit(MAX, 1),
    ];
    const NAME: &'static str = match core::str::from_utf8(&Self::DIGITS) {
        Ok(name) => name,
        Err(_) => "",
    };
}

/// The decimal digit of a number that counts this unit.
const fn digit(number: u32, unit: u32) -> u8 {
    let Some(units) = number.checked_div(unit) else { return b'0' };
    let Some(rest) = units.checked_rem(10) else { return b'0' };
    let [digit, ..] = rest.to_le_bytes();
    b'0'.saturating_add(digit)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn a_list_over_its_limit_is_refused_on_both_sides() {
        assert_eq!(List::<u8, 2>::try_from(vec![1, 2, 3]), Err(TooLong { len: 3, max: 2 }));
        let bytes = postcard::to_allocvec(&vec![1u8, 2, 3]).unwrap();
        assert!(postcard::from_bytes::<List<u8, 2>>(&bytes).is_err());
        assert!(postcard::from_bytes::<List<u8, 3>>(&bytes).is_ok());
    }

    #[test]
    fn a_limit_is_its_schema_s_name() {
        assert_eq!(List::<u8, 512>::SCHEMA.name.parse(), Ok(512));
        assert_eq!(Bytes::<{ u32::MAX }>::SCHEMA.name.parse(), Ok(u32::MAX));
        assert_eq!(Text::<0>::SCHEMA.name.parse(), Ok(0));
    }

    #[test]
    fn a_lying_length_prefix_allocates_nothing() {
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2];
        assert!(postcard::from_bytes::<List<u64, 1024>>(&claim).is_err());
        assert!(postcard::from_bytes::<Bytes<1024>>(&claim).is_err());
        assert!(postcard::from_bytes::<Text<1024>>(&claim).is_err());
    }
}
