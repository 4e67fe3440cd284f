//! What a peer may cost, and how much of its misconduct is borne.
//!
//! Each peer has three buckets: messages, bytes, and the time it takes to verify what it sends. They are looked at before any
//! work is done for it, and a peer that empties one waits until it fills again. Misconduct is counted in points, of which one
//! a second is forgiven; who reaches 100 is cut off and stays out for a while, longer each time.
//!
//! The members of a node's own quorum talk to it all the time: they have larger buckets, and to wait is all that happens to
//! them at the end of those.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use neuroshard_proto::{NetworkId, NodeId, Reject, WIRE_VERSION};

/// Points at which a peer is cut off.
const POINTS_MAX: u32 = 100;
/// How long a peer stays out at first; each further time doubles it.
const OUT_FIRST: Duration = Duration::from_secs(600);
const OUT_MAX: Duration = Duration::from_secs(86_400);
/// Peers whose exclusion is remembered.
const OUT_PEERS_MAX: usize = 4096;

/// An amount that refills at a steady rate. What is spent beyond it must be waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    level: i64,
    size: i64,
    per_second: i64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant, size: u32, per_second: u32) -> Self {
        Self { level: size.into(), size: size.into(), per_second: per_second.max(1).into(), at: now }
    }

    fn refill(&mut self, now: Instant) {
        let micros = i64::try_from(now.saturating_duration_since(self.at).as_micros()).unwrap_or(i64::MAX);
        let gained = micros.saturating_mul(self.per_second) / 1_000_000;
        // The rest of a unit is not lost: time only moves on when something was gained.
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(self.size);
            self.at = now;
        }
    }

    /// Takes an amount, which may leave a debt.
    pub(super) fn spend(&mut self, now: Instant, amount: u64) {
        self.refill(now);
        self.level = self.level.saturating_sub(i64::try_from(amount).unwrap_or(i64::MAX));
    }

    /// How long until there is something in it.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        let missing = u64::try_from(self.level.saturating_neg()).unwrap_or(0);
        if self.level > 0 {
            Duration::ZERO
        } else {
            Duration::from_micros((missing + 1) * 1_000_000 / self.per_second as u64)
        }
    }
}

/// What a peer may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    messages: Bucket,
    bytes: Bucket,
    verifying_us: Bucket,
    /// Whether more than the quota is misconduct.
    strict: bool,
}

impl Quota {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            messages: Bucket::new(now, 2000, 200),
            bytes: Bucket::new(now, 32 << 20, 4 << 20),
            verifying_us: Bucket::new(now, 2_000_000, 250_000),
            strict: true,
        }
    }

    /// What a member of the node's quorum may cost.
    pub(super) fn of_member(now: Instant) -> Self {
        Self {
            messages: Bucket::new(now, 20_000, 5_000),
            bytes: Bucket::new(now, 64 << 20, 16 << 20),
            verifying_us: Bucket::new(now, 4_000_000, 1_000_000),
            strict: false,
        }
    }

    /// Whether more than the quota is misconduct, or merely waits.
    pub(super) const fn is_strict(&self) -> bool {
        self.strict
    }

    /// How long until the peer may send again.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.messages.wait(now).max(self.bytes.wait(now)).max(self.verifying_us.wait(now))
    }

    pub(super) fn on_message(&mut self, now: Instant, bytes: usize) {
        self.messages.spend(now, 1);
        self.bytes.spend(now, bytes as u64);
    }

    pub(super) fn on_verified(&mut self, now: Instant, took: Duration) {
        self.verifying_us.spend(now, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// What a peer did wrong, or why it cannot be talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misconduct {
    /// A message that is none, or a signature that does not hold.
    Rejected(Reject),
    /// A frame larger than any message may be.
    Oversized { bytes: u64 },
    /// It sent as its own what another node signed.
    Borrowed { signer: NodeId },
    /// More than a peer may send.
    Flood,
    /// What this node sends it is not taken.
    Unread,
    /// It speaks another version of the wire.
    OtherWire { theirs: u16 },
    /// It belongs to another network.
    OtherNetwork { theirs: NetworkId },
    /// It is no NeuroShard node.
    Stranger,
}

impl Misconduct {
    /// The name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Oversized { .. } => "oversized",
            Self::Borrowed { .. } => "borrowed",
            Self::Flood => "flood",
            Self::Unread => "unread",
            Self::OtherWire { .. } => "other wire",
            Self::OtherNetwork { .. } => "other network",
            Self::Stranger => "stranger",
        }
    }

    const fn points(&self) -> u32 {
        match self {
            // A newer version may say what this one does not know yet.
            Self::Rejected(Reject::UnknownKind { .. }) => 10,
            Self::Flood => 1,
            Self::Rejected(_) | Self::Oversized { .. } | Self::Borrowed { .. } => POINTS_MAX,
            Self::Unread | Self::OtherWire { .. } | Self::OtherNetwork { .. } | Self::Stranger => POINTS_MAX,
        }
    }

    /// Whether it was meant ill: who is merely slow or of another network may come back at once.
    pub const fn is_hostile(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::Oversized { .. } | Self::Borrowed { .. } | Self::Flood => true,
            Self::Unread | Self::OtherWire { .. } | Self::OtherNetwork { .. } | Self::Stranger => false,
        }
    }
}

