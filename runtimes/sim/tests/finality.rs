//! How soon a world's validators decide what a user wants.

use neuroshard_sim::{Options, Scenario, World};

/// No link of the world is slower than this.
const DELAY_US: u64 = 50_000;

/// When, where and what a line of a world's log tells.
fn parse(line: &str) -> Option<(u64, &str, &str)> {
    let (at, rest) = line.trim_start().split_once(' ')?;
    let (s, us) = at.split_once('.')?;
    let (host, what) = rest.trim_start().split_once(' ')?;
    Some((s.parse::<u64>().ok()? * 1_000_000 + us.parse::<u64>().ok()?, host, what.trim_start()))
}

/// The slowest way of a proposal from its leader to another node.
fn slowest_link(lines: &[(u64, &str, &str)]) -> u64 {
    let left = |text: &str| lines.iter().find(|line| line.2.strip_prefix("publish on agreement: ") == Some(text));
    let came = |line: &(u64, &str, &str)| {
        let text = line.2.split_once("message ").filter(|_| line.2.starts_with('<'))?.1;
        text.starts_with("proposal by").then(|| left(text).map(|sent| line.0 - sent.0))?
    };
    lines.iter().filter_map(came).max().expect("proposals")
}

#[test]
fn four_validators_decide_a_wish_within_four_delays_with_signatures_and_disks() {
    let mut scenario = Scenario::draw(&Options { training: false, ..Options::calm(4, 900_000) }, 3).expect("a world");
    // With their ends, links between the farthest regions take just less than 50 ms.
    (scenario.world.latency_ms, scenario.world.jitter_ms, scenario.world.regions) = (45, 0, 64);
    (scenario.world.start_ms, scenario.world.sync_ms, scenario.world.wish_ms) = (0, 2, 15_000);
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let report = World::new(&scenario).logging(log.reopen().expect("the same file")).run();
    assert_eq!(report.failure, None, "{report}");
    let text = std::fs::read_to_string(log.path()).expect("text");
    let lines: Vec<(u64, &str, &str)> = text.lines().filter_map(parse).collect();
    let slowest = slowest_link(&lines);
    assert!((DELAY_US * 4 / 5..=DELAY_US).contains(&slowest), "the slowest link takes {slowest} us");

    let decided = |line: &&(u64, &str, &str)| line.2.starts_with("event BlockDecided");
    let busy = |line: &&(u64, &str, &str)| decided(line) || line.2.starts_with("publish on transactions");
    let (mut wishes, mut latest, mut last_busy) = (0, 0, 0);
    for (place, line) in lines.iter().enumerate() {
        // The network is at rest, and then somebody wants something that can be had.
        let told = lines.get(place + 1).is_some_and(|next| next.2.starts_with("publish on transactions"));
        if line.2.contains("command submit") && told && line.0 > last_busy + 1_000_000 {
            // All four decide the same block, and nothing else is under way.
            let last = lines[place..].iter().filter(decided).nth(3);
            let after = last.map_or(u64::MAX, |last| last.0 - line.0);
            (wishes, latest) = (wishes + 1, latest.max(after));
        }
        if busy(&line) {
            last_busy = line.0;
        }
    }
    println!("{wishes} wishes, the last node knew after at most {latest} us; slowest link {slowest} us");
    assert!(wishes > 20, "{wishes} wishes");
    assert!(latest <= 4 * DELAY_US, "{latest} us");
    assert!(latest > 2 * slowest, "{latest} us: nothing is decided before it is heard");
}
