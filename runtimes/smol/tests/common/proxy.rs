//! Bad wires: what nodes say to each other goes through here, late, slowly, haltingly, and at times not at all.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::Dice;

/// From one end to the other.
const LATENCY: Duration = Duration::from_millis(100);
/// 20 Mbit/s in each direction of each connection.
const BYTES_A_SECOND: u64 = 20_000_000 / 8;
/// Bytes that are carried at once, and how many of these may be on the way: all that fits a wire this slow and long.
const PIECE: usize = 16 << 10;
const PIECES: usize = 32;
/// One piece in so many is lost and sent again by TCP, after this many milliseconds: what comes behind it waits too.
const LOST_ONE_IN: u64 = 40;
const LOST_MS: (u64, u64) = (200, 1000);
/// How long a connection holds before the wire is cut, in milliseconds.
const LIFE_MS: (u64, u64) = (10_000, 60_000);

/// Wires of one world, which are good until they are bad. They are cut for good when this is dropped.
pub(crate) struct Wires(Arc<World>);

struct World {
    dice: Mutex<Dice>,
    bad: AtomicBool,
    dark: AtomicBool,
    ended: AtomicBool,
    cuts: AtomicU64,
    stalls: AtomicU64,
}

impl Wires {
    pub(crate) fn new(dice: Dice) -> Self {
        let [bad, dark, ended] = [false; 3].map(AtomicBool::new);
        let (cuts, stalls) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(World { dice: Mutex::new(dice), bad, dark, ended, cuts, stalls }))
    }

    /// A door that leads to a port of this machine.
    pub(crate) fn door(&self, to: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap().port();
        let world = Arc::clone(&self.0);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if world.ended.load(Ordering::Relaxed) {
                    return;
                }
                // A node that is down refuses what comes.
                if let Ok(far) = TcpStream::connect(("127.0.0.1", to)) {
                    world.connect(&near, &far);
                }
            }
        });
        door
    }

    /// From now on everything is late, slow and halting, and connections are cut.
    pub(crate) fn spoil(&self) {
        self.0.bad.store(true, Ordering::Relaxed);
    }

    /// From now on they are good again.
    pub(crate) fn mend(&self) {
        self.0.bad.store(false, Ordering::Relaxed);
    }

    /// From now on nothing passes, or everything that waited does.
    pub(crate) fn set_dark(&self, dark: bool) {
        self.0.dark.store(dark, Ordering::Relaxed);
    }

    /// How many connections were cut so far, and how many pieces came late.
    pub(crate) fn harm(&self) -> (u64, u64) {
        (self.0.cuts.load(Ordering::Relaxed), self.0.stalls.load(Ordering::Relaxed))
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl World {
    fn between(&self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(least + self.dice.lock().unwrap().below(most - least))
    }

    /// Whether a piece is lost, and for how long.
    fn stall(&self) -> Duration {
        let lost = self.dice.lock().unwrap().below(LOST_ONE_IN) == 0;
        self.stalls.fetch_add(lost.into(), Ordering::Relaxed);
        if lost { self.between(LOST_MS) } else { Duration::ZERO }
    }

    fn connect(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) {
        let cut_at = Instant::now() + self.between(LIFE_MS);
        for (from, to) in [(near, far), (far, near)] {
            from.set_nodelay(true).unwrap();
            // A read that ends now and then, so that the end is seen.
            from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let (carried, arriving) = mpsc::sync_channel(PIECES);
            let (taker, giver) = (Arc::clone(self), Arc::clone(self));
            thread::spawn(move || taker.take(from, &carried, cut_at));
            thread::spawn(move || giver.give(to, &arriving));
        }
    }

    /// Reads what is said at one end.
    fn take(&self, mut from: TcpStream, carried: &SyncSender<(Instant, Vec<u8>)>, cut_at: Instant) {
        let mut piece = vec![0; PIECE];
        let (mut free, mut arrived) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            let bad = self.bad.load(Ordering::Relaxed);
            if self.ended.load(Ordering::Relaxed) || (bad && now >= cut_at) {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            let read = match from.read(&mut piece) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    continue;
                }
                Err(_) => return,
            };
            free = free.max(Instant::now()) + Duration::from_micros(read as u64 * 1_000_000 / BYTES_A_SECOND);
            arrived = arrived.max(if bad { free + LATENCY + self.stall() } else { now });
            if carried.send((arrived, piece[..read].to_vec())).is_err() {
                return;
            }
        }
    }

    /// Says it at the other end.
    fn give(&self, mut to: TcpStream, arriving: &Receiver<(Instant, Vec<u8>)>) {
        while let Ok((at, piece)) = arriving.recv() {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            while self.dark.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
