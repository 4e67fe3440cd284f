//! What becomes of a packet, as a pure function of seed, source, destination and moment.
//!
//! No link is stored: regions, latency, the state of a lossy link and every draw are computed when a packet is sent. Packets
//! are told apart by when they are sent, not by a count, so a packet more or less elsewhere changes nothing here.

use crate::draw::Draw;
use crate::scenario::{Act, Side, What, WorldSpec};

/// A lossy link may change between good and bad this often.
const SLOT_US: u64 = 50_000;
/// A link's state is walked from the start of such a group of slots, where it is drawn anew from its long-run odds.
const SLOTS: u64 = 16;

/// The network of a world.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    regions: u32,
    latency_us: u64,
    jitter_us: u64,
    draws: Draws,
}

#[derive(Clone, Copy, Debug)]
struct Draws {
    region: Draw,
    distance: Draw,
    access: Draw,
    jitter: Draw,
    state: Draw,
    strike: Draw,
}

/// A packet about to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) at: u64,
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// Its number among those that one event sends.
    pub(crate) ordinal: u32,
    pub(crate) bytes: u32,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// When the packet arrives, and when its copy does.
    pub(crate) arrivals: [Option<u64>; 2],
    pub(crate) blocked: bool,
    pub(crate) lost: bool,
    pub(crate) reordered: bool,
    pub(crate) corrupted: bool,
    pub(crate) clogged: bool,
    pub(crate) throttled: bool,
}

impl Network {
    pub(crate) fn new(world: &WorldSpec) -> Self {
        let draw = |purpose| Draw::new(world.seed, purpose);
        let draws = Draws {
            region: draw("region of a node"),
            distance: draw("distance of regions"),
            access: draw("access delay"),
            jitter: draw("jitter"),
            state: draw("state of a link"),
            strike: draw("strike"),
        };
        let (latency_us, jitter_us) = (world.latency_ms * 1000, world.jitter_ms * 1000);
        Self { regions: world.regions, latency_us, jitter_us, draws }
    }

    pub(crate) fn region(&self, node: u32) -> u32 {
        self.draws.region.of(u64::from(node)).below(u64::from(self.regions)) as u32
    }

    /// One-way latency of a link in microseconds, equal in both directions.
    pub(crate) fn latency_us(&self, from: u32, to: u32) -> u64 {
        let (a, b) = (self.region(from), self.region(to));
        let pair = (u64::from(a.min(b)) << 32) | u64::from(a.max(b));
        let apart = self.draws.distance.of(pair).between(100_000, 1_000_000);
        let apart = if a == b { apart / 10 } else { apart };
        let access = |node: u32| self.draws.access.of(u64::from(node)).below(self.latency_us / 20 + 200);
        self.latency_us * apart / 1_000_000 + access(from) + access(to) + 50
    }

    /// What becomes of a packet under these acts. `busy_until` says until when the sender's line is busy, and is moved on.
    pub(crate) fn fate(&self, packet: &Packet, weather: &[Act], busy_until: &mut u64) -> Fate {
        let mut fate = Fate::default();
        let mut leaves = packet.at;
        let (mut extra, mut clogged_until, mut copy) = (0, 0, false);
        for act in weather {
            match &act.what {
                What::Loss { salt, .. } => fate.lost |= self.is_lost(packet, &act.what, *salt),
                What::Duplicate { ppm, salt } => copy |= self.strikes(packet, *salt, *ppm),
                What::Reorder { ppm, by_ms, salt } if self.strikes(packet, *salt, *ppm) => {
                    fate.reordered = true;
                    extra += self.strike(packet, *salt).of(1).below(by_ms * 1000);
                }
                What::Corrupt { ppm, salt } => fate.corrupted |= self.strikes(packet, *salt, *ppm),
                What::Bandwidth { bytes_per_s } => {
                    let takes = u64::from(packet.bytes) * 1_000_000 / bytes_per_s;
                    fate.throttled |= *busy_until > packet.at;
                    leaves = leaves.max(*busy_until) + takes;
                }
                What::Partition { side, one_way } => fate.blocked |= self.is_cut(packet, side, *one_way),
                What::Clog { node } if *node == packet.to => clogged_until = act.end_us().max(clogged_until),
                _ => {}
            }
        }
        *busy_until = leaves.max(*busy_until);
        if fate.blocked || fate.lost {
            return fate;
        }
        let jitter = |copy| self.place(self.draws.jitter, packet).of(copy).below(self.jitter_us + 1);
        let on_the_way = self.latency_us(packet.from, packet.to) + extra;
        let arrives = |copy| leaves + on_the_way + jitter(copy);
        fate.clogged = clogged_until > arrives(0);
        // What waited in front of a clogged node comes as soon as it can, in the order of its arrival there.
        let through = |at: u64| if at < clogged_until { clogged_until + (at - packet.at).min(1000) } else { at };
        fate.arrivals = [Some(through(arrives(0))), copy.then(|| through(arrives(1) + jitter(2)))];
        fate
    }

