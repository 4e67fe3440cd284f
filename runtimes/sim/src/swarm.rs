//! From a seed to a scenario. Each seed first draws which kinds of fault exist at all, because a mix of everything hides the
//! mistakes that need the absence of something; then how often and how hard they strike.

use std::fmt;

use crate::draw::Draw;
use crate::options::{Fault, Options, OptionsError, Strategy};
use crate::scenario::{Act, Byzantine, FORMAT, JUMPS_MS_MAX, Lie, Scenario, Side, What, WorldSpec};

/// Most acts that a seed draws of one kind.
const DRAWN_MAX: u64 = 2000;
/// Sides of partitions name nodes up to this many, regions beyond.
const SIDES_BY_NODE: u32 = 64;

impl Scenario {
    /// The world of a seed.
    ///
    /// # Errors
    /// If no world can be made of the options.
    pub fn draw(options: &Options, seed: u64) -> Result<Self, OptionsError> {
        options.check()?;
        let world = constants(options, seed);
        let exists = Draw::new(seed, "which faults");
        let mut acts = Vec::new();
        for (kind, fault) in (0..).zip(Fault::ALL) {
            let drawn = options.every_fault || exists.of(kind).happens(500_000);
            if options.faults.contains(&fault) && drawn {
                draw_acts(&world, fault, &mut acts);
            }
        }
        acts.sort_by_key(|act| act.at_ms);
        Ok(Self { world, acts })
    }

    /// The kinds of fault that this script holds, with how many acts there are of each.
    pub fn kinds(&self) -> Vec<(Fault, usize)> {
        let count = |fault| self.acts.iter().filter(|act| kind(&act.what) == fault).count();
        Fault::ALL.into_iter().map(|fault| (fault, count(fault))).filter(|(_, acts)| *acts > 0).collect()
    }
}

/// Which kind of fault an act is of.
pub(crate) const fn kind(what: &What) -> Fault {
    match what {
        What::Loss { .. } => Fault::Loss,
        What::Duplicate { .. } => Fault::Duplicate,
        What::Reorder { .. } => Fault::Reorder,
        What::Corrupt { .. } => Fault::Corrupt,
        What::Bandwidth { .. } => Fault::Bandwidth,
        What::Partition { .. } => Fault::Partition,
        What::Clog { .. } => Fault::Clog,
        What::Crash { .. } => Fault::Crash,
        What::Disk { .. } => Fault::Disk,
        What::Jump { .. } | What::Rate { .. } => Fault::Clock,
        What::Compute { .. } => Fault::Compute,
        What::Leave { .. } => Fault::Churn,
    }
}

fn constants(options: &Options, seed: u64) -> WorldSpec {
    let draw = |purpose| Draw::new(seed, purpose);
    let byzantine = options.byzantine();
    // Liars are neighbours in number, which is no place: roles and links are drawn apart.
    let (first, nodes) = (draw("liars").below(u64::from(options.nodes)) as u32, options.nodes);
    let strategy = |place: u32| draw("strategy").of(u64::from(place)).pick(&options.strategies);
    WorldSpec {
        format: FORMAT,
        seed,
        nodes,
        duration_ms: options.duration_ms,
        calm_ms: 600_000,
        training: options.training,
        quorums: options.quorums,
        machines: None,
        regions: draw("regions").pick(&[1, 2, 3, 5, 8]),
        latency_ms: draw("latency").pick(&[1, 20, 50, 100, 200]),
        jitter_ms: draw("jitter").pick(&[0, 1, 5, 30]),
        sync_ms: draw("sync").pick(&[0, 2, 10, 40]),
        batch_ms: draw("batch").between(200, 2000),
        start_ms: draw("start").pick(&[0, 1000, 30_000]),
        // In a small world all decide; in a large one some do, and liars are drawn among all.
        founders: if nodes <= SIDES_BY_NODE { nodes } else { 4 },
        wish_ms: draw("wishes").pick(&[0, 2000, 10_000, 60_000]),
        byzantine: (0..byzantine)
            .map(|place| Byzantine { node: (first + place) % nodes, strategy: strategy(place) })
            .collect(),
    }
}

