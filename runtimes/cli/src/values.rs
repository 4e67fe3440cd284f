//! What operators write, as types: each reads itself from text, with an error that says what would be right.

use std::fmt;
use std::str::FromStr;

use neuroshard_host::codes::{self, Invite};
use neuroshard_host::net::{Multiaddr, address};
use neuroshard_host::why::DIGITS_MIN;
use neuroshard_proto::{Amount, Founder, Hash, Mode, NetworkId, OwnerId, Preset};
use neuroshard_sim::{Fault, Strategy};
use serde::{Deserialize, Deserializer};

/// A number of bytes: `512MiB`, `4G`, `1000000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size; write it like 512MiB, 4GiB or 20GB");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "kb" => 1000,
            "m" | "mib" => 1 << 20,
            "mb" => 1_000_000,
            "g" | "gib" => 1 << 30,
            "gb" => 1_000_000_000,
            "t" | "tib" => 1 << 40,
            "tb" => 1_000_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let mut bytes = whole.checked_mul(factor).ok_or_else(wrong)?;
        if !fraction.is_empty() {
            let parts: u64 = fraction.get(..fraction.len().min(9)).and_then(|f| f.parse().ok()).ok_or_else(wrong)?;
            let scale = 10_u128.pow(fraction.len().min(9) as u32);
            let more = u128::from(parts) * u128::from(factor) / scale;
            bytes = bytes.checked_add(u64::try_from(more).map_err(|_| wrong())?).ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

/// An amount of money in NEURO: `1.5`. Decimals end at the ninth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money(pub Amount);

impl FromStr for Money {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an amount; write NEURO like 12 or 0.000000001");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let units = whole.checked_mul(Amount::NEURO).and_then(|units| units.checked_add(part)).ok_or_else(wrong)?;
        Ok(Self(Amount::from_units(units)))
    }
}

/// An account by its owner's public key: 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub OwnerId);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hash = Hash::from_hex(text).ok_or_else(|| {
            format!("`{text}` is not an account; `neuroshard wallet balance` shows one: 64 hexadecimal digits")
        })?;
        Ok(Self(OwnerId::from_bytes(*hash.as_bytes())))
    }
}

/// The first digits of a node's name: enough to find it among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digits(pub String);

impl FromStr for Digits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal || !(DIGITS_MIN..=64).contains(&text.len()) {
            return Err(format!(
                "`{text}` is not a node; give the first {DIGITS_MIN} or more of the hexadecimal digits that \
                 `neuroshard network nodes` shows"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// What computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Adapter {
    /// The best GPU with a driver of its own; the CPU if there is none.
    #[default]
    Auto,
    Cpu,
    /// A GPU: the best one, or the first whose name holds this text.
    Gpu(Option<String>),
}

impl FromStr for Adapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "gpu" => Ok(Self::Gpu(None)),
            Some(("gpu", name)) if !name.trim().is_empty() => Ok(Self::Gpu(Some(name.trim().to_owned()))),
            _ => Err(format!("`{text}` is no adapter; there are auto, cpu, gpu and gpu:NAME")),
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(None) => f.write_str("gpu"),
            Self::Gpu(Some(name)) => write!(f, "gpu:{name}"),
        }
    }
}

/// A named model (PROTOCOL §13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresetName(pub Preset);

impl FromStr for PresetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Preset::ALL.into_iter().find(|preset| preset.name() == text);
        found
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no preset; there are {}", names(Preset::ALL.map(Preset::name))))
    }
}

/// How the node contributes, or `auto` (PROTOCOL §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeWish(pub Option<Mode>);

impl FromStr for ModeWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == text);
        let wrong = || format!("`{text}` is no mode; there are auto, {}", names(Mode::ALL.map(Mode::name)));
        found.map(|mode| Self(Some(mode))).ok_or_else(wrong)
    }
}

fn names<const N: usize>(names: [&'static str; N]) -> String {
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    if others.is_empty() { (*last).to_owned() } else { format!("{} and {last}", others.join(", ")) }
}

/// A seed: any text. Equal texts found networks with equal first weights and equal batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed(pub String);

impl Seed {
    /// The seed as the genesis has it.
    pub fn hash(&self) -> Hash {
        Hash::of_blob(self.0.as_bytes())
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a seed is any text but an empty one".to_owned()) } else { Ok(Self(text.to_owned())) }
    }
}

/// Time in hours, `0.5`, as milliseconds; or with a unit: `90s`, `10m`, `2h`, `3d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours(pub u64);

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time; write it in hours, like 0.5, or like 90s, 10m, 2h or 3d");
        let (number, unit_ms) = match text.as_bytes().last() {
            Some(b's') => (&text[..text.len() - 1], 1000),
            Some(b'm') => (&text[..text.len() - 1], 60_000),
            Some(b'h') => (&text[..text.len() - 1], 3_600_000),
            Some(b'd') => (&text[..text.len() - 1], 86_400_000),
            _ => (text, 3_600_000),
        };
        let millionths = millionths(number).ok_or_else(wrong)?;
        let ms = u128::from(millionths) * unit_ms / 1_000_000;
        u64::try_from(ms).map(Self).map_err(|_| wrong())
    }
}

/// A share between 0 and 1, as parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u32);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ppm = millionths(text).and_then(|ppm| u32::try_from(ppm).ok()).filter(|ppm| *ppm <= 1_000_000);
        ppm.map(Self).ok_or_else(|| format!("`{text}` is no share; write a number from 0 to 1, like 0.3"))
    }
}

/// A decimal number in millionths.
fn millionths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction)
}