    fn place(&self, draw: Draw, packet: &Packet) -> Draw {
        let link = (u64::from(packet.from) << 32) | u64::from(packet.to);
        draw.of(link).of(packet.at).of(u64::from(packet.ordinal))
    }

    fn strike(&self, packet: &Packet, salt: u32) -> Draw {
        self.place(self.draws.strike.of(u64::from(salt)), packet)
    }

    fn strikes(&self, packet: &Packet, salt: u32, ppm: u32) -> bool {
        self.strike(packet, salt).of(0).happens(u64::from(ppm))
    }

    /// Gilbert and Elliott's model of bursts, in whole numbers: a link that is good loses few packets, a bad one many.
    fn is_lost(&self, packet: &Packet, loss: &What, salt: u32) -> bool {
        let What::Loss { good_ppm, bad_ppm, worsen_ppm, improve_ppm, .. } = loss else { return false };
        let link = (u64::from(packet.from) << 32) | u64::from(packet.to);
        let draw = self.draws.state.of(u64::from(salt)).of(link);
        let (slot, worsen, improve) = (packet.at / SLOT_US, u64::from(*worsen_ppm), u64::from(*improve_ppm));
        let group = slot / SLOTS * SLOTS;
        // In the long run the link is bad for worsen / (worsen + improve) of the time.
        let both = worsen + improve;
        let mut bad = both > 0 && draw.of(group).of(1).below(both) < worsen;
        for slot in group + 1..=slot {
            let turns = draw.of(slot).happens(if bad { improve } else { worsen });
            bad ^= turns;
        }
        self.strikes(packet, salt ^ u32::MAX, if bad { *bad_ppm } else { *good_ppm })
    }

