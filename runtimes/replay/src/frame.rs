//! Frames: one step of the core each, and the chain of hashes that runs through them.

use neuroshard_core::{Input, MAX_OUTPUTS, Output, RECORD_BYTES_MAX};
use neuroshard_proto::codec::{self, Canonical, DecodeError};
use neuroshard_proto::{Domain, Hash, Hasher, List, Time};
use serde::{Deserialize, Serialize};

use crate::bytes::{Cursor, put_varint};
use crate::format::{Detail, PARTS_MAX};

/// Largest frame: an input and a full outbox of the largest outputs, with room to spare.
pub(crate) const FRAME_BYTES_MAX: usize = 24 << 20;

const OUTPUTS_MAX: u32 = 64;

const _: () = assert!(OUTPUTS_MAX as usize == MAX_OUTPUTS);
const _: () = assert!(FRAME_BYTES_MAX > MAX_OUTPUTS * (RECORD_BYTES_MAX as usize + 1024) + Input::BYTES_MAX as usize);

/// A step's outputs.
pub type Outputs = List<Output, OUTPUTS_MAX>;

/// One step of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The step's number, from 1: step `n` leads to the state after `n` inputs.
    pub step: u64,
    pub time: Time,
    pub input: Input,
    /// `None` if the step never returned.
    pub outcome: Option<Outcome>,
}

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub digests: Digests,
    pub changed: Changed,
    /// `None` in a trace of inputs only.
    pub outputs: Option<Outputs>,
}

/// What identifies an outcome; equal for equal outcomes, whatever was recorded of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Start of the hash over the encoded outputs.
    pub outputs: u64,
    /// Start of the state hash after the step.
    pub state: u64,
}

impl Digests {
    /// The output digest as the digits that the hash begins with.
    pub fn outputs_hex(&self) -> String {
        format!("{:016x}", self.outputs.swap_bytes())
    }

    /// The state digest as the digits that the state hash begins with.
    pub fn state_hex(&self) -> String {
        format!("{:016x}", self.state.swap_bytes())
    }
}

/// The parts of the state that a step changed, each with the first byte of its new digest: beside the state hash, enough
/// to say which part went another way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    bitmap: u64,
    checks: Vec<u8>,
}

impl Changed {
    /// What differs between the parts' digests before and after a step.
    pub(crate) fn between(before: &[Hash], after: &[Hash]) -> Self {
        let mut changed = Self::default();
        for (part, (before, after)) in before.iter().zip(after).enumerate() {
            if before != after {
                changed.bitmap |= 1 << part;
                changed.checks.push(after.as_bytes()[0]);
            }
        }
        changed
    }

    /// The changed parts by their place in [`crate::Header::parts`], each with its check byte.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u8)> {
        (0..PARTS_MAX as usize).filter(|part| self.bitmap >> part & 1 == 1).zip(self.checks.iter().copied())
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.bitmap);
        out.extend_from_slice(&self.checks);
    }

    fn take(cursor: &mut Cursor<'_>) -> Option<Self> {
        let bitmap = cursor.varint()?;
        Some(Self { bitmap, checks: cursor.take(bitmap.count_ones() as usize)?.to_vec() })
    }
}

/// Outputs in their canonical encoding, which is what [`Digests::outputs`] is the digest of.
pub(crate) fn encode_outputs<'a>(outputs: impl Iterator<Item = &'a Output>) -> Vec<u8> {
    codec::encode(&outputs.collect::<Vec<_>>())
}

/// The digest of encoded outputs.
pub(crate) fn digest(encoded: &[u8]) -> u64 {
    Hash::of_blob(encoded).short()
}

/// The chain's value after a step. What it covers does not depend on how a trace is cut into chunks nor on its detail, so
/// the chains of two traces agree up to the first step that differs.
pub(crate) fn link(chain: &Hash, time: Time, input: &[u8], digests: Option<Digests>) -> Hash {
    let mut hasher = Hasher::new(Domain::TraceChain);
    hasher.update(chain.as_bytes()).update(&time.as_ms().to_le_bytes());
    match digests {
        None => hasher.update(&[0]),
        Some(Digests { outputs, state }) => {
            hasher.update(&[1]).update(&outputs.to_le_bytes()).update(&state.to_le_bytes())
        }
    };
    hasher.update(input).finish()
}

/// Appends a frame to a chunk. `outcome` is the digests, the changed parts, and the encoded outputs, empty in a trace of
/// inputs only.
pub(crate) fn put(chunk: &mut Vec<u8>, delta_ms: u64, input: &[u8], outcome: Option<(Digests, &Changed, &[u8])>) {
    let mut body = Vec::with_capacity(input.len() + 64);
    put_varint(&mut body, delta_ms);
    body.extend_from_slice(input);
    if let Some((digests, changed, outputs)) = outcome {
        body.extend_from_slice(&digests.outputs.to_le_bytes());
        body.extend_from_slice(&digests.state.to_le_bytes());
        changed.put(&mut body);
        body.extend_from_slice(outputs);
    }
    assert!(body.len() <= FRAME_BYTES_MAX, "a frame of bounded inputs and outputs is bounded");
    put_varint(chunk, body.len() as u64);
    chunk.extend_from_slice(&body);
}

/// Why the bytes of a frame are not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameFault {
    /// A length or a time reaches beyond the chunk or the end of numbers.
    Cut,
    /// The input breaks its encoding.
    Input(DecodeError),
    /// The outputs break their encoding.
    Outputs(DecodeError),
    /// The recorded outputs do not have the recorded digest.
    Digest,
}

impl std::fmt::Display for FrameFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut => f.write_str("it ends early or has a field that is out of range"),
            Self::Input(error) => write!(f, "its input: {error}"),
            Self::Outputs(error) => write!(f, "its outputs: {error}"),
            Self::Digest => f.write_str("its outputs do not have their digest"),
        }
    }
}

