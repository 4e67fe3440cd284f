//! The bytes of a trace file around its frames, as `docs/src/traces.md` describes them: header, chunk heads, index and
//! trailer.

use neuroshard_core::{Config, Core, RECORD_BYTES_MAX};
use neuroshard_proto::codec::{self, Canonical, DecodeError};
use neuroshard_proto::{Bytes, Domain, Hash, List, Text, Time, TooLong, WIRE_VERSION};
use serde::{Deserialize, Serialize};

use crate::bytes::Cursor;
use crate::frame::FRAME_BYTES_MAX;

/// The version of the format this code writes, and the only one it reads so far.
pub const FORMAT: u16 = 1;
/// Most parts of a core's state.
pub const PARTS_MAX: u32 = 64;

/// First bytes of every trace. The high bit shows a transfer that only let text through.
pub(crate) const MAGIC: [u8; 8] = *b"\x89nstrace";
/// A chunk is closed when its frames reach this size.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// Most bytes of a chunk's frames: it is closed at once when it is full, so the last frame may reach beyond.
pub(crate) const CHUNK_BYTES_MAX: usize = CHUNK_BYTES + FRAME_BYTES_MAX + 8;

const JOURNAL_RECORDS_MAX: u32 = 1 << 20;
const INDEX_ENTRIES_MAX: u32 = 4096;
const KINDS_MAX: u32 = 64;
/// LZ4 cannot pack more tightly, so a short chunk cannot claim a long content.
const LZ4_RATIO_MAX: usize = 255;

/// How much of each step is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Inputs, and digests of outputs and state: enough to find the first step that differs.
    Inputs,
    /// The outputs too: enough to show both sides of a difference.
    #[default]
    Outputs,
}

/// What a replay needs before the first input, and what a reader wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub wire_version: u16,
    /// Version of the program that recorded.
    pub build: Text<64>,
    pub detail: Detail,
    pub config: Config,
    /// The core's seed for its random streams; no key.
    pub seed: Hash,
    /// The journal that the core was restored from.
    pub journal: List<Bytes<RECORD_BYTES_MAX>, JOURNAL_RECORDS_MAX>,
    /// When the recording began.
    pub origin: Time,
    /// State hash before the first input.
    pub state: Hash,
    /// Names of the parts of the state, in the core's order.
    pub parts: List<Text<32>, PARTS_MAX>,
}

impl Canonical for Header {
    const BYTES_MAX: u32 = 64 << 20;
}

impl Header {
    /// The header for a core that was just restored from this seed and journal at this time, or that has taken no step
    /// since.
    ///
    /// # Errors
    /// If the journal has more or longer records than a trace may hold.
    pub fn new<J: AsRef<[u8]>>(
        core: &Core,
        seed: Hash,
        journal: impl IntoIterator<Item = J>,
        origin: Time,
        detail: Detail,
    ) -> Result<Self, TooLong> {
        let records = journal.into_iter().map(|record| Bytes::try_from(record.as_ref().to_vec()));
        let parts = core
            .part_hashes()
            .map(|(name, _)| Text::try_from(name.to_owned()))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            wire_version: WIRE_VERSION,
            build: Self::this_build(),
            detail,
            config: core.config().clone(),
            seed,
            journal: List::try_from(records.collect::<Result<Vec<_>, _>>()?)?,
            origin,
            state: core.state_hash(),
            parts: List::try_from(parts)?,
        })
    }

    /// What [`Self::build`] is in traces of this program.
    pub const BUILD: &str = env!("CARGO_PKG_VERSION");

    pub(crate) fn this_build() -> Text<64> {
        Text::try_from(Self::BUILD.to_owned()).expect("a version is short")
    }

    /// Whether this very build recorded the trace. Another one may replay it, and may go another way.
    pub fn is_of_this_build(&self) -> bool {
        self.wire_version == WIRE_VERSION && &*self.build == Self::BUILD
    }

    /// The chain's value before the first step.
    pub(crate) fn chain(&self) -> Hash {
        Domain::TraceChain.hash(self.state.as_bytes())
    }
}

/// A checksum against damage, not against malice: the start of BLAKE3.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    Hash::of_blob(bytes).short()
}

/// A section's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Chunk,
    Index,
}

impl Tag {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Chunk => b'C',
            Self::Index => b'I',
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'C' => Some(Self::Chunk),
            b'I' => Some(Self::Index),
            _ => None,
        }
    }
}

/// How a chunk's frames are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Lz4,
}

