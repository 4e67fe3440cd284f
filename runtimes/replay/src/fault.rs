//! What can be wrong with a trace file, and how a good one ends.

use std::{fmt, io};

use neuroshard_proto::codec::DecodeError;

use crate::format::FORMAT;
use crate::frame::FrameFault;

/// Where and why a file cannot be read as a trace.
#[derive(Debug)]
pub struct ReadError {
    /// Bytes into the file.
    pub offset: u64,
    pub fault: ReadFault,
}

/// What is wrong with a trace.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadFault {
    Io(io::Error),
    /// The file does not begin as a trace does.
    NotATrace,
    /// A trace, of a format this build cannot read.
    Format {
        found: u16,
    },
    /// The file ends inside its header.
    HeaderCut,
    /// The header's bytes are not those that were written.
    HeaderDamaged,
    Header(DecodeError),
    /// Neither a chunk nor the index stands here.
    NoSection,
    /// The chunk's bytes are not those that were written.
    ChunkDamaged,
    /// A frame is malformed, this far into the chunk's unpacked frames.
    Frame {
        at: usize,
        fault: FrameFault,
    },
    /// The chunk holds another number of frames than it says.
    FrameCount {
        says: u32,
    },
    /// The chunk does not follow the one before: steps are missing, or it is from another trace.
    Gap {
        expected: u64,
        found: u64,
    },
    /// The chunk's chain does not continue the one before it.
    Chain {
        step: u64,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            ReadFault::Io(error) => write!(f, "cannot read the trace: {error}"),
            ReadFault::NotATrace => f.write_str("this is not a trace of NeuroShard"),
            ReadFault::Format { found } => {
                write!(
                    f,
                    "the trace has format {found}, this build reads format {FORMAT}: use the build that recorded it"
                )
            }
            ReadFault::HeaderCut => f.write_str("the trace ends inside its header: nothing was recorded"),
            ReadFault::HeaderDamaged => f.write_str("the trace's header is damaged"),
            ReadFault::Header(error) => write!(f, "the trace's header cannot be read by this build: {error}"),
            ReadFault::NoSection => write!(f, "neither a chunk nor an index at byte {}", self.offset),
            ReadFault::ChunkDamaged => write!(f, "the chunk at byte {} is damaged", self.offset),
            ReadFault::Frame { at, fault } => {
                write!(f, "the chunk at byte {} has no frame at {at}: {fault}", self.offset)
            }
            ReadFault::FrameCount { says } => {
                write!(f, "the chunk at byte {} does not hold the {says} frames it says", self.offset)
            }
            ReadFault::Gap { expected, found } => {
                write!(f, "the chunk at byte {} begins at step {found} instead of {expected}", self.offset)
            }
            ReadFault::Chain { step } => {
                write!(f, "the chunk at byte {} does not continue what was before step {step}", self.offset)
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            ReadFault::Io(error) => Some(error),
            ReadFault::Header(error) => Some(error),
            ReadFault::Frame { fault, .. } => Some(fault),
            _ => None,
        }
    }
}

/// How a trace ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The host ended the recording.
    Clean,
    /// The host fell while recording; all steps are there.
    Fallen,
    /// The file ends without having been closed, by a kill or because it is still being written. This many bytes of an
    /// unfinished chunk are lost.
    Torn { bytes: u64 },
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("complete"),
            Self::Fallen => f.write_str("the recording program fell while recording"),
            Self::Torn { bytes: 0 } => f.write_str("not closed: the program was killed, or still records"),
            Self::Torn { bytes } => {
                write!(f, "torn: the program was killed, or still records; the last {bytes} bytes are part of a chunk")
            }
        }
    }
}
