//! What members of a quorum pass to each other: streams and gradients, from memory to memory.
//!
//! A member keeps one stream of `/neuroshard/1/NETWORK/passing` open to each neighbour and writes the hashes it wants, 32 bytes
//! each, as they come up. They are answered in order, in the form of `library`'s answers: a blob of one part comes whole, which
//! its hash proves. Of a larger one the outline comes first and then each part, so that a wrong byte is known at the end of
//! its part. There is no second question, and no part is longer than 256 KiB (PROTOCOL §1).
//!
//! What passes here tells of texts and weights, and is given to members of the node's plan alone; for others there is no such
//! stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, future, io};
use libp2p::{PeerId, Stream, StreamProtocol};
use neuroshard_core::FetchFault;
use neuroshard_proto::{Hash, NodeId, RequestId};

use super::control::{self, Heard, Note, within};
use super::fetch::{self, FetchFault as Fault, read_answer};
use super::library::{Library, Verdict, give};
use super::names;
use super::outline::{Outline, PART_BYTES};
use crate::peers::{Fetch, Keep};
use crate::runtime::Runtime;
use crate::store::Store;

/// Fetches that wait for a neighbour's stream.
const WAITING_MAX: usize = 256;
/// How long a neighbour may take for an answer, and to read one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A blob that the core asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    id: RequestId,
    hash: Hash,
}

/// What all tasks here share.
#[derive(Clone)]
struct Common {
    protocol: StreamProtocol,
    store: Arc<Store>,
    library: Library,
    notes: async_channel::Sender<Note>,
    heard: async_channel::Sender<Heard>,
    /// Bytes of a stream or gradient at most, and of a stage's state.
    passing_bytes_max: u64,
    state_bytes_max: u64,
}

/// The node's part in passing.
pub(super) struct Passing {
    members: BTreeSet<NodeId>,
    common: Common,
    /// The way to the task that asks a neighbour.
    asking: BTreeMap<PeerId, async_channel::Sender<Wanted>>,
    /// Closed when a member's stream is to be answered no further.
    answering: BTreeMap<PeerId, async_channel::Sender<()>>,
}

/// What [`Passing`] is made of.
pub(super) struct Parts {
    pub(super) members: BTreeSet<NodeId>,
    pub(super) protocol: StreamProtocol,
    pub(super) store: Arc<Store>,
    pub(super) library: Library,
    pub(super) notes: async_channel::Sender<Note>,
    pub(super) heard: async_channel::Sender<Heard>,
    pub(super) passing_bytes_max: u64,
    pub(super) state_bytes_max: u64,
}

impl Passing {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { members, protocol, store, library, notes, heard, passing_bytes_max, state_bytes_max } = parts;
        let common = Common { protocol, store, library, notes, heard, passing_bytes_max, state_bytes_max };
        Self { members, common, asking: BTreeMap::new(), answering: BTreeMap::new() }
    }

    /// From now on these are the members. Streams of those who are none any more end with what is asked on them.
    pub(super) fn companions(&mut self, nodes: Vec<NodeId>) {
        self.members = nodes.into_iter().collect();
        let stays = |peer: &PeerId| self.members.iter().any(|node| names::peer_of(node).as_ref() == Some(peer));
        self.answering.retain(|peer, _| stays(peer));
    }

    /// Whether a node is a member of this node's quorum.
    pub(super) fn is_member(&self, node: &NodeId) -> bool {
        self.members.contains(node)
    }

    /// Has a blob fetched from a connected peer. The answer goes to the node's loop.
    pub(super) fn fetch(&mut self, runtime: &impl Runtime, peer: PeerId, wanted: &Fetch) {
        let (common, wanted_here) = (self.common.clone(), Wanted { id: wanted.id, hash: wanted.hash });
        match wanted.keep {
            Keep::Disk => runtime.spawn(async move { common.fetch_to_disk(peer, wanted_here).await }),
            Keep::Memory if !self.is_member(&wanted.from) => self.refuse(wanted),
            Keep::Memory => {
                let queue = self.asking.entry(peer).or_insert_with(|| {
                    let (queue, queued) = async_channel::bounded(WAITING_MAX);
                    runtime.spawn(async move { common.ask(peer, queued).await });
                    queue
                });
                if queue.try_send(wanted_here).is_err() {
                    self.refuse(wanted);
                }
            }
        }
    }

    /// Answers a fetch for which there is no way.
    pub(super) fn refuse(&self, wanted: &Fetch) {
        let fetched = Heard::Fetched { id: wanted.id, hash: wanted.hash, result: Err(FetchFault::Unreachable) };
        // Where nobody listens, the loop's own time limit answers.
        let _ = self.common.heard.try_send(fetched);
    }

    /// Answers a member's questions until its stream ends or it opens another one.
    pub(super) fn serve(&mut self, runtime: &impl Runtime, peer: PeerId, stream: Stream) {
        let (stop, stopped) = async_channel::bounded::<()>(1);
        // The newest stream counts: the peer opened it because the one before broke.
        self.answering.insert(peer, stop);
        let store = Arc::clone(&self.common.store);
        runtime.spawn(async move {
            let replaced = async {
                let _ = stopped.recv().await;
            };
            replaced.or(answer_all(stream, &store)).await;
        });
    }
}