/// What stands before a chunk's frames, its tag included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkHead {
    pub(crate) codec: Codec,
    pub(crate) stored_len: usize,
    pub(crate) raw_len: usize,
    pub(crate) frames: u32,
    /// Number and time of the first frame.
    pub(crate) first_step: u64,
    pub(crate) first_time: Time,
    /// The chain's value before the first frame.
    pub(crate) chain: Hash,
    /// Over the stored bytes.
    pub(crate) checksum: u64,
}

impl ChunkHead {
    pub(crate) const LEN: usize = 74;

    /// The step after the chunk's last one.
    pub(crate) fn next_step(&self) -> u64 {
        self.first_step.saturating_add(u64::from(self.frames))
    }

    /// The head's bytes; its own checksum comes last.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.push(Tag::Chunk.byte());
        out.push(match self.codec {
            Codec::Plain => 0,
            Codec::Lz4 => 1,
        });
        out.extend_from_slice(&(self.stored_len as u32).to_le_bytes());
        out.extend_from_slice(&(self.raw_len as u32).to_le_bytes());
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&self.first_step.to_le_bytes());
        out.extend_from_slice(&self.first_time.as_ms().to_le_bytes());
        out.extend_from_slice(self.chain.as_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        let own = checksum(&out) as u32;
        out.extend_from_slice(&own.to_le_bytes());
        assert_eq!(out.len(), Self::LEN, "a chunk head has one length");
        out
    }

    /// Reads a head; `None` if it is damaged or its lengths cannot be true.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        if cursor.u8()? != Tag::Chunk.byte() {
            return None;
        }
        let codec = match cursor.u8()? {
            0 => Codec::Plain,
            1 => Codec::Lz4,
            _ => return None,
        };
        let mut len = || cursor.u32().and_then(|len| usize::try_from(len).ok());
        let (stored_len, raw_len) = (len()?, len()?);
        let head = Self {
            codec,
            stored_len,
            raw_len,
            frames: cursor.u32()?,
            first_step: cursor.u64()?,
            first_time: Time::from_ms(cursor.u64()?),
            chain: Hash::from_bytes(cursor.array()?),
            checksum: cursor.u64()?,
        };
        let whole = cursor.u32()? == checksum(&bytes[..Self::LEN - 4]) as u32;
        let lengths_agree = match codec {
            Codec::Plain => stored_len == raw_len,
            Codec::Lz4 => stored_len < raw_len && raw_len / LZ4_RATIO_MAX <= stored_len,
        };
        (whole && lengths_agree && raw_len <= CHUNK_BYTES_MAX && head.frames > 0).then_some(head)
    }

    /// A chunk whole: its head, and its frames compressed where that helps.
    pub(crate) fn pack(raw: &[u8], frames: u32, first_step: u64, first_time: Time, chain: Hash) -> Vec<u8> {
        let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(raw.len())];
        let packed_len = lz4_flex::block::compress_into(raw, &mut packed).unwrap_or(usize::MAX);
        let (codec, stored) = match packed.get(..packed_len) {
            Some(packed) if packed.len() < raw.len() => (Codec::Lz4, packed),
            _ => (Codec::Plain, raw),
        };
        let (stored_len, raw_len, checksum) = (stored.len(), raw.len(), checksum(stored));
        let head = Self { codec, stored_len, raw_len, frames, first_step, first_time, chain, checksum };
        [&head.encode(), stored].concat()
    }

    /// The frames behind this head, unpacked.
    ///
    /// # Errors
    /// [`Damaged`] if the stored bytes are not those that were written.
    pub(crate) fn unpack(&self, stored: Vec<u8>) -> Result<Vec<u8>, Damaged> {
        if checksum(&stored) != self.checksum {
            return Err(Damaged);
        }
        match self.codec {
            Codec::Plain => Ok(stored),
            Codec::Lz4 => {
                let mut raw = vec![0; self.raw_len];
                let len = lz4_flex::block::decompress_into(&stored, &mut raw).map_err(|_| Damaged)?;
                if len == self.raw_len { Ok(raw) } else { Err(Damaged) }
            }
        }
    }
}

/// Stored bytes that cannot have been written behind their head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) first_step: u64,
    pub(crate) first_time: Time,
}

/// The last section of a trace: its totals, and where every so many chunks lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) summary: Summary,
    pub(crate) entries: List<Entry, INDEX_ENTRIES_MAX>,
}

impl Canonical for Index {}

/// Totals of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub steps: u64,
    /// Time of the last step, or when the recording began.
    pub ended: Time,
    /// Bytes of all frames before compression.
    pub frame_bytes: u64,
    /// Steps by kind of input, in order of first appearance.
    pub kinds: List<(Text<16>, u64), KINDS_MAX>,
}

/// Gathers an index in bounded memory: when it is full, every second entry goes and only every second chunk counts.
#[derive(Clone, Debug)]
pub(crate) struct IndexBuilder {
    entries: Vec<Entry>,
    chunks: u64,
    stride: u64,
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self { entries: Vec::new(), chunks: 0, stride: 1 }
    }
}

