//! A deterministic world: any number of real cores in one process, under virtual time, with everything that can go wrong around
//! them.
//!
//! A [`Scenario`] is a world as data: its constants, its liars, and the script of what goes wrong. [`Scenario::draw`] makes
//! one from a seed: the seed first draws which kinds of fault exist at all, then how hard they strike. A [`World`] lets it
//! happen. Nodes are [`neuroshard_core::Core`]s, the very code that real hosts run; what is simulated is around them: links, disks
//! with torn journals, executors, clocks, operators. After every step the checkers of `invariants/` look whether all that must hold
//! does, and when the faults are over all honest nodes must come to agree.
//!
//! Everything is a pure function of the scenario. [`run`] does a world twice, compares the two, and replays every life of every node
//! alone. What fails can be made smaller ([`minimise`]) and kept as a text file: see `docs/src/simulator.md`.
//!
//! ```
//! use neuroshard_sim::{Count, Options, Runs, Scenario, minimise, run};
//!
//! // Seven nodes, two of them liars, for one minute.
//! let options = Options { byzantine_ppm: 300_000, duration_ms: 60_000, ..Options::default() };
//! let scenario = Scenario::draw(&options, 5)?;
//! let report = run(&scenario, Runs::Twice);
//! assert_eq!(report.failure, None, "{report}");
//! assert!(report.counts.get(Count::Delivered) > 0);
//!
//! // A scenario is a text file: lines can be taken out by hand, or by delta debugging.
//! let again = Scenario::parse(&scenario.to_string())?;
//! assert_eq!(run(&again, Runs::Once).chain, report.chain);
//! assert!(minimise(&again, 10, |scenario| run(scenario, Runs::Once)).is_err(), "nothing failed");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod byzantine;
mod campaign;
mod clock;
mod disk;
mod draw;
mod executor;
mod genesis;
mod invariants;
mod keys;
mod link;
mod mesh;
mod message;
mod minimise;
mod model;
mod options;
mod passing;
mod proof;
mod queue;
mod report;
mod scenario;
mod sharing;
mod swarm;
mod workload;
mod world;

pub use campaign::{Tally, campaign};
pub use minimise::{Minimal, NoFailure, minimise};
pub use options::{Fault, NODES_MAX, Options, OptionsError, Strategy};
pub use proof::{Runs, run};
pub use report::{Chain, Count, Counts, Failure, Report};
pub use scenario::{
    ACTS_MAX, Act, Byzantine, DURATION_MS_MAX, FORMAT, JUMPS_MS_MAX, Lie, Machines, Scenario, ScenarioError, Side,
    What, WorldSpec,
};
pub use world::{LifeTrace, Recording, World};
