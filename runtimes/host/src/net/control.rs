//! Messages from one node to another, in the order in which they were sent.
//!
//! Each node opens one stream to each peer it has something to say to, and writes frames to it: four bytes of length, little
//! endian, and an envelope. The reader takes one frame at a time, and the next only after this one went to the node's loop:
//! who sends faster than it is heard is slowed down by its own connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use neuroshard_core::FetchFault;
use neuroshard_proto::codec::CONTROL_BYTES_MAX;
use neuroshard_proto::{Hash, NetworkId, NodeId, Reject, RequestId, Verified};

use super::board::{Board, Dropped, NetEvent};
use super::quota::{Misconduct, Quota};
use super::streams::{NoStream, Streams, Ticket};
use super::verify::{Held, Looked, Room, Verifier};

/// Messages that wait for a peer.
const QUEUE_MAX: usize = 64;
/// How long a peer may take to read what it is sent.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);
/// How long a peer may take for a frame it began.
const FRAME_PATIENCE: Duration = Duration::from_secs(20);
/// Waits between attempts to open a stream.
const ATTEMPTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1)];
/// How often a full room is looked at again.
const ROOM_EVERY: Duration = Duration::from_millis(20);
/// A frame grows in steps of this, whatever length it claims.
const STEP_BYTES: u64 = 64 << 10;

/// What the network hands to the node's loop.
#[derive(Debug)]
pub enum Heard {
    /// A message whose signature holds, and the room it takes up.
    Message(Verified, Held),
    /// What became of a blob that the core asked for: its bytes, if it is in the store.
    Fetched { id: RequestId, hash: Hash, result: Result<u64, FetchFault> },
    /// For the operator.
    Event(NetEvent),
}

/// What tasks tell the swarm's task.
pub(super) enum Note {
    /// A peer misbehaves.
    Misconduct { peer: PeerId, what: Misconduct },
    /// A node of this network is on the local network.
    Near { peer: PeerId, addresses: Vec<Multiaddr> },
    /// A task wants a stream to a peer.
    Open { peer: PeerId, protocol: StreamProtocol, answer: async_channel::Sender<Result<Stream, NoStream>> },
}

/// Streams that tasks wait for.
#[derive(Debug, Default)]
pub(super) struct Opening(BTreeMap<Ticket, async_channel::Sender<Result<Stream, NoStream>>>);

impl Opening {
    /// Asks for a stream; the answer goes to the task.
    pub(super) fn ask(
        &mut self,
        streams: &mut Streams,
        peer: PeerId,
        protocol: StreamProtocol,
        answer: async_channel::Sender<Result<Stream, NoStream>>,
    ) {
        self.0.insert(streams.open(peer, protocol), answer);
    }

    /// An answer came.
    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<Stream, NoStream>) {
        if let Some(answer) = self.0.remove(&ticket) {
            // Who asked may have left.
            let _ = answer.try_send(result);
        }
    }
}

/// Where what is heard goes.
#[derive(Clone, Debug)]
pub(super) struct Ear {
    pub(super) network: NetworkId,
    pub(super) heard: async_channel::Sender<Heard>,
    pub(super) room: Room,
    pub(super) verifier: Verifier,
    pub(super) board: Board,
}

/// A frame on its way to a peer.
pub(super) struct Queued {
    frame: Arc<Vec<u8>>,
    _held: Held,
}

/// The way to one peer.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: async_channel::Sender<Queued>,
    room: Room,
    board: Board,
}

impl Outlet {
    /// A way to a peer, and what [`write`] reads.
    pub(super) fn new(room: Room, board: Board) -> (Self, async_channel::Receiver<Queued>) {
        let (queue, queued) = async_channel::bounded(QUEUE_MAX);
        (Self { queue, room, board }, queued)
    }

    /// Sends a frame after those that wait, or drops it if too much does.
    pub(super) fn send(&self, frame: Arc<Vec<u8>>) {
        let held = self.room.take(frame.len());
        let sent = held.and_then(|held| self.queue.try_send(Queued { frame, _held: held }).ok());
        if sent.is_none() {
            self.board.on_drop(Dropped::QueueFull);
        }
    }
}

/// Waits for something, but not for ever.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(limit).await;
        None
    };
    async { Some(future.await) }.or(late).await
}

/// Asks the swarm's task for a stream.
pub(super) async fn open(
    notes: &async_channel::Sender<Note>,
    peer: PeerId,
    protocol: &StreamProtocol,
) -> Result<Stream, NoStream> {
    let (answer, stream) = async_channel::bounded(1);
    let gone = || NoStream::Gone { why: "the network is shut down".into() };
    let note = Note::Open { peer, protocol: protocol.clone(), answer };
    notes.send(note).await.map_err(|_| gone())?;
    stream.recv().await.map_err(|_| gone())?
}

