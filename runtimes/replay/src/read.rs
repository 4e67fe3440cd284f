//! Reading a trace: any bytes, in bounded memory, without an index if there is none.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Hash, Time};

use crate::bytes::Cursor;
use crate::fault::{Ending, ReadError, ReadFault};
use crate::format::{
    ChunkHead, Damaged, Entry, FORMAT, Header, Index, MAGIC, OPENING_LEN, Summary, Tag, Trailer, checksum,
};
use crate::frame::{self, Frame, FrameFault};

/// Reads a trace frame by frame, and jumps.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    len: u64,
    header: Header,
    first_section: u64,
    closing: Option<(Ending, Index)>,
    ending: Option<Ending>,
    /// Where the next section begins.
    next_section: u64,
    chunk: Chunk,
    /// The next frame's number, the time of the one before and the chain's value between them.
    step: u64,
    time: Time,
    chain: Hash,
    frame_bytes: u64,
}

/// The chunk that is being read.
#[derive(Debug, Default)]
struct Chunk {
    offset: u64,
    raw: Vec<u8>,
    at: usize,
    frames: u32,
    frames_left: u32,
}

impl Reader<BufReader<File>> {
    /// Opens a trace file.
    ///
    /// # Errors
    /// If the file cannot be read or does not begin as a trace of this format.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(|error| ReadError { offset: 0, fault: ReadFault::Io(error) })?;
        Self::new(BufReader::new(file))
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the header, and the index if there is one.
    ///
    /// # Errors
    /// If the bytes do not begin as a trace of this format.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let at = |offset| move |error| ReadError { offset, fault: ReadFault::Io(error) };
        let len = input.seek(SeekFrom::End(0)).map_err(at(0))?;
        let (header, first_section) = read_opening(&mut input)?;
        let closing = read_closing(&mut input, len, first_section).map_err(at(len))?;
        let (time, chain) = (header.origin, header.chain());
        Ok(Self {
            input,
            len,
            header,
            first_section,
            closing,
            ending: None,
            next_section: first_section,
            chunk: Chunk::default(),
            step: 1,
            time,
            chain,
            frame_bytes: 0,
        })
    }

    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the file.
    pub const fn file_bytes(&self) -> u64 {
        self.len
    }

    /// The totals that the recorder wrote when it closed the trace, and how it closed it.
    pub fn closing(&self) -> Option<(&Summary, Ending)> {
        let (ending, index) = self.closing.as_ref()?;
        Some((&index.summary, *ending))
    }

    /// How the trace ends; known once [`Self::next_frame`] answered `None`.
    pub const fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Bytes of all frames read since the beginning, before compression.
    pub(crate) const fn frame_bytes_read(&self) -> u64 {
        self.frame_bytes
    }

    /// The number of the frame that [`Self::next_frame`] will read.
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// The chain's value before that frame.
    pub(crate) const fn chain(&self) -> &Hash {
        &self.chain
    }

    /// The next frame, or `None` at the end of what was recorded.
    ///
    /// # Errors
    /// Where the trace is damaged. The frames before it are good.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        if self.chunk.frames_left == 0 && !self.next_chunk()? {
            return Ok(None);
        }
        let at = self.chunk.at;
        let fail = |fault| ReadError { offset: self.chunk.offset, fault };
        let mut rest = Cursor(self.chunk.raw.get(at..).unwrap_or_default());
        let parsed =
            frame::take(&mut rest, self.header.detail).map_err(|fault| fail(ReadFault::Frame { at, fault }))?;
        let next = self.chunk.raw.len() - rest.0.len();
        let Some(ms) = self.time.as_ms().checked_add(parsed.delta_ms) else {
            return Err(fail(ReadFault::Frame { at, fault: FrameFault::Cut }));
        };
        let left = self.chunk.frames_left - 1;
        if left == 0 && next != self.chunk.raw.len() {
            return Err(fail(ReadFault::FrameCount { says: self.chunk.frames }));
        }
        let time = Time::from_ms(ms);
        let digests = parsed.outcome.as_ref().map(|outcome| outcome.digests);
        self.chain = frame::link(&self.chain, time, parsed.input_bytes, digests);
        let frame = Frame { step: self.step, time, input: parsed.input, outcome: parsed.outcome };
        (self.chunk.at, self.chunk.frames_left, self.time) = (next, left, time);
        self.frame_bytes = self.frame_bytes.saturating_add((next - at) as u64);
        self.step = self.step.saturating_add(1);
        Ok(Some(frame))
    }

    /// Goes back to the beginning.
    ///
    /// # Errors
    /// If the first chunk's head is damaged.
    pub fn rewind(&mut self) -> Result<(), ReadError> {
        self.seek_step(1)
    }

    /// Goes to a step, so that [`Self::next_frame`] reads its frame; beyond the last one it reads `None`.
    ///
    /// # Errors
    /// Where the trace is damaged between the nearest indexed chunk and the step.
    pub fn seek_step(&mut self, step: u64) -> Result<(), ReadError> {
        self.jump(|entry| entry.first_step <= step, |head| head.next_step() <= step)?;
        while self.step < step && self.next_frame()?.is_some() {}
        Ok(())
    }

    /// Goes to the first frame of the chunk that holds the last step before `time`, or to an earlier one.
    ///
    /// # Errors
    /// Where the trace is damaged on the way.
    pub(crate) fn seek_before(&mut self, time: Time) -> Result<(), ReadError> {
        self.jump(|entry| entry.first_time < time, |_| false)
    }

    /// The number of steps that can be read.
    ///
    /// # Errors
    /// Where the trace is damaged.
    pub fn count_steps(&mut self) -> Result<u64, ReadError> {
        self.jump(|_| true, |_| true)?;
        Ok(self.step.saturating_sub(1))
    }

    /// Goes to the last indexed chunk that `reached` accepts, then by their heads past all chunks that `skip` does.
    fn jump(&mut self, reached: impl Fn(&Entry) -> bool, skip: impl Fn(&ChunkHead) -> bool) -> Result<(), ReadError> {
        self.ending = None;
        (self.chunk, self.frame_bytes) = (Chunk::default(), 0);
        (self.step, self.time, self.chain) = (1, self.header.origin, self.header.chain());
        self.next_section = self.first_section;
        let indexed =
            self.closing.as_ref().and_then(|(_, index)| index.entries.iter().rev().find(|entry| reached(entry)));
        if let Some(entry) = indexed {
            self.next_section = entry.offset.max(self.first_section);
        }
        while let Some(head) = self.peek()? {
            // The first chunk is held against the header; any other is taken at its word for what was before it.
            if self.next_section > self.first_section {
                (self.step, self.time, self.chain) = (head.first_step, head.first_time, head.chain);
            }
            if !skip(&head) {
                break;
            }
            self.step = head.next_step();
            self.next_section = self.next_section.saturating_add(section_len(&head));
        }
        Ok(())
    }

    /// Loads the next chunk; `false` at the end.
    fn next_chunk(&mut self) -> Result<bool, ReadError> {
        let Some(head) = self.peek()? else { return Ok(false) };
        let offset = self.next_section;
        let fail = |fault| ReadError { offset, fault };
        let stored = self.read_at(offset + ChunkHead::LEN as u64, head.stored_len)?;
        let raw = head.unpack(stored).map_err(|Damaged| fail(ReadFault::ChunkDamaged))?;
        if head.first_step != self.step {
            return Err(fail(ReadFault::Gap { expected: self.step, found: head.first_step }));
        }
        if head.chain != self.chain {
            return Err(fail(ReadFault::Chain { step: self.step }));
        }
        self.chunk = Chunk { offset, raw, at: 0, frames: head.frames, frames_left: head.frames };
        self.time = head.first_time;
        self.next_section = offset + section_len(&head);
        Ok(true)
    }

    /// The head of the next chunk, which is in the file whole; `None` at the end, and then [`Self::ending`] is known.
    fn peek(&mut self) -> Result<Option<ChunkHead>, ReadError> {
        let offset = self.next_section;
        let rest = self.len.saturating_sub(offset);
        let torn = Ending::Torn { bytes: rest };
        if rest == 0 {
            self.ending = Some(torn);
            return Ok(None);
        }
        let fail = |fault| ReadError { offset, fault };
        let bytes = self.read_at(offset, rest.min(ChunkHead::LEN as u64) as usize)?;
        match bytes.first().copied().and_then(Tag::from_byte) {
            None => Err(fail(ReadFault::NoSection)),
            Some(Tag::Index) => {
                self.ending = Some(self.closing.as_ref().map_or(torn, |(ending, _)| *ending));
                Ok(None)
            }
            Some(Tag::Chunk) => {
                let Some(bytes) = bytes.first_chunk() else {
                    self.ending = Some(torn);
                    return Ok(None);
                };
                let head = ChunkHead::parse(bytes).ok_or_else(|| fail(ReadFault::ChunkDamaged))?;
                if rest < section_len(&head) {
                    self.ending = Some(torn);
                    return Ok(None);
                }
                Ok(Some(head))
            }
        }
    }

    /// Bytes that lie inside the file.
    fn read_at(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let fail = |error| ReadError { offset, fault: ReadFault::Io(error) };
        let mut bytes = vec![0; len];
        self.input.seek(SeekFrom::Start(offset)).map_err(fail)?;
        self.input.read_exact(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }
}

