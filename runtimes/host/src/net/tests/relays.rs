//! Nodes that nobody can dial.

use super::*;
use crate::net::address::is_relayed;

/// A node that others can dial, and that helps others or does not.
fn relay(runtime: &Pool, helps: bool, connect: &[&Node]) -> Node {
    let keys = (Keys::generate().unwrap(), BTreeSet::new());
    let connect = connect.iter().map(|node| node.address.clone()).collect();
    Node::with_wishes(runtime, network(), Vec::new(), Wishes { relay: helps, connect, ..Wishes::default() }, keys)
}

/// A node that only dials.
fn dialler(runtime: &Pool, connect: &[&Node]) -> Node {
    let keys = (Keys::generate().unwrap(), BTreeSet::new());
    let connect = connect.iter().map(|node| node.address.clone()).collect();
    Node::begin(runtime, network(), Vec::new(), &Wishes { connect, relay: true, ..Wishes::default() }, keys)
}

/// Waits until a node's status is as it should be.
fn until(node: &Node, what: &str, suits: impl Fn(&NetStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !suits(&node.net.board.status()) {
        assert!(Instant::now() < deadline, "{what}: {:#?}", node.net.board.status());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn two_nodes_that_only_dial_meet_through_a_relay_and_through_another_one_when_it_is_gone() {
    let runtime = Pool::new();
    let first = relay(&runtime, true, &[]);
    let second = relay(&runtime, true, &[&first]);
    let one = dialler(&runtime, &[&first]);
    let mut another = dialler(&runtime, &[&first]);
    for node in [&one, &another] {
        until(node, "it has two places", |status| status.reach.relays.len() == 2);
        until(node, "both meet", |status| status.reach.peers_through_relays == 1 && status.peers.len() == 3);
        assert!(node.net.board.status().reach.only_dials);
    }
    let circuits = |node: &Node| node.net.board.status().reach.circuits;
    for node in [&first, &second] {
        until(node, "it has both as guests", |status| status.reach.guests == 2 && status.reach.is_relay);
    }
    assert!(circuits(&first) + circuits(&second) >= 1);
    another.link.network.send(one.keys.node_id(), another.heartbeat(1));
    assert_eq!(one.message().envelope(), &another.heartbeat(1));
    // Whoever is invited by one of them comes through the relay too.
    let listening = one.net.board.status().listening;
    let invited: Vec<Multiaddr> = listening.iter().map(|text| text.parse().unwrap()).filter(is_relayed).collect();
    assert!(!invited.is_empty(), "{listening:?}");
    let guest = Keys::generate().unwrap();
    let probed = async_io::block_on(join::probe(&runtime, &guest, Some(network()), &invited[..1]));
    assert_eq!(probed, [Ok(one.keys.node_id())]);

    async_io::block_on(first.net.shut_down());
    for node in [&one, &another] {
        until(node, "one place is gone", |status| status.reach.relays == [second.keys.node_id().to_string()]);
        until(node, "both meet again", |status| status.reach.peers_through_relays == 1 && status.peers.len() == 2);
    }
    another.link.network.send(one.keys.node_id(), another.heartbeat(2));
    assert_eq!(one.message().envelope(), &another.heartbeat(2));
}

#[test]
fn who_does_not_want_to_be_a_relay_is_none() {
    let runtime = Pool::new();
    let unwilling = relay(&runtime, false, &[]);
    let (one, another) = (dialler(&runtime, &[&unwilling]), dialler(&runtime, &[&unwilling]));
    for node in [&one, &another] {
        node.until_connected();
    }
    thread::sleep(Duration::from_secs(3));
    for node in [&one, &another] {
        let status = node.net.board.status();
        assert!(status.reach.relays.is_empty() && status.peers.len() == 1, "{status:#?}");
    }
    assert!(!unwilling.net.board.status().reach.is_relay);
}

#[test]
fn an_address_is_tried_by_peers_and_found_good() {
    let runtime = Pool::new();
    let first = relay(&runtime, true, &[]);
    let connect = vec![first.address.clone()];
    let keys = (Keys::generate().unwrap(), BTreeSet::new());
    let second = Node::with_wishes(&runtime, network(), Vec::new(), Wishes { connect, ..Wishes::default() }, keys);
    until(&second, "the first one tried", |status| status.reach.direct == Some(true));
    assert!(second.net.board.status().reach.relays.is_empty());
    // The connection that was made to try is closed again, and the other stays.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(second.net.board.status().peers.len(), 1);
}