impl std::error::Error for FrameFault {}

/// A frame without its number and absolute time, and its input as it was encoded.
pub(crate) struct Parsed<'a> {
    pub(crate) delta_ms: u64,
    pub(crate) input: Input,
    pub(crate) input_bytes: &'a [u8],
    pub(crate) outcome: Option<Outcome>,
}

/// Takes the frame at the front of a chunk's rest.
pub(crate) fn take<'a>(chunk: &mut Cursor<'a>, detail: Detail) -> Result<Parsed<'a>, FrameFault> {
    let len = chunk.varint().and_then(|len| usize::try_from(len).ok()).ok_or(FrameFault::Cut)?;
    let mut body = Cursor(chunk.take(len).ok_or(FrameFault::Cut)?);
    let delta_ms = body.varint().ok_or(FrameFault::Cut)?;
    let (input, input_bytes) = take_input(&mut body).map_err(FrameFault::Input)?;
    let outcome = if body.0.is_empty() { None } else { Some(take_outcome(&mut body, detail)?) };
    Ok(Parsed { delta_ms, input, input_bytes, outcome })
}

fn take_input<'a>(body: &mut Cursor<'a>) -> Result<(Input, &'a [u8]), DecodeError> {
    let all = body.0;
    let (input, rest) = postcard::take_from_bytes::<Input>(all).map_err(|_| DecodeError::Malformed)?;
    let bytes = &all[..all.len() - rest.len()];
    if bytes.len() as u64 > u64::from(Input::BYTES_MAX) {
        return Err(DecodeError::TooLarge { len: bytes.len() as u64, max: Input::BYTES_MAX });
    }
    if codec::encode(&input) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    body.0 = rest;
    Ok((input, bytes))
}

fn take_outcome(body: &mut Cursor<'_>, detail: Detail) -> Result<Outcome, FrameFault> {
    let mut fixed = || Some((Digests { outputs: body.u64()?, state: body.u64()? }, Changed::take(body)?));
    let (digests, changed) = fixed().ok_or(FrameFault::Cut)?;
    let outputs = match detail {
        Detail::Inputs if body.0.is_empty() => None,
        Detail::Inputs => return Err(FrameFault::Cut),
        Detail::Outputs => Some(take_outputs(body.0, digests.outputs)?),
    };
    Ok(Outcome { digests, changed, outputs })
}

fn take_outputs(bytes: &[u8], expected: u64) -> Result<Outputs, FrameFault> {
    let OutputList(outputs) = codec::decode(bytes).map_err(FrameFault::Outputs)?;
    if digest(bytes) != expected {
        return Err(FrameFault::Digest);
    }
    Ok(outputs)
}

#[derive(Deserialize, Serialize)]
struct OutputList(Outputs);

impl Canonical for OutputList {
    const BYTES_MAX: u32 = FRAME_BYTES_MAX as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGESTS: Digests = Digests { outputs: 1, state: 2 };

    #[test]
    fn the_chain_depends_on_all_that_a_step_was() {
        let start = Hash::of_blob(b"start");
        let time = Time::from_ms;
        let links = [
            link(&start, time(5), b"input", Some(DIGESTS)),
            link(&Hash::default(), time(5), b"input", Some(DIGESTS)),
            link(&start, time(6), b"input", Some(DIGESTS)),
            link(&start, time(5), b"inputs", Some(DIGESTS)),
            link(&start, time(5), b"input", Some(Digests { outputs: 3, ..DIGESTS })),
            link(&start, time(5), b"input", Some(Digests { state: 3, ..DIGESTS })),
            link(&start, time(5), b"input", None),
        ];
        for (place, link) in links.iter().enumerate() {
            assert!(!links[..place].contains(link), "{place}");
        }
    }

    #[test]
    fn recorded_outputs_are_held_to_their_digest() {
        let (input, outputs) = (codec::encode(&Input::Tick), encode_outputs(std::iter::empty()));
        let digests = Digests { outputs: digest(&outputs), state: 2 };
        let taken = |digests, outputs: &[u8]| {
            let mut chunk = Vec::new();
            put(&mut chunk, 0, &input, Some((digests, &Changed::default(), outputs)));
            take(&mut Cursor(&chunk), Detail::Outputs).map(|frame| frame.outcome.unwrap().outputs.unwrap().len())
        };
        assert_eq!(taken(digests, &outputs), Ok(0));
        assert_eq!(taken(DIGESTS, &outputs), Err(FrameFault::Digest));
        assert_eq!(taken(digests, &[0, 0]), Err(FrameFault::Outputs(DecodeError::TrailingBytes { extra: 1 })));
        assert_eq!(taken(digests, &[65]), Err(FrameFault::Outputs(DecodeError::Malformed)));
        assert_eq!(taken(digests, &[]), Err(FrameFault::Outputs(DecodeError::Malformed)));
    }

    #[test]
    fn a_frame_may_end_after_its_input_and_nowhere_else() {
        let input = codec::encode(&Input::Tick);
        let mut chunk = Vec::new();
        put(&mut chunk, 300, &input, Some((DIGESTS, &Changed::default(), &[])));
        for len in 1..chunk.len() {
            let mut cut = chunk[..len].to_vec();
            cut[0] = len as u8 - 1;
            let taken = take(&mut Cursor(&cut), Detail::Inputs).map(|frame| frame.outcome);
            match len {
                4 => assert_eq!(taken, Ok(None)),
                3 => assert_eq!(taken, Err(FrameFault::Input(DecodeError::Malformed))),
                _ => assert_eq!(taken, Err(FrameFault::Cut), "{len}"),
            }
        }
    }
}
