//! Traces: every input a core took, in a file that can be read, replayed and compared anywhere.
//!
//! A [`neuroshard_core::Core`] is moved by its inputs alone, so a list of them is the whole life of a node. A [`Recorder`]
//! writes it while the node runs, with digests of each step's outputs and state; [`replay`] runs it again without clock,
//! network, disk or accelerator and says at which step this build did something else; [`diff`] finds where two recordings
//! part; [`info`], [`cat`] and [`state`] show what is in one; [`minimise`] leaves out what a bug does not need.
//! `docs/src/traces.md` describes the file.
//!
//! ```
//! use std::io::Cursor;
//!
//! use neuroshard_core::proto::{Hash, Time};
//! use neuroshard_core::{Config, Core, Input, Outbox};
//! use neuroshard_replay::{At, Detail, Form, Header, Reader, Recorder, replay, state};
//!
//! # fn config() -> Config {
//! #     use neuroshard_core::proto::*;
//! #     let (model, training) = Preset::Nano.specs();
//! #     let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 9999, held_out };
//! #     let shards = vec![shard(b"a", false), shard(b"b", true)].try_into().unwrap();
//! #     let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 1, shards };
//! #     let node = NodeId::from_bytes([1; 32]);
//! #     let genesis = Genesis { created_unix_ms: 0, seed: Hash::default(), model, training, params: Params::DEFAULT,
//! #         manifest: manifest.root(), founders: vec![Founder::alone(node)].try_into().unwrap(),
//! #         allocations: Default::default(), first: None };
//! #     Config::new(genesis, manifest, node, neuroshard_core::Operator::new(1 << 30, 1 << 30))
//! # }
//! let (config, seed, journal) = (config(), Hash::of_blob(b"this node's own"), Vec::<Vec<u8>>::new());
//! let mut core = Core::restore(config, seed, &journal)?;
//!
//! // A host that records takes its steps through the recorder. A file stands where `bytes` does.
//! let mut bytes = Vec::new();
//! let begun = Time::from_ms(1000);
//! let header = Header::new(&core, seed, &journal, begun, Detail::Outputs)?;
//! let mut recorder = Recorder::new(&mut bytes, &header, &core)?;
//! let mut outbox = Outbox::default();
//! recorder.step(&mut core, begun, Input::Tick, &mut outbox)?;
//! // ... obey the outputs, take further inputs, and wake up at `recorder.flush_due()` too; in the end:
//! recorder.finish()?;
//!
//! // Anyone with the file gets the same states.
//! let mut reader = Reader::new(Cursor::new(bytes))?;
//! let report = replay(&mut reader);
//! assert!(report.is_equal(), "{report}");
//! state(&mut reader, At::Step(1), Form::Text, &mut std::io::stdout())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bytes;
mod diff;
mod fault;
mod format;
mod frame;
mod minimise;
mod play;
mod read;
mod record;
mod replay;
mod show;
#[cfg(test)]
mod testing;
mod text;

pub use diff::{DiffError, Difference, Parting, Side, Steps, diff};
pub use fault::{Ending, ReadError, ReadFault};
pub use format::{Detail, FORMAT, Header, PARTS_MAX, Summary};
pub use frame::{Changed, Digests, Frame, FrameFault, Outcome, Outputs};
pub use minimise::{INPUT_BYTES_MAX, Inputs, Minimal, MinimiseError, Symptom, minimise, rewrite};
pub use play::{Played, Player};
pub use read::Reader;
pub use record::{FLUSH_AFTER_MS, RecordError, Recorder};
pub use replay::{Divergence, Kinds, OtherBuild, Report, Verdict, replay};
pub use show::{Filter, Form, ShowError, cat, info, state};
pub use text::{At, INPUT_KINDS, InputLine, NoPlace, OutputLine};
