//! What the network tells about itself: events for people, a status to look at, and numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use neuroshard_proto::NodeId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::{Deserialize, Serialize};

use super::quota::Misconduct;

/// Something that happened between this node and others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// Others can reach this node here.
    Listening { address: String },
    /// There is a connection to a peer now.
    Connected { node: NodeId, address: String, peers: u64 },
    /// There is a direct connection to a peer now, to which the only way was through a relay.
    Direct { node: NodeId, address: String },
    /// The last connection to a peer ended by itself.
    Left { node: NodeId, peers: u64 },
    /// A peer was sent away, and for how long it must stay out.
    CutOff { node: NodeId, why: Misconduct, out_s: u64 },
    /// An address that this node was told to connect to cannot be reached; it is tried again.
    Unreachable { address: String, why: String },
    /// What answers at an address that this node was told to connect to is of no use.
    Useless { address: String, why: Misconduct },
}

/// A peer at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub node: String,
    pub address: String,
    /// Whether the peer made the connection.
    pub inbound: bool,
    /// Its program, in its own words.
    pub program: Option<String>,
    /// The last round trip.
    pub ping_us: Option<u64>,
    pub connected_ms: u64,
}

/// How others come to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachStatus {
    /// It does not listen.
    pub only_dials: bool,
    /// Whether others could dial it when they tried, from as far away as anybody did.
    pub direct: Option<bool>,
    /// Nodes through which others come.
    pub relays: Vec<String>,
    /// Whether others may come to their peers through this node.
    pub is_relay: bool,
    /// Nodes that have a place here, and connections that go through here.
    pub guests: u64,
    pub circuits: u64,
    /// Peers to which there is no direct connection.
    pub peers_through_relays: u64,
}

/// The network at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStatus {
    /// Addresses at which others reach this node; none if it only dials.
    pub listening: Vec<String>,
    pub reach: ReachStatus,
    pub peers: Vec<PeerStatus>,
    /// Peers that must stay out.
    pub excluded: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Messages that came and went.
    pub messages_in: u64,
    pub messages_out: u64,
    /// Messages that were not passed on, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Peers sent away, by reason.
    pub cut_off: BTreeMap<String, u64>,
}

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dropped {
    /// This node or its link does not keep up.
    Busy,
    /// The receiver has too much waiting.
    QueueFull,
    /// There is no way to the receiver.
    NoWay,
    /// Its sender is over its quota.
    OverQuota,
    /// It breaks a rule.
    Rejected,
    /// It was said a moment ago.
    Repeated,
    /// Nobody follows the topic yet.
    NoListener,
}

impl Dropped {
    const ALL: [Self; 7] =
        [Self::Busy, Self::QueueFull, Self::NoWay, Self::OverQuota, Self::Rejected, Self::Repeated, Self::NoListener];

    const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::QueueFull => "queue full",
            Self::NoWay => "no way",
            Self::OverQuota => "over quota",
            Self::Rejected => "rejected",
            Self::Repeated => "repeated",
            Self::NoListener => "no listener",
        }
    }
}

/// Where the network writes down how it stands, and others read it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    listening: Vec<String>,
    reach: ReachStatus,
    peers: Vec<PeerStatus>,
    excluded: u64,
    cut_off: BTreeMap<&'static str, u64>,
}