impl fmt::Display for Misconduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reject) => write!(f, "it sent what no honest node sends: {reject}"),
            Self::Oversized { bytes } => write!(f, "it announced a message of {bytes} bytes, which none may have"),
            Self::Borrowed { signer } => write!(f, "it sent what {signer:.16} signed as if it were its own"),
            Self::Flood => f.write_str("it sends far more than its share"),
            Self::Unread => f.write_str("it does not read what it is sent"),
            Self::OtherWire { theirs } => write!(
                f,
                "it speaks wire version {theirs}, this program speaks {WIRE_VERSION}: the older of the two must be updated"
            ),
            Self::OtherNetwork { theirs } => write!(
                f,
                "it belongs to network {theirs:.16}, this node to another: each network needs a --data-dir of its own"
            ),
            Self::Stranger => f.write_str("it is no NeuroShard node"),
        }
    }
}

/// What is held against a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conduct {
    points: u32,
    at: Instant,
}

impl Conduct {
    pub(super) fn new(now: Instant) -> Self {
        Self { points: 0, at: now }
    }

    /// Adds to what is held against it; true if that is too much.
    pub(super) fn add(&mut self, now: Instant, what: &Misconduct) -> bool {
        let forgiven = now.saturating_duration_since(self.at).as_secs();
        if forgiven > 0 {
            self.points = self.points.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
            self.at = now;
        }
        self.points = self.points.saturating_add(what.points());
        self.points >= POINTS_MAX
    }
}

/// Who must stay out, until when, and how often that was so.
#[derive(Debug, Default)]
pub(super) struct Excluded(BTreeMap<NodeId, (Instant, u32)>);

impl Excluded {
    /// Excludes a peer; returns for how long.
    pub(super) fn add(&mut self, now: Instant, node: NodeId) -> Duration {
        let times = self.0.get(&node).map_or(0, |(_, times)| *times);
        let time = OUT_FIRST.saturating_mul(1 << times.min(16)).min(OUT_MAX);
        if self.0.len() >= OUT_PEERS_MAX
            && let Some(soonest) = self.0.iter().min_by_key(|(_, (until, _))| *until).map(|(node, _)| *node)
        {
            self.0.remove(&soonest);
        }
        self.0.insert(node, (now + time, times + 1));
        time
    }

    /// Whether a peer must stay out.
    pub(super) fn holds(&self, now: Instant, node: &NodeId) -> bool {
        self.0.get(node).is_some_and(|(until, _)| *until > now)
    }

    pub(super) fn count(&self, now: Instant) -> u64 {
        self.0.values().filter(|(until, _)| *until > now).count() as u64
    }

