//! Traces: every input a core took, in a file that can be read, replayed and compared anywhere.
mod bytes;
mod format;
mod frame;
mod read;
mod record;
#[cfg(test)]
mod testing;

pub use format::{Detail, FORMAT, Header, PARTS_MAX, Summary};
pub use frame::{Changed, Digests, Frame, FrameFault, Outcome, Outputs};
pub use read::{Ending, ReadError, ReadFault, Reader};
pub use record::{FLUSH_AFTER_MS, RecordError, Recorder};
