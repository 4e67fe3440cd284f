//! Gives blobs, part by part, to whoever asks, and the facts of the network to whoever wants to join it.
//!
//! On a stream of `/neuroshard/blobs/1` the asker writes questions of 41 bytes: a kind, a hash and a number, little endian. Each is
//! answered in order by a verdict, four bytes of length and as many bytes. Disk and hashes are the business of one thread; what
//! it is asked for and has no time for is answered with [`Verdict::Busy`].

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use neuroshard_proto::Hash;

use super::control::within;
use super::outline::{Outline, PART_BYTES};
use super::quota::Bucket;
use crate::store::{Store, StoreError};

/// Bytes of a question.
pub(super) const ASK_BYTES: usize = 41;
/// Questions that wait for the thread.
const ASKED_MAX: usize = 32;
/// Blobs that are kept at hand, and bytes of them.
const KEPT_MAX: usize = 8;
const KEPT_BYTES_MAX: usize = 128 << 20;
/// What is given to all askers together, in bytes a second, and at once.
const PER_SECOND: u32 = 64 << 20;
const AT_ONCE: u32 = 64 << 20;
/// How long an asker may take to read an answer, and to think of the next question.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Genesis and manifest, as the data directory keeps them.
    Network,
    /// A blob's [`Outline`].
    Outline(Hash),
    /// A part of a blob.
    Part(Hash, u64),
}

impl Ask {
    pub(super) fn to_bytes(self) -> [u8; ASK_BYTES] {
        let (kind, hash, number) = match self {
            Self::Network => (0, Hash::default(), 0),
            Self::Outline(hash) => (1, hash, 0),
            Self::Part(hash, part) => (2, hash, part),
        };
        let mut bytes = [0; ASK_BYTES];
        bytes[0] = kind;
        bytes[1..33].copy_from_slice(hash.as_bytes());
        bytes[33..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; ASK_BYTES]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (hash, number) = rest.split_first_chunk::<32>()?;
        let (hash, number) = (Hash::from_bytes(*hash), u64::from_le_bytes(number.try_into().ok()?));
        match (kind, number) {
            (0, 0) => Some(Self::Network),
            (1, 0) => Some(Self::Outline(hash)),
            (2, part) => Some(Self::Part(hash, part)),
            _ => None,
        }
    }
}

/// The first byte of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Here = 0,
    NotHere = 1,
    Busy = 2,
    /// The outline is here, and the parts follow, each as an answer of its own; see `passing`.
    InParts = 3,
}

impl Verdict {
    pub(super) const fn read(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Here),
            1 => Some(Self::NotHere),
            2 => Some(Self::Busy),
            3 => Some(Self::InParts),
            _ => None,
        }
    }
}

/// A part of what is kept at hand, or something of its own.
#[derive(Clone, Debug)]
struct Piece {
    whole: Arc<Vec<u8>>,
    begin: usize,
    end: usize,
}

impl From<Vec<u8>> for Piece {
    fn from(whole: Vec<u8>) -> Self {
        Self { begin: 0, end: whole.len(), whole: Arc::new(whole) }
    }
}

/// What the thread is to do, and where the answer goes.
enum Errand {
    Look(Ask, async_channel::Sender<Option<Piece>>),
    Keep(Vec<u8>, async_channel::Sender<Result<Hash, StoreError>>),
}

/// The way to the thread that reads the disk.
#[derive(Clone, Debug)]
pub(super) struct Library {
    errands: async_channel::Sender<Errand>,
    giving: Arc<Mutex<Bucket>>,
}

impl Library {
    /// Starts the thread; `network` is the file that joiners get.
    ///
    /// # Errors
    /// If the system gives none.
    pub(super) fn start(store: Arc<Store>, network: Vec<u8>) -> io::Result<Self> {
        let (errands, inbox) = async_channel::bounded(ASKED_MAX);
        let mut shelf = Shelf { store, network: network.into(), kept: VecDeque::new() };
        let work = move || {
            while let Ok(errand) = inbox.recv_blocking() {
                // Who asked may have left.
                match errand {
                    Errand::Look(ask, answer) => drop(answer.try_send(shelf.look(ask))),
                    Errand::Keep(bytes, answer) => drop(answer.try_send(shelf.store.put(&bytes))),
                }
            }
        };
        thread::Builder::new().name("library".into()).spawn(work)?;
        let giving = Arc::new(Mutex::new(Bucket::new(Instant::now(), AT_ONCE, PER_SECOND)));
        Ok(Self { errands, giving })
    }