fn section_len(head: &ChunkHead) -> u64 {
    (ChunkHead::LEN + head.stored_len) as u64
}

/// Reads magic, format and header; answers where the sections begin.
fn read_opening(input: &mut (impl Read + Seek)) -> Result<(Header, u64), ReadError> {
    let fail = |fault| ReadError { offset: 0, fault };
    let io = |error| ReadError { offset: 0, fault: ReadFault::Io(error) };
    input.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut opening = Vec::new();
    input.by_ref().take(OPENING_LEN as u64).read_to_end(&mut opening).map_err(io)?;
    let mut cursor = Cursor(&opening);
    if cursor.array() != Some(MAGIC) {
        return Err(fail(ReadFault::NotATrace));
    }
    let format = cursor.array().map(u16::from_le_bytes).ok_or_else(|| fail(ReadFault::HeaderCut))?;
    if format != FORMAT {
        return Err(fail(ReadFault::Format { found: format }));
    }
    let mut numbers = || Some((cursor.u32()?, cursor.u64()?));
    let (len, sum) = numbers().ok_or_else(|| fail(ReadFault::HeaderCut))?;
    if len > Header::BYTES_MAX {
        return Err(fail(ReadFault::HeaderDamaged));
    }
    // Memory follows the bytes that are there, not the length they claim.
    let mut payload = Vec::new();
    input.by_ref().take(u64::from(len)).read_to_end(&mut payload).map_err(io)?;
    if payload.len() as u64 != u64::from(len) {
        return Err(fail(ReadFault::HeaderCut));
    }
    if checksum(&payload) != sum {
        return Err(fail(ReadFault::HeaderDamaged));
    }
    let header = codec::decode(&payload).map_err(|error| fail(ReadFault::Header(error)))?;
    Ok((header, (OPENING_LEN + payload.len()) as u64))
}