/// Adds the acts of one kind. Each draw is keyed by kind and place, so that one kind does not move another.
fn draw_acts(world: &WorldSpec, fault: Fault, acts: &mut Vec<Act>) {
    let draw = Draw::new(world.seed, fault.name());
    let minutes = world.duration_ms.div_ceil(60_000);
    // Faults of the network come by the minute, those of nodes by the node and minute.
    let (mean, longest_ms) = match fault {
        Fault::Loss | Fault::Duplicate | Fault::Reorder | Fault::Corrupt | Fault::Bandwidth => (minutes, 60_000),
        Fault::Partition => (minutes.div_ceil(2), 90_000),
        Fault::Clog | Fault::Disk | Fault::Compute => (per_node(world, 4, minutes), 30_000),
        Fault::Crash => (per_node(world, 3, minutes), 60_000),
        Fault::Clock => (per_node(world, 10, minutes), 60_000),
        Fault::Churn => (per_node(world, 10, minutes), 240_000),
    };
    let count = draw.of(u64::MAX).between(1, 2 * mean).min(DRAWN_MAX);
    for place in 0..count {
        let draw = draw.of(place);
        let at_ms = draw.of(0).below(world.duration_ms);
        let for_ms = draw.of(1).between(1, longest_ms).min(world.duration_ms - at_ms);
        acts.push(Act { at_ms, for_ms, what: draw_what(world, fault, draw.of(2)) });
    }
}

/// One act for so many nodes and minutes.
fn per_node(world: &WorldSpec, node_minutes: u64, minutes: u64) -> u64 {
    (u64::from(world.nodes) * minutes).div_ceil(node_minutes)
}

fn draw_what(world: &WorldSpec, fault: Fault, draw: Draw) -> What {
    let node = draw.of(0).below(u64::from(world.nodes)) as u32;
    let salt = draw.of(1).bits() as u32;
    let ppm = |place, low, high| draw.of(place).between(low, high) as u32;
    match fault {
        Fault::Loss => What::Loss {
            good_ppm: ppm(2, 0, 20_000),
            bad_ppm: ppm(3, 200_000, 1_000_000),
            worsen_ppm: ppm(4, 10_000, 200_000),
            improve_ppm: ppm(5, 50_000, 500_000),
            salt,
        },
        Fault::Duplicate => What::Duplicate { ppm: ppm(2, 1000, 300_000), salt },
        Fault::Reorder => What::Reorder { ppm: ppm(2, 1000, 300_000), by_ms: draw.of(3).between(10, 5000), salt },
        Fault::Corrupt => What::Corrupt { ppm: ppm(2, 1000, 100_000), salt },
        Fault::Bandwidth => What::Bandwidth { bytes_per_s: draw.of(2).pick(&[500, 2_000, 20_000, 200_000]) },
        Fault::Partition => What::Partition { side: draw_side(world, draw), one_way: draw.of(2).happens(300_000) },
        Fault::Clog => What::Clog { node },
        Fault::Crash => What::Crash {
            node,
            keep: draw.of(2).below(4) as u32,
            torn: draw.of(3).happens(300_000),
            outputs: draw.of(4).happens(300_000).then(|| draw.of(5).below(4) as u32),
        },
        Fault::Disk => What::Disk { node, late_ms: draw.of(2).between(10, 10_000), twice: draw.of(3).happens(300_000) },
        Fault::Clock if draw.of(2).happens(500_000) => {
            // Few enough jumps of this size strike one node that they stay within the limit in sum; the world holds it.
            let size = draw.of(3).between(1, JUMPS_MS_MAX.unsigned_abs() / 3) as i64;
            What::Jump { node, ms: if draw.of(4).happens(300_000) { -size } else { size } }
        }
        Fault::Clock => What::Rate { node, ppm: draw.of(3).below(40_001) as i32 - 20_000 },
        Fault::Compute => What::Compute { node, lie: draw.of(2).pick(&[Lie::Late, Lie::Lost, Lie::Wrong]), salt },
        Fault::Churn => What::Leave { node },
    }
}