/// Answers questions.
async fn answer_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, store: &Store) {
    let mut hash = [0; 32];
    while stream.read_exact(&mut hash).await.is_ok() {
        let answer = answer(&mut stream, store, Hash::from_bytes(hash));
        if !matches!(within(PATIENCE, answer).await, Some(Ok(()))) {
            return;
        }
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), store: &Store, hash: Hash) -> io::Result<()> {
    let Some(blob) = store.passing(&hash) else { return give(stream, Verdict::NotHere, &[]).await };
    if blob.bytes.len() as u64 <= PART_BYTES {
        return give(stream, Verdict::Here, &blob.bytes).await;
    }
    let Some(outline) = blob.outline() else { return give(stream, Verdict::NotHere, &[]).await };
    give(stream, Verdict::InParts, &outline.to_bytes()).await?;
    for part in blob.bytes.chunks(PART_BYTES as usize) {
        give(stream, Verdict::Here, part).await?;
    }
    Ok(())
}

impl Common {
    async fn tell(&self, wanted: Wanted, result: Result<u64, FetchFault>) {
        let _ = self.heard.send(Heard::Fetched { id: wanted.id, hash: wanted.hash, result }).await;
    }

    /// Asks one neighbour for as long as the node lives. A stream that breaks fails what was asked on it, and the next fetch
    /// opens another.
    async fn ask(self, peer: PeerId, queued: async_channel::Receiver<Wanted>) {
        while let Ok(first) = queued.recv().await {
            match control::open(&self.notes, peer, &self.protocol).await {
                Ok(stream) => self.ask_on(stream, first, &queued).await,
                Err(_) => self.tell(first, Err(FetchFault::Unreachable)).await,
            }
        }
    }

    /// Asks on one stream: questions go out as they come up, and answers are read meanwhile.
    async fn ask_on(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        first: Wanted,
        queued: &async_channel::Receiver<Wanted>,
    ) {
        let (mut reader, mut writer) = io::split(Box::pin(stream));
        let (asked, asked_here) = async_channel::unbounded();
        let questions = async {
            let mut next = Ok(first);
            while let Ok(wanted) = next {
                // What is taken from the queue is in the list of what is owed before anything can fail.
                let noted = asked.try_send(wanted).is_ok();
                let write = async {
                    writer.write_all(wanted.hash.as_bytes()).await?;
                    writer.flush().await
                };
                if !noted || !matches!(within(PATIENCE, write).await, Some(Ok(()))) {
                    break;
                }
                next = queued.recv().await;
            }
            // The end of the stream is found where it is read.
            asked.close();
            future::pending::<()>().await;
        };
        let answers = async {
            while let Ok(wanted) = asked_here.recv().await {
                let taken = within(PATIENCE, take(&mut reader, wanted.hash, self.passing_bytes_max)).await;
                let taken = taken.unwrap_or(Err(Fault::Busy));
                let usable = matches!(taken, Ok(_) | Err(Fault::NotHere));
                let result = taken.map_err(|fault| in_the_cores_words(&fault)).and_then(|bytes| {
                    let length = bytes.len() as u64;
                    let kept = self.store.put_checked(wanted.hash, bytes);
                    kept.map(|()| length).map_err(|_| FetchFault::Full)
                });
                self.tell(wanted, result).await;
                if !usable {
                    return;
                }
            }
        };
        answers.or(questions).await;
        while let Ok(owed) = asked_here.try_recv() {
            self.tell(owed, Err(FetchFault::Unreachable)).await;
        }
    }

    /// Gets a blob that is to stay: in parts, as joiners do.
    async fn fetch_to_disk(self, peer: PeerId, wanted: Wanted) {
        let fetched = fetch::blob(&self.notes, &[peer], wanted.hash, self.state_bytes_max).await;
        let result = match fetched {
            Err(faults) => Err(faults.last().map_or(FetchFault::Unreachable, |(_, fault)| in_the_cores_words(fault))),
            Ok(bytes) => {
                let length = bytes.len() as u64;
                match self.library.keep(bytes).await {
                    Some(Ok(_)) => Ok(length),
                    Some(Err(_)) => Err(FetchFault::Full),
                    None => Err(FetchFault::Unreachable),
                }
            }
        };
        self.tell(wanted, result).await;
    }
}

/// Reads the answer to a question, checked part by part.
async fn take(reader: &mut (impl AsyncRead + Unpin), hash: Hash, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    let outline = match read_answer(reader, PART_BYTES).await? {
        (Verdict::Here, bytes) if Hash::of_blob(&bytes) != hash => return Err(Fault::Wrong),
        (Verdict::Here, bytes) if bytes.len() as u64 > bytes_max => {
            return Err(Fault::TooLarge { bytes: bytes.len() as u64 });
        }
        (Verdict::Here, bytes) => return Ok(bytes),
        (Verdict::InParts, outline) => Outline::read(hash, &outline).ok_or(Fault::Wrong)?,
        (Verdict::NotHere, _) => return Err(Fault::NotHere),
        (Verdict::Busy, _) => return Err(Fault::Wrong),
    };
    if outline.length() > bytes_max {
        return Err(Fault::TooLarge { bytes: outline.length() });
    }
    let mut whole = Vec::new();
    for part in 0..outline.parts() {
        match read_answer(reader, PART_BYTES).await? {
            (Verdict::Here, bytes) if outline.holds(part, &bytes) => whole.extend(bytes),
            _ => return Err(Fault::Wrong),
        }
    }
    Ok(whole)
}

const fn in_the_cores_words(fault: &Fault) -> FetchFault {
    match fault {
        Fault::Broken { .. } | Fault::Busy => FetchFault::Unreachable,
        Fault::NotHere => FetchFault::Missing,
        Fault::Wrong | Fault::TooLarge { .. } => FetchFault::Damaged,
    }
}