/// Reads index and trailer; `None` if the trace was not closed or they are damaged, which costs only speed.
fn read_closing(input: &mut (impl Read + Seek), len: u64, first_section: u64) -> io::Result<Option<(Ending, Index)>> {
    let Some(trailer_at) = len.checked_sub(Trailer::LEN as u64).filter(|at| *at >= first_section) else {
        return Ok(None);
    };
    let mut bytes = [0; Trailer::LEN];
    input.seek(SeekFrom::Start(trailer_at))?;
    input.read_exact(&mut bytes)?;
    let Some(trailer) = Trailer::parse(&bytes) else { return Ok(None) };
    let section = first_section..trailer_at;
    if !section.contains(&trailer.index_offset) || trailer_at - trailer.index_offset > Index::SECTION_BYTES_MAX {
        return Ok(None);
    }
    let mut section = Vec::new();
    input.seek(SeekFrom::Start(trailer.index_offset))?;
    input.by_ref().take(trailer_at - trailer.index_offset).read_to_end(&mut section)?;
    let ending = if trailer.clean { Ending::Clean } else { Ending::Fallen };
    Ok(Index::parse(&section).map(|index| (ending, index)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{Host, config, trace};
    use crate::{Detail, Frame, Recorder};

    /// All frames up to the end or the first fault.
    fn read(bytes: &[u8]) -> (Vec<Frame>, Result<Ending, ReadError>) {
        let mut frames = Vec::new();
        let mut reader = match Reader::new(Cursor::new(bytes)) {
            Ok(reader) => reader,
            Err(error) => return (frames, Err(error)),
        };
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, Ok(reader.ending().expect("the end is known at the end"))),
                Err(error) => return (frames, Err(error)),
            }
        }
    }

    fn sections(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
        let mut reader = Reader::new(Cursor::new(bytes)).unwrap();
        let mut sections = Vec::new();
        while let Some(head) = reader.peek().unwrap() {
            let start = reader.next_section;
            reader.next_section += section_len(&head);
            sections.push(start as usize..reader.next_section as usize);
        }
        sections
    }

    #[test]
    fn a_trace_torn_anywhere_loses_one_chunk_at_most() {
        let bytes = trace(400, Detail::Outputs);
        let (all, chunks) = (read(&bytes).0, sections(&bytes));
        assert!(chunks.len() > 3);
        let edges = chunks.iter().flat_map(|chunk| chunk.end - 1..=chunk.end + 1);
        for len in (0..bytes.len()).step_by(149).chain(edges) {
            let (frames, ending) = read(&bytes[..len]);
            assert!(all.starts_with(&frames), "{len}");
            if len < chunks[0].start {
                assert!(frames.is_empty() && ending.is_err(), "{len}: {ending:?}");
                continue;
            }
            let whole = chunks.iter().filter(|chunk| chunk.end <= len).count();
            let expected = bytes[..chunks.get(whole).map_or(bytes.len(), |chunk| chunk.start)].len();
            assert!(matches!(ending, Ok(Ending::Torn { bytes }) if bytes < 70_000), "{len}: {ending:?}");
            assert_eq!(frames.len(), read(&bytes[..expected]).0.len(), "{len}");
        }
    }

    #[test]
    fn a_damaged_byte_never_passes_for_another_step() {
        let bytes = trace(120, Detail::Outputs);
        let all = read(&bytes).0;
        let index_at = sections(&bytes).last().unwrap().end;
        for at in (0..bytes.len()).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let (frames, ending) = read(&damaged);
            assert!(all.starts_with(&frames), "byte {at}");
            if at < index_at {
                assert!(ending.is_err(), "byte {at}: {ending:?}");
            } else {
                assert_eq!(frames.len(), all.len(), "the index only helps: byte {at}");
            }
        }
    }

    #[test]
    fn every_step_can_be_reached_with_and_without_an_index() {
        let bytes = trace(500, Detail::Outputs);
        let all = read(&bytes).0;
        let torn = &bytes[..bytes.len() - 1];
        for bytes in [&bytes[..], torn] {
            let mut reader = Reader::new(Cursor::new(bytes)).unwrap();
            assert_eq!(reader.closing.is_some(), bytes.len() != torn.len());
            assert_eq!(reader.count_steps().unwrap(), 500);
            for frame in all.iter().rev().step_by(7).chain(&all[..3]) {
                reader.seek_step(frame.step).unwrap();
                assert_eq!(reader.next_frame().unwrap().as_ref(), Some(frame));
            }
            reader.seek_step(501).unwrap();
            assert_eq!(reader.next_frame().unwrap(), None);
        }
    }

    #[test]
    fn the_chain_does_not_depend_on_where_reading_began() {
        let bytes = trace(400, Detail::Outputs);
        let mut front = Reader::new(Cursor::new(&bytes[..])).unwrap();
        while front.step() < 350 {
            front.next_frame().unwrap();
        }
        let mut jumped = Reader::new(Cursor::new(&bytes[..])).unwrap();
        jumped.seek_step(350).unwrap();
        assert_eq!(front.chain(), jumped.chain());
    }

    #[test]
    fn a_missing_or_foreign_chunk_is_noticed() {
        let bytes = trace(400, Detail::Outputs);
        let chunks = sections(&bytes);
        let without_second = [&bytes[..chunks[1].start], &bytes[chunks[1].end..]].concat();
        assert!(matches!(read(&without_second).1, Err(ReadError { fault: ReadFault::Gap { .. }, .. })));

        let other_detail = trace(400, Detail::Inputs);
        let (mut other_run, mut host) = (Vec::new(), Host::new(config()));
        host.milli_loss = 4000;
        let mut recorder = Recorder::new(&mut other_run, &host.header(Detail::Outputs), &host.core).unwrap();
        host.run(&mut recorder, 400);
        recorder.finish().unwrap();
        let with_second_of = |other: &[u8]| {
            let second = sections(other)[1].clone();
            read(&[&bytes[..chunks[1].start], &other[second]].concat()).1.unwrap_err().fault
        };
        assert!(matches!(with_second_of(&other_detail), ReadFault::Frame { .. }));
        assert!(matches!(with_second_of(&other_run), ReadFault::Chain { .. }));
    }

    #[test]
    fn a_chunk_holds_the_frames_it_says() {
        let bytes = trace(10, Detail::Outputs);
        let mut reader = Reader::new(Cursor::new(&bytes[..])).unwrap();
        let (head, start) = (reader.peek().unwrap().unwrap(), reader.first_section as usize);
        reader.next_frame().unwrap();
        for frames in [9, 11] {
            let chunk = ChunkHead::pack(&reader.chunk.raw, frames, head.first_step, head.first_time, head.chain);
            let fault = read(&[&bytes[..start], &chunk].concat()).1.unwrap_err().fault;
            let noticed = match frames {
                9 => matches!(fault, ReadFault::FrameCount { says: 9 }),
                _ => matches!(fault, ReadFault::Frame { fault: FrameFault::Cut, .. }),
            };
            assert!(noticed, "{frames}: {fault:?}");
        }
    }

    #[test]
    fn what_is_no_trace_is_told_so() {
        let bytes = trace(1, Detail::Outputs);
        let fault = |bytes: &[u8]| read(bytes).1.unwrap_err().to_string();
        assert_eq!(fault(b""), "this is not a trace of NeuroShard");
        assert_eq!(fault(b"{\"json\": true, \"long\": true}"), "this is not a trace of NeuroShard");
        assert_eq!(fault(&bytes[..40]), "the trace ends inside its header: nothing was recorded");
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert!(fault(&newer).contains("format 9"), "{}", fault(&newer));
    }

    #[test]
    fn a_header_that_claims_the_world_allocates_nothing() {
        let mut bytes = trace(1, Detail::Outputs);
        bytes[10..14].copy_from_slice(&Header::BYTES_MAX.to_le_bytes());
        assert!(matches!(read(&bytes).1, Err(ReadError { fault: ReadFault::HeaderCut, .. })));
        bytes[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&bytes).1, Err(ReadError { fault: ReadFault::HeaderDamaged, .. })));
    }
}
