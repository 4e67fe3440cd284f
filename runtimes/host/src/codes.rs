//! Codes that people hand to each other: invites to a network, and founders of one to be.
//!
//! A code is a prefix that says what it is, and base58 of its content and four bytes of checksum, so that a slip of the pen or a
//! piece that is missing is told from a wrong code.

use std::fmt;

use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Bytes, Founder, Hash, List, NetworkId, NodeId, OwnerId};
use serde::{Deserialize, Serialize};

use crate::clock::unix_ms;
use crate::net::Multiaddr;

/// How an invite begins.
pub const INVITE_PREFIX: &str = "nsi1";
/// How a founder's code begins.
pub const FOUNDER_PREFIX: &str = "nsf1";

/// Addresses in an invite, and bytes of each.
pub const ADDRESSES_MAX: u32 = 8;
const ADDRESS_BYTES_MAX: u32 = 256;
const CHECK_BYTES: usize = 4;
/// Longest code that is looked at.
const CODE_BYTES_MAX: usize = 4096;

/// The way into a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// The hash of its genesis: whoever answers must have that one.
    pub network: NetworkId,
    /// Where nodes of it can be reached.
    pub addresses: Vec<Multiaddr>,
    /// After this it leads nowhere, in milliseconds of Unix time.
    pub expires_unix_ms: u64,
}

/// An invite as it is encoded.
#[derive(Serialize, Deserialize)]
struct Packed {
    network: NetworkId,
    addresses: List<Bytes<ADDRESS_BYTES_MAX>, ADDRESSES_MAX>,
    expires_unix_ms: u64,
}

impl Canonical for Packed {
    const BYTES_MAX: u32 = CODE_BYTES_MAX as u32;
}

/// Why a code leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// It is of another kind, or of a version that this program does not know.
    Kind { wanted: &'static str },
    /// A character is wrong, or something is missing.
    Damaged,
    /// Its time is over.
    Expired { days: u64 },
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { wanted } if *wanted == INVITE_PREFIX => {
                write!(
                    f,
                    "an invite code begins with `{wanted}`; `neuroshard invite` prints one on a node of the network."
                )
            }
            Self::Kind { wanted } => {
                write!(f, "a founder's code begins with `{wanted}`; `neuroshard keys founder` prints it on that node.")
            }
            Self::Damaged => f.write_str("the code is damaged: copy all of it, from the first character to the last."),
            Self::Expired { days: 0 } => f.write_str("the invite expired today. Ask for a new one."),
            Self::Expired { days } => write!(f, "the invite expired {days} days ago. Ask for a new one."),
        }
    }
}

impl std::error::Error for CodeError {}

impl Invite {
    /// The code for people.
    pub fn code(&self) -> String {
        let addresses = self.addresses.iter().filter_map(|address| Bytes::try_from(address.to_vec()).ok());
        let addresses: Vec<_> = addresses.take(ADDRESSES_MAX as usize).collect();
        let addresses = addresses.try_into().unwrap_or_default();
        let Self { network, expires_unix_ms, .. } = *self;
        write(INVITE_PREFIX, &codec::encode(&Packed { network, addresses, expires_unix_ms }))
    }

    /// Reads a code.
    ///
    /// # Errors
    /// If it is damaged, or its time is over.
    pub fn read(code: &str) -> Result<Self, CodeError> {
        let packed: Packed = codec::decode(&read(INVITE_PREFIX, code)?).map_err(|_| CodeError::Damaged)?;
        let addresses = packed.addresses.iter().map(|address| Multiaddr::try_from(address.clone().into_vec()));
        let addresses: Vec<_> = addresses.collect::<Result<_, _>>().map_err(|_| CodeError::Damaged)?;
        let now = unix_ms();
        if packed.expires_unix_ms < now {
            return Err(CodeError::Expired { days: (now - packed.expires_unix_ms) / 86_400_000 });
        }
        Ok(Self { network: packed.network, addresses, expires_unix_ms: packed.expires_unix_ms })
    }
}

