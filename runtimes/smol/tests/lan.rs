//! `neuroshard join` without an address: nodes on one local network, here on one machine, find each other. One test, because what
//! is said on a local network is heard by all.

mod common;

use common::Scratch;

#[test]
fn a_node_joins_the_network_it_hears_and_does_not_guess_among_several() {
    let scratch = Scratch::new();
    let nobody = scratch.run("alone", "join");
    nobody.failed(1, &["no network was heard", "--listen", "4701", "neuroshard join ADDRESS"]);
    let mut founder = scratch.start("founder", "run --threads 1 --listen 127.0.0.1:0");
    founder.wait_for("listening", |_| true);
    // One that does not call is not found.
    let mut quiet = scratch.start("quiet", "run --threads 1 --listen 127.0.0.1:0 --no-lan");
    quiet.wait_for("listening", |_| true);
    let mut joined = scratch.start("joined", "join --threads 1");
    joined.wait_for("connected", |_| true);
    let network = |name: &str| scratch.status(name)["network"].as_str().unwrap().to_owned();
    assert_eq!(network("joined"), network("founder"));
    let mut other = scratch.start("other", "run --threads 1 --listen 127.0.0.1:0");
    other.wait_for("listening", |_| true);
    let several = scratch.run("undecided", "join");
    several.failed(1, &["several networks", "neuroshard join /ip4/127.0.0.1/tcp/", &network("other")[..16]]);
}
