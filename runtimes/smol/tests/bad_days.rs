//! Bad days of quorums: members are killed, stopped, starved and lied to at the worst of moments, and the model is the same.

mod common;

use std::time::Duration;

use common::Dice;
use common::crew::{Crew, KEEPER};

/// How often members are killed: `NEUROSHARD_ROUNDS`, three if it is not set.
fn rounds() -> u64 {
    std::env::var("NEUROSHARD_ROUNDS").map_or(3, |rounds| rounds.parse().expect("NEUROSHARD_ROUNDS is a number"))
}

/// What draws the moments: `NEUROSHARD_SEED`, or the time.
fn dice() -> Dice {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    Dice::new(std::env::var("NEUROSHARD_SEED").map_or(now | 1, |seed| seed.parse().expect("a number but 0")))
}

#[test]
fn any_member_may_be_killed_at_any_moment_and_the_bits_are_the_same() {
    let mut crew = Crew::gather(&["a", "b", "c"]);
    let mut dice = dice();
    let mut reached = 0;
    for round in 0..rounds() {
        let members = crew.until_quorum(KEEPER, 3);
        crew.until_beyond(&members, reached + dice.below(40));
        std::thread::sleep(Duration::from_micros(dice.below(300_000)));
        // The first three rounds take each role once.
        let role = if round < 3 { round } else { dice.below(3) };
        let killed = members[role as usize];
        let other = members[(role as usize + 1) % 3];
        let anchor = crew.anchor(other);
        crew.kill(killed);
        reached = crew.reached();
        println!("round {round}: {killed}, member {role} of {members:?}, is killed at {reached}, the anchor is {anchor}");
        crew.again(killed);
        let from = crew.until(&format!("round {round}: {killed} is back"), |crew| {
            crew.last(killed, "quorum").map(|line| line["step"].as_u64().unwrap())
        });
        println!("round {round}: all go on from {from}");
        assert!(from >= anchor, "round {round}: they go on from {from}, and had all of {anchor}");
    }
    let limit = crew.reached().max(reached) + 50;
    crew.finish_at(limit);
    crew.compare_with_solo(limit);
}