/// A founder's code: its owner and node.
pub fn founder_code(founder: &Founder) -> String {
    write(FOUNDER_PREFIX, &[founder.owner.as_bytes().as_slice(), founder.node.as_bytes()].concat())
}

/// Reads a founder's code; each founder has the same power.
///
/// # Errors
/// If it is damaged.
pub fn founder_of(code: &str) -> Result<Founder, CodeError> {
    let bytes = read(FOUNDER_PREFIX, code)?;
    let (halves, rest) = bytes.as_chunks::<32>();
    match (halves, rest) {
        ([owner, node], []) => {
            Ok(Founder { owner: OwnerId::from_bytes(*owner), node: NodeId::from_bytes(*node), power: 1 })
        }
        _ => Err(CodeError::Damaged),
    }
}

fn check(prefix: &str, content: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = Hash::of_blob(&[prefix.as_bytes(), content].concat());
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

fn write(prefix: &str, content: &[u8]) -> String {
    format!("{prefix}{}", bs58::encode([content, &check(prefix, content)].concat()).into_string())
}

fn read(prefix: &'static str, code: &str) -> Result<Vec<u8>, CodeError> {
    // Mail programs break long words.
    let code: String = code.chars().filter(|c| !c.is_whitespace()).take(CODE_BYTES_MAX).collect();
    let body = code.strip_prefix(prefix).ok_or(CodeError::Kind { wanted: prefix })?;
    let mut bytes = bs58::decode(body).into_vec().map_err(|_| CodeError::Damaged)?;
    let content = bytes.len().checked_sub(CHECK_BYTES).ok_or(CodeError::Damaged)?;
    let stored = bytes.split_off(content);
    if stored == check(prefix, &bytes) { Ok(bytes) } else { Err(CodeError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(expires_unix_ms: u64) -> Invite {
        let addresses = ["/ip4/203.0.113.7/tcp/4700", "/dns/node.example.org/tcp/4700"];
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Invite { network: NetworkId(Hash::of_blob(b"network")), addresses, expires_unix_ms }
    }

    #[test]
    fn an_invite_survives_mail_and_no_slip_of_the_pen() {
        let invite = invite(unix_ms() + 60_000);
        let code = invite.code();
        assert!(code.starts_with(INVITE_PREFIX) && code.len() < 200, "{code}");
        assert_eq!(Invite::read(&code), Ok(invite.clone()));
        assert_eq!(Invite::read(&format!(" {}\n {} ", &code[..40], &code[40..])), Ok(invite));
        for place in INVITE_PREFIX.len()..code.len() {
            let mut wrong = code.clone().into_bytes();
            wrong[place] = if wrong[place] == b'2' { b'3' } else { b'2' };
            assert_eq!(Invite::read(&String::from_utf8(wrong).unwrap()), Err(CodeError::Damaged), "{place}");
        }
        for length in INVITE_PREFIX.len()..code.len() {
            assert_eq!(Invite::read(&code[..length]), Err(CodeError::Damaged), "{length}");
        }
        assert!(matches!(Invite::read("hello"), Err(CodeError::Kind { .. })));
    }

    #[test]
    fn an_invite_ends() {
        let code = invite(unix_ms() - 3 * 86_400_000).code();
        assert_eq!(Invite::read(&code), Err(CodeError::Expired { days: 3 }));
    }

    #[test]
    fn a_founder_is_read_as_written_and_not_as_an_invite() {
        let founder = Founder { owner: OwnerId::from_bytes([1; 32]), node: NodeId::from_bytes([2; 32]), power: 1 };
        let code = founder_code(&founder);
        assert_eq!(founder_of(&code), Ok(founder));
        assert!(matches!(Invite::read(&code), Err(CodeError::Kind { .. })));
        let as_invite = code.replace(FOUNDER_PREFIX, INVITE_PREFIX);
        assert_eq!(Invite::read(&as_invite), Err(CodeError::Damaged));
    }
}
