//! Gets a blob from those who have it: part by part, from several holders at once, each part checked as it comes.
//!
//! Every holder has a stream and takes the next part that nobody has asked for; a few questions are on the way at a time, so that
//! distance does not cost speed. A holder that breaks off, lies or has nothing is left out, and its parts go to the
//! others. What was checked stays, whoever it came from.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_io::Timer;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use neuroshard_proto::Hash;

use super::behaviour::BLOBS;
use super::control::{self, Note, within};
use super::library::{Ask, Verdict};
use super::outline::{OUTLINE_BYTES_MAX, Outline, PART_BYTES};

/// Questions on the way to one holder.
const AHEAD: usize = 8;
/// How long a holder may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits before a busy holder is asked again, and how often it is.
const BUSY_WAIT: Duration = Duration::from_millis(300);
const BUSY_MAX: u32 = 100;
/// How often a holder's stream may break before it is left out.
const BREAKS_MAX: usize = 3;
/// An answer grows in steps of this, whatever length it claims.
const STEP_BYTES: u64 = 64 << 10;

/// Why a holder gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchFault {
    /// The connection or the stream broke off.
    Broken { why: String },
    /// It does not have the blob.
    NotHere,
    /// What it gave is not what was asked for.
    Wrong,
    /// The blob is larger than it may be.
    TooLarge { bytes: u64 },
    /// It has no time.
    Busy,
}

impl fmt::Display for FetchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { why } => write!(f, "it broke off: {why}"),
            Self::NotHere => f.write_str("it does not have it"),
            Self::Wrong => f.write_str("it gave something else"),
            Self::TooLarge { bytes } => write!(f, "it has {bytes} bytes, more than this may have"),
            Self::Busy => f.write_str("it has no time"),
        }
    }
}

impl std::error::Error for FetchFault {}

fn broken(why: &dyn fmt::Display) -> FetchFault {
    FetchFault::Broken { why: why.to_string() }
}

/// A stream to a holder, with answers that come in the order of the questions.
struct Holder(Stream);

impl Holder {
    async fn open(notes: &async_channel::Sender<Note>, peer: PeerId) -> Result<Self, FetchFault> {
        let opened = control::open(notes, peer, &BLOBS).await;
        opened.map(Self).map_err(|why| broken(&format!("{why:?}")))
    }

    async fn ask(&mut self, ask: Ask) -> Result<(), FetchFault> {
        let write = async {
            self.0.write_all(&ask.to_bytes()).await?;
            self.0.flush().await
        };
        within(PATIENCE, write).await.ok_or_else(|| broken(&"no answer in time"))?.map_err(|error| broken(&error))
    }

    async fn answer(&mut self, bytes_max: u64) -> Result<Vec<u8>, FetchFault> {
        let read = within(PATIENCE, read_answer(&mut self.0, bytes_max)).await;
        match read.unwrap_or_else(|| Err(broken(&"no answer in time")))? {
            (Verdict::Here, bytes) => Ok(bytes),
            (Verdict::NotHere, _) => Err(FetchFault::NotHere),
            (Verdict::Busy, _) => Err(FetchFault::Busy),
            (Verdict::InParts, _) => Err(FetchFault::Wrong),
        }
    }

    /// One question and its answer, asked again while the holder is busy.
    async fn get(&mut self, ask: Ask, bytes_max: u64) -> Result<Vec<u8>, FetchFault> {
        for _ in 0..BUSY_MAX {
            self.ask(ask).await?;
            match self.answer(bytes_max).await {
                Err(FetchFault::Busy) => Timer::after(BUSY_WAIT).await,
                other => return other,
            };
        }
        Err(FetchFault::Busy)
    }
}

/// Reads an answer: a verdict, and at most so many bytes.
pub(super) async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: u64,
) -> Result<(Verdict, Vec<u8>), FetchFault> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.map_err(|error| broken(&error))?;
    let [verdict, length @ ..] = head;
    let length = u64::from(u32::from_le_bytes(length));
    let verdict = Verdict::read(verdict).ok_or(FetchFault::Wrong)?;
    let allowed = match verdict {
        Verdict::Here | Verdict::InParts => bytes_max,
        Verdict::NotHere | Verdict::Busy => 0,
    };
    if length > allowed {
        return Err(FetchFault::Wrong);
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let step = (length - bytes.len() as u64).min(STEP_BYTES);
        let read = (&mut *stream).take(step).read_to_end(&mut bytes).await.map_err(|error| broken(&error))?;
        if read as u64 != step {
            return Err(broken(&"it ended in the middle"));
        }
    }
    Ok((verdict, bytes))
}

/// Asks a peer for the facts of its network.
pub(super) async fn network_file(
    notes: &async_channel::Sender<Note>,
    peer: PeerId,
    bytes_max: u64,
) -> Result<Vec<u8>, FetchFault> {
    Holder::open(notes, peer).await?.get(Ask::Network, bytes_max).await
}