    fn is_cut(&self, packet: &Packet, side: &Side, one_way: bool) -> bool {
        let inside = |node: u32| match side {
            Side::Nodes(nodes) => nodes.contains(&node),
            Side::Regions(regions) => regions.contains(&self.region(node)),
        };
        let (from, to) = (inside(packet.from), inside(packet.to));
        if one_way { from && !to } else { from != to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::scenario::Scenario;

    fn network() -> Network {
        let mut world = Scenario::draw(&Options::calm(100, 1000), 3).unwrap().world;
        (world.regions, world.latency_ms, world.jitter_ms) = (5, 100, 5);
        Network::new(&world)
    }

    fn packet(at: u64, from: u32, to: u32) -> Packet {
        Packet { at, from, to, ordinal: 0, bytes: 1000 }
    }

    fn under(what: What) -> Vec<Act> {
        vec![Act { at_ms: 0, for_ms: 10_000_000, what }]
    }

    fn fates(weather: &[Act], count: u64) -> Vec<Fate> {
        let network = network();
        (0..count).map(|n| network.fate(&packet(n * 10_000, 1, 2), weather, &mut 0)).collect()
    }

    #[test]
    fn latency_is_equal_in_both_directions_and_within_the_world() {
        let network = network();
        for (from, to) in [(0, 1), (5, 90), (33, 34)] {
            let latency = network.latency_us(from, to);
            assert_eq!(latency, network.latency_us(to, from));
            assert!((50..=112_000).contains(&latency), "{latency}");
        }
        let regions: std::collections::BTreeSet<u32> = (0..100).map(|node| network.region(node)).collect();
        assert_eq!(regions.len(), 5);
    }

    #[test]
    fn in_calm_weather_every_packet_arrives_once_and_jitter_alone_moves_it() {
        for (n, fate) in (0..).zip(fates(&[], 500)) {
            let at: u64 = fate.arrivals[0].expect("it arrives") - n * 10_000;
            let latency = network().latency_us(1, 2);
            assert!((latency..=latency + 5000).contains(&at), "{at}");
            assert_eq!(Fate { arrivals: [fate.arrivals[0], None], ..Fate::default() }, fate);
        }
    }

    #[test]
    fn losses_come_in_bursts_and_as_often_as_the_two_states_say() {
        let loss = What::Loss { good_ppm: 0, bad_ppm: 1_000_000, worsen_ppm: 50_000, improve_ppm: 200_000, salt: 1 };
        let lost: Vec<bool> = fates(&under(loss), 100_000).iter().map(|fate| fate.lost).collect();
        // Bad for 50 of 250 slots.
        let share = lost.iter().filter(|lost| **lost).count();
        assert!((17_000..23_000).contains(&share), "{share}");
        let turns = lost.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(turns < share / 4, "five packets a slot, five slots a burst: {turns} turns");
    }

    #[test]
    fn one_fault_left_out_does_not_move_another() {
        let duplicate = Act { at_ms: 0, for_ms: 1, what: What::Duplicate { ppm: 200_000, salt: 7 } };
        let corrupt = Act { at_ms: 0, for_ms: 1, what: What::Corrupt { ppm: 200_000, salt: 8 } };
        let both = fates(&[duplicate.clone(), corrupt], 2000);
        let one = fates(&[duplicate], 2000);
        assert!(both.iter().zip(&one).all(|(both, one)| both.arrivals == one.arrivals));
        assert!(both.iter().filter(|fate| fate.corrupted).count() > 300);
        assert!(one.iter().filter(|fate| fate.arrivals[1].is_some()).count() > 300);
    }

    #[test]
    fn a_partition_cuts_both_ways_or_one() {
        let cut = |one_way, from, to| {
            let side = Side::Nodes(vec![1, 2]);
            network().fate(&packet(5, from, to), &under(What::Partition { side, one_way }), &mut 0).blocked
        };
        assert_eq!(
            [cut(false, 1, 3), cut(false, 3, 1), cut(false, 1, 2), cut(false, 3, 4)],
            [true, true, false, false]
        );
        assert_eq!([cut(true, 1, 3), cut(true, 3, 1), cut(true, 1, 2)], [true, false, false]);
    }

    #[test]
    fn a_narrow_line_sends_one_packet_after_the_other() {
        let (network, weather) = (network(), under(What::Bandwidth { bytes_per_s: 1000 }));
        let mut busy = 0;
        let arrivals: Vec<u64> =
            (0..3).map(|_| network.fate(&packet(0, 1, 2), &weather, &mut busy).arrivals[0].unwrap()).collect();
        assert_eq!(busy, 3_000_000, "three packets of a second each");
        assert!(arrivals.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
    }

    #[test]
    fn what_is_sent_to_a_clogged_node_comes_when_it_is_free() {
        let weather = vec![Act { at_ms: 0, for_ms: 60_000, what: What::Clog { node: 2 } }];
        let network = network();
        let to = |to| network.fate(&packet(5_000_000, 1, to), &weather, &mut 0);
        let clogged = to(2);
        assert!(clogged.clogged && (60_000_000..60_002_000).contains(&clogged.arrivals[0].unwrap()));
        assert!(!to(3).clogged);
    }
}
