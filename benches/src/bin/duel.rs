//! Our agreement beside a second implementation in the same worlds, and what ours costs in messages and bytes:
//!
//! ```sh
//! cargo run --release -p neuroshard-benches --bin duel
//! ```
//!
//! Everything here is virtual time and counts, so the figures are the same on every machine. Delays are multiples of the 50 ms
//! that a message takes on average; a message is one broadcast of one validator.

use neuroshard_proto::chain::{Certificate, Lock, SignedVote, Statement, Subject, Vote};
use neuroshard_proto::{Hash, Signature, codec};
use neuroshard_sim::{Count, Options, Scenario, World};
use neuroshard_tests::duel::{AS_IT_COMES, Cut, HASTY, HEIGHT, Protocol, SIMPLEX, Schedule, node, run};

/// Validators of a height, and how many heights are decided.
const SIZES: [(usize, u64); 4] = [(4, 400), (7, 400), (31, 20), (100, 4)];
/// The seats of a large network.
const COMMITTEE: usize = 512;
/// How long partitions last.
const CUT_MS: u64 = 3000;

fn main() {
    compare();
    certificates();
    networks();
}

/// Times and messages of all three under the same schedules.
fn compare() {
    let rivals = [SIMPLEX, HASTY, AS_IT_COMES];
    let names: Vec<String> = rivals.iter().map(|one| format!("{}: median | p99 | messages", one.name)).collect();
    println!("| validators | what goes wrong | {} |", names.join(" | "));
    println!("|---:|---|{}", "---:|".repeat(3 * rivals.len()));
    for (validators, heights) in SIZES.into_iter().chain([(COMMITTEE, 1)]) {
        let calm = Schedule::calm(validators);
        let cut = |cut| Schedule { cut, calm_ms: CUT_MS, ..calm };
        let lossy = |loss_percent| Schedule { loss_percent, ..calm };
        let table = [
            ("nothing", calm),
            ("5 % lost", lossy(5)),
            ("20 % lost", lossy(20)),
            ("leader cut off for 3 s", cut(Cut::Leader)),
            ("two halves for 3 s", cut(Cut::Halves)),
        ];
        // A committee only shows what it costs.
        for (what, schedule) in table.into_iter().take(if validators == COMMITTEE { 1 } else { table.len() }) {
            let cells: Vec<String> = rivals.iter().map(|rival| cells(rival, schedule, heights)).collect();
            println!("| {validators} | {what} | {} |", cells.join(" | "));
        }
    }
}

fn cells(rival: &Protocol, schedule: Schedule, heights: u64) -> String {
    let (mut times, mut copies) = (Vec::new(), 0);
    for seed in 0..heights {
        let outcome = run(rival, schedule, seed).unwrap_or_else(|what| panic!("{what}"));
        times.extend(outcome.decided_ms);
        copies += outcome.copies;
    }
    times.sort_unstable();
    let delays = |share: usize| times[(times.len() - 1) * share / 100] as f64 / schedule.delay_ms as f64;
    let n = schedule.validators as u64;
    let broadcasts = copies as f64 / (n * (n - 1) * heights) as f64;
    format!("{:.1} | {:.1} | {broadcasts:.2}", delays(50), delays(99))
}

/// Bytes of the certificates of a quorum.
fn certificates() {
    println!("\n| seats | quorum | finalization | nullification with a lock |\n|---:|---:|---:|---:|");
    for seats in [4_usize, 100, COMMITTEE] {
        // A committee of 512 decides by 359 (PROTOCOL §11); fewer by more than two thirds.
        let quorum = if seats == COMMITTEE { 359 } else { seats - (seats - 1) / 3 };
        let block = Hash::of_blob(b"block");
        let bytes = |subject, statement| {
            let vote = |number| SignedVote {
                vote: Vote { validator: node(number), statement },
                signature: Signature([0xA5; 64]),
            };
            codec::encode(&Certificate::gather(subject, (0..quorum).map(vote))).len()
        };
        let lock = Some(Lock { view: 0, block });
        let (height, view) = (HEIGHT, 1);
        let finalization =
            bytes(Subject::Finalized { height, view, block }, Statement::Finalize { height, view, block });
        let nullification = bytes(Subject::Nullified { height, view }, Statement::Nullify { height, view, lock });
        println!("| {seats} | {quorum} | {finalization} | {nullification} |");
    }
}

/// Packets of whole networks: transactions, votes, decided blocks, counted at each hop.
fn networks() {
    println!(
        "\n| nodes | validators | blocks | packets a node and block | of all that it sends |\n|---:|---:|---:|---:|---:|"
    );
    for nodes in [4, 100, 1000] {
        let mut scenario =
            Scenario::draw(&Options { training: false, ..Options::calm(nodes, 120_000) }, 1).expect("a world");
        (scenario.world.wish_ms, scenario.world.start_ms) = (2000, 0);
        let report = World::new(&scenario).run();
        assert_eq!(report.failure, None);
        let [agree, sent, blocks] =
            [Count::SentToAgree, Count::Sent, Count::Blocks].map(|count| report.counts.get(count) as f64);
        let each = agree / blocks / f64::from(nodes);
        println!("| {nodes} | {} | {blocks} | {each:.1} | {:.0} % |", scenario.world.founders, 100.0 * agree / sent);
    }
}