/// Some nodes, at least one and not all where there are two; or some regions of a large world.
fn draw_side(world: &WorldSpec, draw: Draw) -> Side {
    let some = |all: u32| {
        let size = draw.of(10).between(1, u64::from(all.max(2) - 1));
        let mut places: Vec<u32> = (0..all).collect();
        places.sort_by_key(|place| draw.of(11).of(u64::from(*place)).bits());
        places.truncate(size as usize);
        places.sort_unstable();
        places
    };
    if world.nodes <= SIDES_BY_NODE { Side::Nodes(some(world.nodes)) } else { Side::Regions(some(world.regions)) }
}

/// Every drawn option, a line each.
impl fmt::Display for WorldSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<22} {value}");
        line("seed", self.seed.to_string())?;
        line("nodes", self.nodes.to_string())?;
        line("faults last", seconds(self.duration_ms))?;
        line("calm, at most", seconds(self.calm_ms))?;
        line("training", self.training.to_string())?;
        line("quorums", self.quorums.to_string())?;
        line("regions", self.regions.to_string())?;
        line("farthest latency", format!("{} ms", self.latency_ms))?;
        line("jitter", format!("up to {} ms", self.jitter_ms))?;
        line("disk sync", format!("up to {} ms", self.sync_ms))?;
        line("batch", format!("{} ms", self.batch_ms))?;
        line("starts within", seconds(self.start_ms))?;
        line("founders", self.founders.to_string())?;
        line("a wish each", seconds(self.wish_ms))?;
        line("signatures", if neuroshard_proto::REAL_SIGNATURES { "ed25519" } else { "simulated" }.into())?;
        let count = |strategy: Strategy| self.byzantine.iter().filter(|one| one.strategy == strategy).count();
        let liars = Strategy::ALL.map(|strategy| (strategy, count(strategy)));
        let liars = liars.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}"));
        let liars: Vec<String> = liars.collect();
        line("byzantine", if liars.is_empty() { "none".into() } else { liars.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_draw_different_mixes_and_the_same_one_each_time() {
        let options = Options { byzantine_ppm: 300_000, ..Options::default() };
        let draw = |seed| Scenario::draw(&options, seed).unwrap();
        assert_eq!(draw(4), draw(4));
        let mixes: std::collections::BTreeSet<Vec<Fault>> =
            (0..50).map(|seed| draw(seed).kinds().into_iter().map(|(fault, _)| fault).collect()).collect();
        assert!(mixes.len() > 40, "{}", mixes.len());
        for fault in Fault::ALL {
            let with = mixes.iter().filter(|mix| mix.contains(&fault)).count();
            assert!(with > 5 && with + 5 < mixes.len(), "{fault} is there and is absent");
        }
    }

    #[test]
    fn leaving_one_kind_of_fault_out_does_not_move_the_others() {
        let all = Options { every_fault: true, ..Options::default() };
        let some = Options { faults: vec![Fault::Crash, Fault::Clock], ..all.clone() };
        let (all, some) = (Scenario::draw(&all, 9).unwrap(), Scenario::draw(&some, 9).unwrap());
        assert_eq!(all.world, some.world);
        assert!(some.acts.iter().all(|act| all.acts.contains(act)));
        assert!(some.acts.len() < all.acts.len());
    }

    #[test]
    fn every_act_ends_before_the_calm() {
        let options = Options { every_fault: true, ..Options::default() };
        for seed in 0..20 {
            let scenario = Scenario::draw(&options, seed).unwrap();
            let end = scenario.world.duration_ms * 1000;
            assert!(scenario.acts.iter().all(|act| act.end_us() <= end));
        }
    }

    #[test]
    fn liars_are_as_many_as_asked_and_each_node_lies_in_one_way() {
        let options = Options { nodes: 10, byzantine_ppm: 300_000, ..Options::default() };
        for seed in 0..20 {
            let world = Scenario::draw(&options, seed).unwrap().world;
            let nodes: std::collections::BTreeSet<u32> = world.byzantine.iter().map(|one| one.node).collect();
            assert_eq!((nodes.len(), world.byzantine.len()), (3, 3));
        }
    }
}