impl Board {
    /// How the network stands.
    pub fn status(&self) -> NetStatus {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Inner { bytes_in, bytes_out, messages_in, messages_out, dropped, .. } = &*self.0;
        let dropped = Dropped::ALL.iter().zip(dropped).map(|(why, count)| (why.name().to_owned(), load(count)));
        let told = self.told();
        NetStatus {
            listening: told.listening.clone(),
            reach: told.reach.clone(),
            peers: told.peers.clone(),
            excluded: told.excluded,
            bytes_in: load(bytes_in),
            bytes_out: load(bytes_out),
            messages_in: load(messages_in),
            messages_out: load(messages_out),
            dropped: dropped.filter(|(_, count)| *count > 0).collect(),
            cut_off: told.cut_off.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect(),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn on_bytes(&self, incoming: usize, outgoing: usize) {
        self.0.bytes_in.fetch_add(incoming as u64, Ordering::Relaxed);
        self.0.bytes_out.fetch_add(outgoing as u64, Ordering::Relaxed);
    }

    pub(super) fn on_message_in(&self) {
        self.0.messages_in.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn on_message_out(&self) {
        self.0.messages_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn on_drop(&self, why: Dropped) {
        let place = Dropped::ALL.iter().position(|one| *one == why).unwrap_or(0);
        self.0.dropped[place].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn on_cut_off(&self, why: &Misconduct) {
        *self.told().cut_off.entry(why.name()).or_default() += 1;
    }

    pub(super) fn set(&self, listening: Vec<String>, reach: ReachStatus, peers: Vec<PeerStatus>, excluded: u64) {
        let mut told = self.told();
        (told.listening, told.reach, told.peers, told.excluded) = (listening, reach, peers, excluded);
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let NetStatus {
            peers, reach, excluded, bytes_in, bytes_out, messages_in, messages_out, dropped, cut_off, ..
        } = self.status();
        let gauges = [
            ("net_peers", "Connected peers", peers.len() as u64),
            ("net_excluded", "Peers kept out", excluded),
            ("net_relayed_peers", "Peers to which there is no direct connection", reach.peers_through_relays),
            ("net_relays", "Relays through which others come to this node", reach.relays.len() as u64),
            ("net_relay_guests", "Nodes to which others come through this one", reach.guests),
            ("net_relay_circuits", "Connections of others that go through this node", reach.circuits),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let ways = |incoming, outgoing| [("in".to_owned(), incoming), ("out".to_owned(), outgoing)].into();
        let families: [(&str, &str, &str, BTreeMap<String, u64>); 4] = [
            ("net_bytes", "Bytes on connections, by direction", "direction", ways(bytes_in, bytes_out)),
            ("net_messages", "Messages, by direction", "direction", ways(messages_in, messages_out)),
            ("net_dropped", "Messages that went no further, by reason", "reason", dropped),
            ("net_cut_off", "Peers sent away, by reason", "reason", cut_off),
        ];
        for (name, help, label, values) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in values {
                ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for NetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { address } => write!(f, "at {address}"),
            Self::Connected { node, address, peers } => write!(f, "to {node:.16} at {address}; peers: {peers}"),
            Self::Direct { node, address } => write!(f, "to {node:.16} directly at {address}, no more through a relay"),
            Self::Left { node, peers } => write!(f, "{node:.16} is gone; peers: {peers}"),
            Self::CutOff { node, why, out_s: 0 } => write!(f, "{node:.16}: {why}"),
            Self::CutOff { node, why, out_s } => write!(f, "{node:.16}: {why}. It stays out for {out_s} s"),
            Self::Unreachable { address, why } => write!(f, "{address}: {why}; it is tried again"),
            Self::Useless { address, why } => write!(f, "{address} is of no use here: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn what_is_dropped_is_counted_by_reason() {
        let board = Board::default();
        board.on_drop(Dropped::NoWay);
        board.on_drop(Dropped::NoListener);
        board.on_drop(Dropped::NoListener);
        board.on_cut_off(&Misconduct::Flood);
        let status = board.status();
        assert_eq!(status.dropped, [("no listener".into(), 2), ("no way".into(), 1)].into());
        assert_eq!(status.cut_off, [("flood".into(), 1)].into());
        board.on_bytes(3, 5);
        let text = Metrics::new(Some(board)).text();
        for line in [
            "neuroshard_net_peers 0",
            "neuroshard_net_bytes_total{direction=\"out\"} 5",
            "neuroshard_net_dropped_total{reason=\"no listener\"} 2",
            "neuroshard_net_cut_off_total{reason=\"flood\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
    }
}