    /// Puts a blob on the disk; `None` if the thread is gone.
    pub(super) async fn keep(&self, bytes: Vec<u8>) -> Option<Result<Hash, StoreError>> {
        let (answer, answered) = async_channel::bounded(1);
        self.errands.send(Errand::Keep(bytes, answer)).await.ok()?;
        answered.recv().await.ok()
    }

    /// Answers the questions on a stream until it ends, breaks, or is not read.
    pub(super) async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        loop {
            let mut ask = [0; ASK_BYTES];
            if !matches!(within(PATIENCE, stream.read_exact(&mut ask)).await, Some(Ok(()))) {
                return;
            }
            // A question of another kind may be one of a later version; nothing after it can be understood.
            let Some(ask) = Ask::read(&ask) else { return };
            let (answer, answered) = async_channel::bounded(1);
            let (verdict, piece) = match self.errands.try_send(Errand::Look(ask, answer)) {
                Err(_) => (Verdict::Busy, None),
                Ok(()) => match answered.recv().await.ok().flatten() {
                    Some(piece) => (Verdict::Here, Some(piece)),
                    None => (Verdict::NotHere, None),
                },
            };
            let bytes = piece.as_ref().map_or(&[][..], |piece| &piece.whole[piece.begin..piece.end]);
            self.wait(bytes.len()).await;
            if !matches!(within(PATIENCE, give(&mut stream, verdict, bytes)).await, Some(Ok(()))) {
                return;
            }
        }
    }

    /// Waits until so many bytes may be given.
    async fn wait(&self, bytes: usize) {
        let wait = {
            let mut giving = self.giving.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = giving.wait(Instant::now());
            giving.spend(Instant::now(), bytes as u64);
            wait
        };
        if !wait.is_zero() {
            Timer::after(wait).await;
        }
    }
}

/// Writes an answer.
pub(super) async fn give(stream: &mut (impl AsyncWrite + Unpin), verdict: Verdict, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut head = [verdict as u8, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&head).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The thread's own: the store, and what was asked for lately.
struct Shelf {
    store: Arc<Store>,
    network: Piece,
    /// The newest last.
    kept: VecDeque<(Hash, Arc<Vec<u8>>, Arc<Outline>)>,
}

impl Shelf {
    fn look(&mut self, ask: Ask) -> Option<Piece> {
        match ask {
            Ask::Network => Some(self.network.clone()),
            Ask::Outline(hash) => Some(self.take(&hash)?.1.to_bytes().into()),
            Ask::Part(hash, part) => {
                let (whole, outline) = self.take(&hash)?;
                let (begin, length) = outline.range(part);
                let (begin, length) = (usize::try_from(begin).ok()?, usize::try_from(length).ok()?);
                debug_assert!(length as u64 <= PART_BYTES);
                (part < outline.parts()).then_some(Piece { whole, begin, end: begin + length })
            }
        }
    }

    fn take(&mut self, hash: &Hash) -> Option<(Arc<Vec<u8>>, Arc<Outline>)> {
        if let Some(place) = self.kept.iter().position(|(kept, ..)| kept == hash) {
            let found = self.kept.remove(place)?;
            self.kept.push_back(found.clone());
            return Some((found.1, found.2));
        }
        // Reading checks the hash, so that a damaged blob is not given to anybody. What members of a quorum pass on is theirs.
        let whole = Arc::new(self.store.get_stored(hash).ok()?);
        let outline = Arc::new(Outline::of_checked(*hash, &whole)?);
        self.kept.push_back((*hash, Arc::clone(&whole), Arc::clone(&outline)));
        let bytes = |kept: &VecDeque<(Hash, Arc<Vec<u8>>, _)>| kept.iter().map(|one| one.1.len()).sum::<usize>();
        while self.kept.len() > 1 && (self.kept.len() > KEPT_MAX || bytes(&self.kept) > KEPT_BYTES_MAX) {
            self.kept.pop_front();
        }
        Some((whole, outline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_written_and_others_are_not_read() {
        for ask in [Ask::Network, Ask::Outline(Hash::of_blob(b"a")), Ask::Part(Hash::of_blob(b"b"), 7)] {
            assert_eq!(Ask::read(&ask.to_bytes()), Some(ask));
        }
        let mut other = Ask::Network.to_bytes();
        other[0] = 3;
        assert_eq!(Ask::read(&other), None);
        assert_eq!(
            [0, 1, 2, 3, 4].map(Verdict::read),
            [Some(Verdict::Here), Some(Verdict::NotHere), Some(Verdict::Busy), Some(Verdict::InParts), None]
        );
    }
}