impl IndexBuilder {
    pub(crate) fn add(&mut self, entry: Entry) {
        if self.entries.len() == INDEX_ENTRIES_MAX as usize {
            let mut places = 0..;
            self.entries.retain(|_| places.next().is_some_and(|place: u32| place.is_multiple_of(2)));
            self.stride *= 2;
        }
        if self.chunks.is_multiple_of(self.stride) {
            self.entries.push(entry);
        }
        self.chunks += 1;
    }

    pub(crate) fn finish(self, summary: Summary) -> Index {
        let entries = List::try_from(self.entries);
        Index { summary, entries: entries.expect("the builder keeps fewer entries than an index may have") }
    }
}

/// The last bytes of a trace that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) index_offset: u64,
    /// Whether the host ended the recording; if not, it fell while recording.
    pub(crate) clean: bool,
}

impl Trailer {
    pub(crate) const LEN: usize = 17;

    /// The index section and the trailer.
    pub(crate) fn section(self, index: &Index) -> Vec<u8> {
        let payload = codec::encode(index);
        let mut out = vec![Tag::Index.byte()];
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&checksum(&payload).to_le_bytes());
        out.extend_from_slice(&payload);
        out.extend_from_slice(&self.index_offset.to_le_bytes());
        out.push(u8::from(self.clean));
        out.extend_from_slice(&MAGIC);
        out
    }

    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let index_offset = cursor.u64()?;
        let clean = match cursor.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        (cursor.0 == MAGIC).then_some(Self { index_offset, clean })
    }
}

impl Index {
    pub(crate) const SECTION_BYTES_MAX: u64 = Self::BYTES_MAX as u64 + 13;

    /// Reads an index section with nothing behind it.
    pub(crate) fn parse(section: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(section);
        if cursor.u8()? != Tag::Index.byte() {
            return None;
        }
        let (len, sum) = (usize::try_from(cursor.u32()?).ok()?, cursor.u64()?);
        let payload = cursor.0;
        (payload.len() == len && checksum(payload) == sum).then(|| codec::decode(payload).ok())?
    }
}

/// The bytes of a file's beginning: magic, format and header.
pub(crate) fn encode_opening(header: &Header) -> Result<Vec<u8>, DecodeError> {
    let payload = codec::encode(header);
    let len = payload.len() as u64;
    if len > u64::from(Header::BYTES_MAX) {
        return Err(DecodeError::TooLarge { len, max: Header::BYTES_MAX });
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&checksum(&payload).to_le_bytes());
    out.extend_from_slice(&payload);
    Ok(out)
}

/// Bytes before the header: magic, format, length and checksum.
pub(crate) const OPENING_LEN: usize = 22;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(chunk: u64) -> Entry {
        Entry { offset: chunk * 1000, first_step: chunk * 10 + 1, first_time: Time::from_ms(chunk) }
    }

    #[test]
    fn an_index_of_many_chunks_stays_small_and_even() {
        let mut builder = IndexBuilder::default();
        (0..100_000).for_each(|chunk| builder.add(entry(chunk)));
        let index = builder.finish(Summary::default());
        assert!((2048..=4096).contains(&index.entries.len()), "{}", index.entries.len());
        let gaps: Vec<u64> = index.entries.windows(2).map(|pair| pair[1].offset - pair[0].offset).collect();
        assert_eq!(index.entries[0], entry(0));
        assert!(gaps.iter().all(|gap| gap == &gaps[0]), "every so many chunks");
        assert!(codec::encode(&index).len() < 128 << 10);
    }

    #[test]
    fn a_chunk_head_that_claims_the_impossible_is_refused() {
        let head = ChunkHead {
            codec: Codec::Lz4,
            stored_len: 3,
            raw_len: 700,
            frames: 2,
            first_step: 1,
            first_time: Time::ZERO,
            chain: Hash::default(),
            checksum: 0,
        };
        let parse = |edit: fn(&mut ChunkHead)| {
            let mut head = head.clone();
            edit(&mut head);
            ChunkHead::parse(head.encode()[..].try_into().unwrap()).is_some()
        };
        assert!(parse(|_| {}));
        assert!(!parse(|head| head.raw_len = 1100), "packed more tightly than LZ4 can");
        assert!(!parse(|head| head.raw_len = 3), "packed without gain");
        assert!(!parse(|head| head.codec = Codec::Plain), "plain bytes of another length");
        assert!(!parse(|head| head.frames = 0), "no frames");
        assert!(!parse(|head| (head.stored_len, head.raw_len) = (CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1)), "too large");
    }
}