/// Seeds `FROM..TO`, without the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    pub from: u64,
    pub to: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        match ends {
            Some((from, to)) if from < to => Ok(Self { from, to }),
            _ => Err(format!("`{text}` is no range of seeds; write it like 0..1000")),
        }
    }
}

/// Kinds of fault: `all`, `none`, or names with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        list(text, &Fault::ALL).map(Self)
    }
}

/// Strategies of liars: `all`, `none`, or names with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strategies(pub Vec<Strategy>);

impl FromStr for Strategies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        list(text, &Strategy::ALL).map(Self)
    }
}

fn list<T: Copy + FromStr<Err = String>>(text: &str, all: &[T]) -> Result<Vec<T>, String> {
    match text {
        "all" => Ok(all.to_vec()),
        "none" => Ok(Vec::new()),
        names => names.split(',').map(str::trim).map(str::parse).collect(),
    }
}

/// Where a node can be reached: `203.0.113.7:4700`, `node.example.org:4700`, or a multiaddress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub Multiaddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        address::parse(text).map(Self).map_err(|error| error.to_string())
    }
}

/// A founder of a network to be, as `neuroshard keys founder` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FounderCode(pub Founder);

impl FromStr for FounderCode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        codes::founder_of(text).map(Self).map_err(|error| error.to_string())
    }
}

/// What `neuroshard join` takes: an invite code, or a node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    Invite(Invite),
    Address(Address),
    /// One that was heard on the local network.
    Near {
        network: NetworkId,
        addresses: Vec<Multiaddr>,
    },
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(codes::INVITE_PREFIX) {
            return Invite::read(text).map(Self::Invite).map_err(|error| error.to_string());
        }
        let wrong = |why| format!("{why} An invite code begins with `{}`.", codes::INVITE_PREFIX);
        text.parse().map(Self::Address).map_err(wrong)
    }
}

/// Reads a value from a string or a number of a configuration file.
macro_rules! deserialize_from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match TextOrNumber::deserialize(deserializer)? {
                    TextOrNumber::Text(text) => text,
                    TextOrNumber::Number(number) => number.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

deserialize_from_text!(Size, Adapter, PresetName, ModeWish, Seed, Address, FounderCode);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        let cases = [
            ("0", 0),
            ("1000", 1000),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("4 GB", 4_000_000_000),
            ("1.5GiB", 3 << 29),
            ("512mib", 512 << 20),
            ("0.000000001GB", 1),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "4X", "1e9", "1..5G", "99999999999TiB", "4.G.", "ä"] {
            assert!(text.parse::<Size>().unwrap_err().contains("write it like"), "{text}");
        }
    }

    #[test]
    fn what_a_world_is_made_of_reads_itself() {
        let hours = [("2", 7_200_000), ("0.5", 1_800_000), ("90s", 90_000), ("10m", 600_000), ("3d", 259_200_000)];
        for (text, ms) in hours {
            assert_eq!(text.parse(), Ok(Hours(ms)), "{text}");
        }
        for text in ["", "h", "1x", "-1", "0.1234567", ".5", "1e3", "99999999999999999999"] {
            assert!(text.parse::<Hours>().unwrap_err().contains("is no time"), "{text}");
        }
        assert_eq!(["0", "0.3", "1"].map(str::parse), [Ok(Share(0)), Ok(Share(300_000)), Ok(Share(1_000_000))]);
        assert!("1.1".parse::<Share>().is_err() && "30%".parse::<Share>().is_err());
        assert_eq!("5..9".parse(), Ok(Seeds { from: 5, to: 9 }));
        assert!(["9..5", "5", "5..", "a..b"].iter().all(|text| text.parse::<Seeds>().is_err()));
        assert_eq!("loss, crash".parse(), Ok(Faults(vec![Fault::Loss, Fault::Crash])));
        assert_eq!("none".parse(), Ok(Faults(vec![])));
        assert!("fire".parse::<Faults>().unwrap_err().contains("there are loss"));
        assert_eq!("twins".parse(), Ok(Strategies(vec![Strategy::Twins])));
    }

    #[test]
    fn a_node_is_named_by_its_first_digits() {
        assert_eq!("5F34".parse(), Ok(Digits("5f34".into())));
        assert!("ab".repeat(32).parse::<Digits>().is_ok());
        for text in ["", "5f3", "node", "5f34/../x", &"ab".repeat(33)] {
            assert!(text.parse::<Digits>().unwrap_err().contains("`neuroshard network nodes` shows"), "{text}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        assert_eq!("gpu:RTX 4090".parse(), Ok(Adapter::Gpu(Some("RTX 4090".into()))));
        assert!("gpu:".parse::<Adapter>().is_err());
        assert_eq!(
            "nanno".parse::<PresetName>().unwrap_err(),
            "`nanno` is no preset; there are nano, micro and genesis"
        );
        assert!("fast".parse::<ModeWish>().unwrap_err().contains("auto, solo, pipeline"));
        assert_eq!("auto".parse(), Ok(ModeWish(None)));
    }

    #[test]
    fn money_is_read_to_the_last_unit() {
        let units = |text: &str| text.parse::<Money>().map(|money| money.0.units());
        assert_eq!(units("1"), Ok(1_000_000_000));
        assert_eq!(units("0.000000001"), Ok(1));
        assert_eq!(units("18446744073.709551615"), Ok(u64::MAX));
        for wrong in ["", ".", "1.", ".5", "-1", "1e3", "+1", "1.0000000001", "18446744073.709551616", "1,5"] {
            assert!(units(wrong).is_err(), "{wrong}");
        }
    }
}