/// Writes what is queued for a peer, until nobody can queue any more.
pub(super) async fn write(
    peer: PeerId,
    protocol: StreamProtocol,
    queued: async_channel::Receiver<Queued>,
    notes: async_channel::Sender<Note>,
    board: Board,
) {
    let mut stream = None;
    while let Ok(next) = queued.recv().await {
        let mut opened = stream.take();
        for wait in ATTEMPTS {
            if opened.is_none() {
                Timer::after(wait).await;
                opened = open(&notes, peer, &protocol).await.ok();
            }
        }
        let Some(mut open) = opened else {
            board.on_drop(Dropped::NoWay);
            continue;
        };
        match within(WRITE_PATIENCE, write_frame(&mut open, &next.frame, queued.is_empty())).await {
            Some(Ok(())) => {
                board.on_message_out();
                stream = Some(open);
            }
            Some(Err(_)) => board.on_drop(Dropped::NoWay),
            None => {
                board.on_drop(Dropped::NoWay);
                let _ = notes.send(Note::Misconduct { peer, what: Misconduct::Unread }).await;
                return;
            }
        }
    }
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8], flush: bool) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(frame).await?;
    if flush { stream.flush().await } else { Ok(()) }
}

/// Why a stream is read no further.
#[derive(Debug)]
enum Stop {
    /// It ended, or broke.
    End,
    /// The peer broke a rule.
    Misconduct(Misconduct),
}

/// Reads a peer's messages for as long as it keeps to the rules and `stop` is not closed.
pub(super) async fn read(
    peer: PeerId,
    node: NodeId,
    stream: impl AsyncRead + Unpin,
    quota: Arc<Mutex<Quota>>,
    ear: Ear,
    notes: async_channel::Sender<Note>,
    stop: async_channel::Receiver<()>,
) {
    let replaced = async {
        let _ = stop.recv().await;
        Stop::End
    };
    if let Stop::Misconduct(what) = replaced.or(read_all(peer, node, stream, &quota, &ear, &notes)).await {
        let _ = notes.send(Note::Misconduct { peer, what }).await;
    }
}

async fn read_all(
    peer: PeerId,
    node: NodeId,
    mut stream: impl AsyncRead + Unpin,
    quota: &Mutex<Quota>,
    ear: &Ear,
    notes: &async_channel::Sender<Note>,
) -> Stop {
    let spend = |what: &dyn Fn(&mut Quota)| what(&mut quota.lock().unwrap_or_else(PoisonError::into_inner));
    loop {
        let (wait, strict) = {
            let mut quota = quota.lock().unwrap_or_else(PoisonError::into_inner);
            (quota.wait(Instant::now()), quota.is_strict())
        };
        if !wait.is_zero() {
            ear.board.on_drop(Dropped::OverQuota);
            if strict {
                let _ = notes.send(Note::Misconduct { peer, what: Misconduct::Flood }).await;
            }
            Timer::after(wait).await;
        }
        let frame = match read_frame(&mut stream).await {
            Ok(frame) => frame,
            Err(stop) => return stop,
        };
        let bytes = frame.len();
        spend(&|quota| quota.on_message(Instant::now(), bytes));
        let Some(Looked { result, took }) = ear.verifier.open(frame).await else { return Stop::End };
        spend(&|quota| quota.on_verified(Instant::now(), took));
        let message = match result.map_err(Misconduct::Rejected).and_then(|message| from_itself(message, node, ear)) {
            Ok(message) => message,
            Err(what) => {
                ear.board.on_drop(Dropped::Rejected);
                return Stop::Misconduct(what);
            }
        };
        ear.board.on_message_in();
        let held = loop {
            match ear.room.take(bytes) {
                Some(held) => break held,
                None => Timer::after(ROOM_EVERY).await,
            };
        };
        if ear.heard.send(Heard::Message(message, held)).await.is_err() {
            return Stop::End;
        }
    }
}

/// A node says what it signed itself, for this network.
fn from_itself(message: Verified, node: NodeId, ear: &Ear) -> Result<Verified, Misconduct> {
    let signer = message.message().signer();
    if message.network() != ear.network {
        return Err(Misconduct::Rejected(Reject::OtherNetwork { theirs: message.network() }));
    }
    if signer != node { Err(Misconduct::Borrowed { signer }) } else { Ok(message) }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Stop> {
    let mut length = [0; 4];
    // A peer may be silent for as long as it likes before it begins a frame.
    let Ok(()) = stream.read_exact(&mut length[..1]).await else { return Err(Stop::End) };
    let rest = async {
        stream.read_exact(&mut length[1..]).await.map_err(|_| Stop::End)?;
        let length = u32::from_le_bytes(length);
        if length > CONTROL_BYTES_MAX {
            return Err(Stop::Misconduct(Misconduct::Oversized { bytes: length.into() }));
        }
        let (mut frame, length) = (Vec::new(), u64::from(length));
        while (frame.len() as u64) < length {
            let step = (length - frame.len() as u64).min(STEP_BYTES);
            match (&mut *stream).take(step).read_to_end(&mut frame).await {
                Ok(read) if read as u64 == step => {}
                Ok(_) | Err(_) => return Err(Stop::End),
            }
        }
        Ok(frame)
    };
    within(FRAME_PATIENCE, rest).await.unwrap_or(Err(Stop::End))
}