    /// Forgets those whose time is long over.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (until, _)| *until + OUT_MAX > now);
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::codec::DecodeError;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_gives_its_size_at_once_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 10, 2);
        bucket.spend(start, 9);
        assert_eq!(bucket.wait(start), Duration::ZERO);
        bucket.spend(start, 5);
        // Four are owed, and one must be there.
        assert_eq!(bucket.wait(start), Duration::from_micros(2_500_000));
        assert_eq!(bucket.wait(start + 3 * SECOND), Duration::ZERO);
        // It never holds more than its size, however long nothing is spent.
        bucket.spend(start + 1000 * SECOND, 10);
        assert!(bucket.wait(start + 1000 * SECOND) > Duration::ZERO);
        // Small steps lose nothing.
        let mut bucket = Bucket::new(start, 10, 2);
        bucket.spend(start, 10);
        for ms in (0..=1000).step_by(7) {
            bucket.wait(start + Duration::from_millis(ms));
        }
        assert_eq!(bucket.level, 1);
    }

    #[test]
    fn costly_messages_are_limited_like_many_messages() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        assert_eq!(quota.wait(start), Duration::ZERO);
        quota.on_verified(start, 3 * SECOND);
        assert!(quota.wait(start) >= 4 * SECOND);
        let mut quota = Quota::new(start);
        (0..2000).for_each(|_| quota.on_message(start, 100));
        assert!(quota.wait(start) > Duration::ZERO && quota.wait(start + SECOND) == Duration::ZERO);
        let mut quota = Quota::new(start);
        quota.on_message(start, 64 << 20);
        assert!(quota.wait(start + 7 * SECOND) > Duration::ZERO);
    }

    #[test]
    fn a_member_says_more_in_a_second_than_a_stranger_in_ten() {
        let start = Instant::now();
        let (mut member, mut stranger) = (Quota::of_member(start), Quota::new(start));
        for quota in [&mut member, &mut stranger] {
            (0..4000).for_each(|_| quota.on_message(start, 300));
        }
        assert_eq!(member.wait(start), Duration::ZERO);
        assert!(stranger.wait(start) >= 10 * SECOND);
        assert!(stranger.is_strict() && !member.is_strict());
        (0..20_000).for_each(|_| member.on_message(start, 300));
        assert!(member.wait(start) > Duration::ZERO, "it waits all the same");
    }

    #[test]
    fn small_faults_add_up_and_are_forgiven_with_time() {
        let start = Instant::now();
        let mut conduct = Conduct::new(start);
        assert!((0..99).all(|_| !conduct.add(start, &Misconduct::Flood)));
        assert!(!conduct.add(start + 50 * SECOND, &Misconduct::Flood));
        assert!((0..49).all(|_| !conduct.add(start + 50 * SECOND, &Misconduct::Flood)));
        assert!(conduct.add(start + 50 * SECOND, &Misconduct::Flood));
        let garbage = Misconduct::Rejected(Reject::Envelope(DecodeError::TrailingBytes { extra: 1 }));
        assert!(Conduct::new(start).add(start, &garbage));
        assert!(!Conduct::new(start).add(start, &Misconduct::Rejected(Reject::UnknownKind { number: 99 })));
    }

    #[test]
    fn who_comes_back_to_do_it_again_stays_out_longer() {
        let (start, node) = (Instant::now(), NodeId::from_bytes([1; 32]));
        let mut excluded = Excluded::default();
        assert!(!excluded.holds(start, &node));
        assert_eq!(excluded.add(start, node), OUT_FIRST);
        assert!(excluded.holds(start + OUT_FIRST - SECOND, &node) && !excluded.holds(start + OUT_FIRST, &node));
        assert_eq!(excluded.add(start + OUT_FIRST, node), 2 * OUT_FIRST);
        let times: Vec<_> = (0..20).map(|_| excluded.add(start, node)).collect();
        assert!(times.is_sorted() && times.last() == Some(&OUT_MAX));
        for i in 0..=OUT_PEERS_MAX as u64 {
            let mut name = [2; 32];
            name[..8].copy_from_slice(&i.to_le_bytes());
            excluded.add(start + SECOND, NodeId::from_bytes(name));
        }
        assert!(excluded.0.len() <= OUT_PEERS_MAX);
        excluded.forget(start + 3 * OUT_MAX);
        assert_eq!(excluded.0.len(), 0);
    }
}
