//! Nodes on both runtimes together.

#[path = "../../smol/tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::Scratch;

/// So little that no node has room for the whole model of four layers.
const TIGHT: &str = "--threads 1 --memory 1MiB --listen 127.0.0.1:0";

#[test]
fn nodes_on_two_runtimes_train_one_model_together() {
    // Cargo builds the reference node beside this one where it tests the whole workspace.
    let own = Path::new(common::PROGRAM);
    let reference = own.with_file_name("neuroshard");
    if !reference.exists() {
        assert!(std::env::var_os("NEUROSHARD_REQUIRE_DRIVERS").is_none(), "{} is not there", reference.display());
        return eprintln!("SKIPPED: `cargo build -p neuroshard` makes the reference node that this test needs");
    }
    let scratch = Scratch::new();
    let config = scratch.deep_config("");
    let mut first = scratch.start_program(&reference, "a", &format!("run --config {config} {TIGHT}"));
    let address = first.wait_for("listening", |_| true)["address"].as_str().unwrap().to_owned();
    let mut second = scratch.start_program(own, "b", &format!("join {address} {TIGHT}"));
    let joined = [&mut first, &mut second].map(|node| node.wait_for("quorum_joined", |line| line["members"] == 2));
    assert_eq!(joined[0]["quorum"], joined[1]["quorum"]);
    for node in [&mut first, &mut second] {
        node.wait_for_step(10);
    }
}
