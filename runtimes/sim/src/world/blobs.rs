//! Blobs on their way from node to node: streams and gradients of pipelines, and states that others persisted.

use neuroshard_core::{FetchFault, Input};
use neuroshard_proto::{Hash, NodeId, RequestId};

use super::{Next, World};
use crate::link::Packet;
use crate::passing::Asked;
use crate::report::Count;

/// Longest that a host waits for a blob.
const PATIENCE_US: u64 = 4_000_000;
/// Bytes of a question, of a stream, and of a part of a state.
const QUESTION_BYTES: u32 = 100;
const STREAM_BYTES: u32 = 2048;
const STATE_BYTES: u32 = 16_384;

/// A blob that a node wants of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    by: u32,
    life: u32,
    id: RequestId,
    hash: Hash,
    keep: bool,
}

impl World {
    /// Whether a host can give a blob.
    pub(super) fn has_blob(&self, host: u32, hash: &Hash) -> bool {
        let machine = &self.hosts[host as usize];
        machine.passing.has(hash) || machine.disk.blobs().contains(hash)
    }

    pub(super) fn fetch(&mut self, host: u32, id: RequestId, hash: Hash, from: &NodeId, keep: bool) {
        let machine = &mut self.hosts[host as usize];
        machine.passing.ask(id, Asked { hash, keep });
        let life = machine.life;
        let result = Err(FetchFault::Unreachable);
        self.put(self.now + PATIENCE_US, host, Next::Fetched { life, id, result });
        let question = Question { by: host, life, id, hash, keep };
        let Some(holder) = self.keys.hosts(from).next() else { return };
        if let Some((at, _)) = self.carry(host, holder, QUESTION_BYTES) {
            self.put_from(at, holder, host, Next::Asked(Box::new(question)));
        }
    }

    /// A host is asked for a blob. Liars keep it to themselves or send something else.
    pub(super) fn on_asked(&mut self, host: u32, question: Question) {
        if self.hosts[host as usize].core.is_none() {
            return;
        }
        let Question { by, life, id, hash, keep } = question;
        let draw = self.draws.conduct.of(u64::from(host)).of(self.now).of(id.0);
        let lies = self.hosts[host as usize].conduct.is_some() && draw.of(0).happens(500_000);
        let result = match self.has_blob(host, &hash) {
            true if lies && draw.of(1).happens(500_000) => Err(FetchFault::Damaged),
            true if !lies => Ok(()),
            true | false => Err(FetchFault::Missing),
        };
        let bytes = match result {
            Err(FetchFault::Missing) => QUESTION_BYTES,
            _ if keep => STATE_BYTES,
            _ => STREAM_BYTES,
        };
        if let Some((at, whole)) = self.carry(host, by, bytes) {
            let result = if whole { result } else { Err(FetchFault::Damaged) };
            self.put_from(at, by, host, Next::Fetched { life, id, result });
        }
    }

    /// A blob is there, or will not come; only the first word of it counts.
    pub(super) fn on_fetched(&mut self, host: u32, life: u32, id: RequestId, result: Result<(), FetchFault>) {
        let machine = &mut self.hosts[host as usize];
        if !machine.lives(life) {
            return;
        }
        let Some(Asked { hash, keep }) = machine.passing.answered(id) else { return };
        match (result, keep) {
            (Ok(()), true) => machine.disk.put_blobs([hash]),
            (Ok(()), false) => machine.passing.hold(hash),
            (Err(_), _) => {}
        }
        self.counts.add(if result.is_ok() { Count::Fetched } else { Count::FetchesFailed }, 1);
        self.step(host, host, Input::Fetched { id, result });
    }

    /// When bytes arrive, and whether they are whole; `None` if they do not.
    fn carry(&mut self, from: u32, to: u32, bytes: u32) -> Option<(u64, bool)> {
        if !self.see(from, to) {
            return None;
        }
        self.ordinal += 1;
        let packet = Packet { at: self.now, from, to, ordinal: self.ordinal, bytes };
        let busy = &mut self.hosts[from as usize].line_busy_until;
        let fate = self.network.fate(&packet, &self.weather, busy);
        let at = fate.arrivals.into_iter().flatten().next()?;
        Some((at, !fate.corrupted))
    }
}
