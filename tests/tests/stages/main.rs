//! Any number of members of a plan compute with real numbers what one node alone computes, bit for bit (PROTOCOL §4): cores
//! in a world of lost and late messages, each with an executor on the CPU.

mod executor;
#[allow(dead_code, reason = "not every story of the world is told here")]
#[path = "../../../core/tests/pipeline/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use neuroshard_core::Event;
use neuroshard_core::proto::{
    Founder, Genesis, Hash, List, Manifest, ModelSpec, Params, Preset, Shard, Step, TrainSpec,
};

use world::{Weather, World};

const CALM: Weather = Weather { lost_percent: 0, doubled_percent: 0, latest_ms: 20 };
const STEPS: Step = Step(7);
const SHARD_TOKENS: u32 = 2048;

/// Two shards of a language in which each of 64 tokens is followed by one of two, and one that is held out.
fn manifest() -> &'static Manifest {
    static MANIFEST: OnceLock<Manifest> = OnceLock::new();
    MANIFEST.get_or_init(|| {
        let mut draws = 1_u32;
        let mut shard = |held_out| {
            let mut token = 0_u16;
            let tokens = (0..SHARD_TOKENS).map(|_| {
                draws = draws.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                token = (token * 5 + 1 + u16::from(draws >> 31 == 1)) % 64;
                10 + token
            });
            let hash = executor::publish(tokens.flat_map(u16::to_le_bytes).collect());
            Shard { hash, tokens: SHARD_TOKENS, held_out }
        };
        let shards = vec![shard(false), shard(false), shard(true)].try_into().unwrap();
        Manifest { tokenizer: Hash::default(), text_bytes: 3 * u64::from(SHARD_TOKENS), shards }
    })
}

fn shards() -> BTreeSet<Hash> {
    manifest().shards.iter().map(|shard| shard.hash).collect()
}

/// Ten layers and the head: eleven stages.
fn network(founder: Founder) -> (Genesis, Manifest) {
    let (model, training) = Preset::Nano.specs();
    let manifest = manifest().clone();
    let genesis = Genesis {
        created_unix_ms: 1_800_000_000_000,
        seed: Hash::of_blob(b"eleven stages"),
        model: ModelSpec { layers: 10, hidden: 16, heads: 2, kv_heads: 1, ffn: 24, context: 16, ..model },
        training: TrainSpec { batch: 4, sequence: 16, peak_rate_nano: 10_000_000, warmup: 2, ..training },
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: vec![founder].try_into().unwrap(),
        allocations: List::default(),
        first: None,
    };
    (genesis, manifest)
}

/// The roots of all weights and moments after the last step, by stage, trained by so many members.
fn trained(members: u32, weather: Weather, seed: u64) -> Vec<Hash> {
    let mut world = World::new(members, weather, seed);
    world.run_to(STEPS);
    world.state_after(STEPS)
}

#[test]
fn one_to_eleven_members_compute_the_bits_that_one_node_alone_computes() {
    let alone = World::solo(STEPS);
    assert_eq!(alone.len(), 11, "the root of each stage");
    for members in [1, 2, 3, 5, 11] {
        assert_eq!(trained(members, CALM, u64::from(members)), alone, "{members} members");
    }
}

#[test]
fn bad_weather_and_a_fallen_member_change_no_bit() {
    let alone = World::solo(STEPS);
    let weather = Weather { lost_percent: 15, doubled_percent: 10, latest_ms: 300 };
    assert_eq!(trained(3, weather, 1), alone);
    let mut world = World::new(3, CALM, 2);
    world.run_to(Step(5));
    world.crash(1);
    world.run_to(STEPS);
    assert_eq!(world.state_after(STEPS), alone);
    let loaded = |event: &&Event| matches!(event, Event::StateReady { step, .. } if *step > Step(0));
    assert!(world.events(1).any(|event| loaded(&event)), "it went on from what it had saved");
}

#[test]
fn nodes_that_find_each_other_compute_the_same_and_take_up_what_another_persisted() {
    let mut world = World::founded(1, 3, &[], CALM, 3);
    world.run_to(Step(10));
    world.join(1);
    for _ in 0..10 {
        if world.members(0).len() < 2 {
            world.run_ms(30_000);
        }
    }
    assert!(world.members(0).len() > 1, "{:?}", world.members(0));
    let last = Step(world.furthest().0 + 5);
    world.run_to(last);
    assert!(world.state_after(last) == World::solo(last), "another model after step {last}");
    let taken_up = |event: &&Event| matches!(event, Event::StateReady { step, .. } if *step > Step(0));
    assert!(world.events(1).any(|event| taken_up(&event)), "it went on from what the founder had persisted");
}
