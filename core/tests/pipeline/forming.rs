//! Networks whose nodes find their quorums by themselves, and go on when members are lost.

use neuroshard_core::proto::Step;

use crate::world::{Weather, World};

const CALM: Weather = Weather { lost_percent: 0, doubled_percent: 0, latest_ms: 20 };

#[test]
fn nodes_that_meet_train_together_what_one_alone_would() {
    let mut world = World::network(3, &[], CALM, 1);
    world.run_to(Step(40));
    assert_eq!(world.state_after(Step(40)), World::solo(Step(40)));
    assert!(world.members(0).len() > 1, "{:?}", world.members(0));
}