/// A blob that is on its way.
struct Work {
    hash: Hash,
    outline: Outline,
    state: Mutex<Parts>,
}

struct Parts {
    open: VecDeque<u64>,
    done: BTreeMap<u64, Vec<u8>>,
}

impl Work {
    fn state(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes parts from one holder until none is open.
    async fn take_from(&self, holder: &mut Holder) -> Result<(), FetchFault> {
        let mut asked = VecDeque::new();
        let result = self.exchange(holder, &mut asked).await;
        // Whatever it still owes goes to the others.
        self.state().open.extend(asked);
        result
    }

    async fn exchange(&self, holder: &mut Holder, asked: &mut VecDeque<u64>) -> Result<(), FetchFault> {
        let mut busy = 0;
        loop {
            while asked.len() < AHEAD {
                let next = self.state().open.pop_front();
                let Some(part) = next else { break };
                asked.push_back(part);
                holder.ask(Ask::Part(self.hash, part)).await?;
            }
            let Some(part) = asked.front().copied() else { return Ok(()) };
            match holder.answer(PART_BYTES).await {
                Ok(bytes) if self.outline.holds(part, &bytes) => {
                    asked.pop_front();
                    self.state().done.insert(part, bytes);
                }
                Ok(_) => return Err(FetchFault::Wrong),
                Err(FetchFault::Busy) if busy < BUSY_MAX => {
                    busy += 1;
                    asked.pop_front();
                    self.state().open.push_back(part);
                    Timer::after(BUSY_WAIT).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// Gets a blob of at most `bytes_max` bytes from whoever of `peers` has it.
///
/// # Errors
/// What each of them said, if none was of use.
pub(super) async fn blob(
    notes: &async_channel::Sender<Note>,
    peers: &[PeerId],
    hash: Hash,
    bytes_max: u64,
) -> Result<Vec<u8>, Vec<(PeerId, FetchFault)>> {
    let mut faults = Vec::new();
    let mut begun = None;
    for (place, peer) in peers.iter().enumerate() {
        match begin(notes, *peer, hash, bytes_max).await {
            Ok(work) => {
                begun = Some((work, place));
                break;
            }
            Err(fault) => faults.push((*peer, fault)),
        }
    }
    let Some((work, first)) = begun else { return Err(faults) };
    let work = &work;
    let take = |peer: PeerId| async move {
        let taken = async { work.take_from(&mut Holder::open(notes, peer).await?).await };
        (peer, taken.await)
    };
    // More holders are of use only where there are more parts.
    let wanted = usize::try_from(work.outline.parts()).unwrap_or(usize::MAX).div_ceil(AHEAD).max(1);
    let (now, mut later) = (wanted.min(peers.len() - first), peers[first..].iter().copied());
    let mut taking: FuturesUnordered<_> = later.by_ref().take(now).map(take).collect();
    while let Some((peer, result)) = taking.next().await {
        if let Err(fault) = result {
            faults.push((peer, fault));
        }
        // A holder that is done may have left before another one gave its parts back.
        let open = !work.state().open.is_empty();
        if open && taking.is_empty() {
            let again = later.next().or_else(|| once_more(&faults, &peers[first..]));
            taking.extend(again.map(take));
        }
    }
    let mut state = work.state();
    if state.done.len() as u64 == work.outline.parts() {
        Ok(std::mem::take(&mut state.done).into_values().flatten().collect())
    } else {
        Err(faults)
    }
}

/// A peer that may be asked once more: it gave all it was asked for, or its stream broke off and may hold this time.
fn once_more(faults: &[(PeerId, FetchFault)], peers: &[PeerId]) -> Option<PeerId> {
    let fine = |peer: &PeerId| {
        let mut own = faults.iter().filter(|(failed, _)| failed == peer).map(|(_, fault)| fault);
        own.clone().count() < BREAKS_MAX && own.all(|fault| matches!(fault, FetchFault::Broken { .. }))
    };
    peers.iter().copied().find(fine)
}

/// Gets a blob's outline from a peer, and the last part, which proves its length.
async fn begin(
    notes: &async_channel::Sender<Note>,
    peer: PeerId,
    hash: Hash,
    bytes_max: u64,
) -> Result<Work, FetchFault> {
    let mut holder = Holder::open(notes, peer).await?;
    let outline = holder.get(Ask::Outline(hash), OUTLINE_BYTES_MAX).await?;
    let outline = Outline::read(hash, &outline).ok_or(FetchFault::Wrong)?;
    if outline.length() > bytes_max {
        return Err(FetchFault::TooLarge { bytes: outline.length() });
    }
    let last = outline.parts() - 1;
    let bytes = holder.get(Ask::Part(hash, last), PART_BYTES).await?;
    if !outline.holds(last, &bytes) {
        return Err(FetchFault::Wrong);
    }
    let parts = Parts { open: (0..last).collect(), done: BTreeMap::from([(last, bytes)]) };
    Ok(Work { hash, outline, state: Mutex::new(parts) })
}
