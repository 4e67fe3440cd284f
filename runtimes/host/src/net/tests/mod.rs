//! Real connections over loopback, among honest nodes and with peers that break the rules.

mod blobs;
mod passing;
mod relays;

use std::future::Future;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future};
use libp2p::gossipsub::IdentTopic;
use libp2p::swarm::SwarmEvent;
use libp2p::{PeerId, Stream, Swarm, identify};
use neuroshard_proto::chain::{Action, Author, Transaction};
use neuroshard_proto::{Amount, Hash, Heartbeat, Message, NodeId, OwnerId, Reject, Step, Time, Verified};

use super::behaviour::{Behaviour, BehaviourEvent};
use super::streams::StreamEvent;
use super::*;
use crate::directory::DataDirectory;
use crate::net::quota::Misconduct;
use crate::store::Opening;

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two threads for all tasks of all nodes of a test.
#[derive(Clone)]
struct Pool(Arc<async_executor::Executor<'static>>);

impl Pool {
    fn new() -> Self {
        let executor = Arc::new(async_executor::Executor::new());
        for _ in 0..2 {
            let executor = Arc::downgrade(&executor);
            thread::spawn(move || {
                while let Some(executor) = executor.upgrade() {
                    let pause = async {
                        async_io::Timer::after(Duration::from_millis(50)).await;
                    };
                    async_io::block_on(executor.run(pause));
                }
            });
        }
        Self(executor)
    }
}

impl Runtime for Pool {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        async_io::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task).detach();
    }

    async fn sleep(&self, duration: Duration) {
        async_io::Timer::after(duration).await;
    }
}

fn network() -> NetworkId {
    NetworkId(Hash::of_blob(b"a network"))
}

/// A node's network, without the node.
struct Node {
    _scratch: tempfile::TempDir,
    store: Arc<Store>,
    keys: Keys,
    net: Net,
    link: Link,
    address: Multiaddr,
}

impl Node {
    fn start(runtime: &Pool, network: NetworkId, connect: &[&Multiaddr]) -> Self {
        Self::with_file(runtime, network, b"the facts".to_vec(), connect)
    }

    /// A node that gives this file to those who join.
    fn with_file(runtime: &Pool, network: NetworkId, file: Vec<u8>, connect: &[&Multiaddr]) -> Self {
        Self::with_plan(runtime, network, file, connect, (Keys::generate().unwrap(), BTreeSet::new()))
    }

    /// A node with these keys, whose plan has these members.
    fn with_plan(
        runtime: &Pool,
        network: NetworkId,
        file: Vec<u8>,
        connect: &[&Multiaddr],
        (keys, members): (Keys, BTreeSet<NodeId>),
    ) -> Self {
        let connect = connect.iter().copied().cloned().collect();
        Self::with_wishes(runtime, network, file, Wishes { connect, ..Wishes::default() }, (keys, members))
    }

    /// A node that listens on loopback, and wishes for more.
    fn with_wishes(
        runtime: &Pool,
        network: NetworkId,
        file: Vec<u8>,
        wishes: Wishes,
        keys: (Keys, BTreeSet<NodeId>),
    ) -> Self {
        let wishes = Wishes { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..wishes };
        let mut node = Self::begin(runtime, network, file, &wishes, keys);
        let NetEvent::Listening { address } = node.event(|event| matches!(event, NetEvent::Listening { .. })) else {
            unreachable!()
        };
        node.address = address.parse().unwrap();
        node
    }

    /// A node as it is wished for.
    fn begin(
        runtime: &Pool,
        network: NetworkId,
        file: Vec<u8>,
        wishes: &Wishes,
        (keys, members): (Keys, BTreeSet<NodeId>),
    ) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(scratch.path()).unwrap();
        let store = Arc::new(Store::open(directory.paths(), Opening::Exclusive, 1 << 30).unwrap());
        let facts = Facts {
            network,
            file,
            store: Arc::clone(&store),
            members,
            passing_bytes_max: 2 << 20,
            state_bytes_max: 1 << 30,
        };
        let (net, link) = Net::start(runtime, &keys, facts, wishes).unwrap();
        Self { _scratch: scratch, store, keys, net, link, address: Multiaddr::empty() }
    }

    fn hear<T>(&self, mut wanted: impl FnMut(Heard) -> Option<T>) -> T {
        let hear = async {
            loop {
                if let Some(found) = wanted(self.link.heard.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        async_io::block_on(control::within(PATIENCE, hear)).expect("it is heard in time")
    }

    fn event(&self, suits: impl Fn(&NetEvent) -> bool) -> NetEvent {
        self.hear(|heard| match heard {
            Heard::Event(event) if suits(&event) => Some(event),
            _ => None,
        })
    }

    fn message(&self) -> Verified {
        self.hear(|heard| match heard {
            Heard::Message(message, _) => Some(message),
            Heard::Event(_) | Heard::Fetched { .. } => None,
        })
    }

    fn until_connected(&self) {
        self.event(|event| matches!(event, NetEvent::Connected { .. }));
    }

    fn heartbeat(&self, ms: u64) -> Envelope {
        heartbeat(&self.keys, network(), ms)
    }
}

fn heartbeat(keys: &Keys, network: NetworkId, ms: u64) -> Envelope {
    let (node, time) = (keys.node_id(), Time::from_ms(ms));
    let heartbeat = Heartbeat { node, time, quorum: None, queue_depth: 0, free_bytes: 0, step: Step(0) };
    Envelope::seal(network, &Message::Heartbeat(heartbeat), |digest| keys.sign(digest))
}

/// A transaction of a node, each with its own name.
fn transaction(keys: &Keys, number: u64) -> Envelope {
    let to = OwnerId::from_bytes([1; 32]);
    let action = Action::Transfer { to, amount: Amount::from_units(number) };
    let author = Author::Node { node: keys.node_id(), epoch: 0 };
    let message = Message::Transaction(Transaction { author, action });
    Envelope::seal(network(), &message, |digest| keys.sign(digest))
}

#[test]
fn what_is_sent_arrives_in_order_and_what_is_published_arrives_everywhere() {
    let runtime = Pool::new();
    let first = Node::start(&runtime, network(), &[]);
    let mut second = Node::start(&runtime, network(), &[&first.address]);
    let third = Node::start(&runtime, network(), &[&first.address]);
    for node in [&second, &third] {
        node.until_connected();
    }
    for ms in 1..=50 {
        second.link.network.send(first.keys.node_id(), second.heartbeat(ms));
    }
    for ms in 1..=50 {
        let heard = first.message();
        assert!(matches!(heard.message(), Message::Heartbeat(beat) if beat.time == Time::from_ms(ms)), "{heard:?}");
    }
    // The second and the third may know each other only through the first.
    let message = transaction(&second.keys, 7);
    let published = Instant::now();
    while published.elapsed() < PATIENCE && first.net.board.status().messages_in < 51 {
        second.link.network.publish(Topic::Transactions, message.clone());
        thread::sleep(Duration::from_millis(100));
    }
    for node in [&first, &third] {
        assert_eq!(node.message().envelope(), &message);
    }
    let status = first.net.board.status();
    assert!(status.bytes_in > 0 && status.bytes_out > 0, "{status:?}");
}

#[test]
fn a_peer_that_comes_is_greeted_with_the_last_heartbeat() {
    let runtime = Pool::new();
    let mut first = Node::start(&runtime, network(), &[]);
    first.link.network.greet(first.heartbeat(1));
    first.link.network.greet(first.heartbeat(2));
    let second = Node::start(&runtime, network(), &[&first.address]);
    assert_eq!(second.message().envelope(), &first.heartbeat(2));
}

#[test]
fn nodes_find_those_they_were_not_told_of() {
    let runtime = Pool::new();
    let first = Node::start(&runtime, network(), &[]);
    let others: Vec<_> = (0..3).map(|_| Node::start(&runtime, network(), &[&first.address])).collect();
    let deadline = Instant::now() + PATIENCE;
    while others.iter().any(|node| node.net.board.status().peers.len() < 3) {
        assert!(Instant::now() < deadline, "everybody is connected with everybody");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nodes_of_a_network_find_each_other_on_the_local_network() {
    let runtime = Pool::new();
    let node = |network| {
        let keys = (Keys::generate().unwrap(), BTreeSet::new());
        Node::with_wishes(&runtime, network, Vec::new(), Wishes { lan: true, ..Wishes::default() }, keys)
    };
    let (ours, theirs) = (NetworkId(Hash::of_blob(b"ours")), NetworkId(Hash::of_blob(b"theirs")));
    let (first, other, second) = (node(ours), node(theirs), node(ours));
    for (one, another) in [(&first, &second), (&second, &first)] {
        let event = one.event(|event| matches!(event, NetEvent::Connected { .. }));
        assert!(matches!(event, NetEvent::Connected { node, .. } if node == another.keys.node_id()), "{event:?}");
    }
    assert!(other.net.board.status().peers.is_empty());
}

#[test]
fn a_node_that_leaves_says_so_and_one_of_another_network_is_told_why_it_is_of_no_use() {
    let runtime = Pool::new();
    let first = Node::start(&runtime, network(), &[]);
    let second = Node::start(&runtime, network(), &[&first.address]);
    // Each learns by itself whom it is connected with, and only who was known leaves.
    second.until_connected();
    first.until_connected();
    let gone = second.keys.node_id();
    async_io::block_on(second.net.shut_down());
    assert_eq!(first.event(|event| matches!(event, NetEvent::Left { .. })), NetEvent::Left { node: gone, peers: 0 });

    let other = NetworkId(Hash::of_blob(b"another network"));
    let stranger = Node::start(&runtime, other, &[&first.address]);
    let useless = stranger.event(|event| matches!(event, NetEvent::Useless { .. }));
    let why = Misconduct::OtherNetwork { theirs: network() };
    assert_eq!(useless, NetEvent::Useless { address: first.address.to_string(), why });
    assert_eq!(first.net.board.status().excluded, 0);
}

#[test]
fn a_node_that_announces_an_address_tells_of_no_other() {
    let runtime = Pool::new();
    let announced: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
    let wishes = Wishes { announce: vec![announced.clone()], ..Wishes::default() };
    let keys = (Keys::generate().unwrap(), BTreeSet::new());
    let hidden = Node::with_wishes(&runtime, network(), Vec::new(), wishes, keys);
    let key = Keys::generate().unwrap().network_identity();
    let mut swarm = behaviour::swarm(&runtime, &key, Some(network()), Reach::Nowhere, &Board::default()).unwrap();
    swarm.dial(hidden.address.clone()).unwrap();
    let told = async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) = event {
                return info.listen_addrs;
            }
        }
    };
    let told = async_io::block_on(control::within(PATIENCE, told)).expect("it introduces itself in time");
    assert_eq!(told, [announced]);
}

#[test]
fn an_address_where_nobody_answers_is_named() {
    let runtime = Pool::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = tcp::multiaddr(closed);
    let node = Node::start(&runtime, network(), &[&closed]);
    let event = node.event(|event| matches!(event, NetEvent::Unreachable { .. }));
    assert!(
        matches!(&event, NetEvent::Unreachable { address, why } if *address == closed.to_string() && why.contains("refused")),
        "{event}"
    );
}

/// A peer that speaks libp2p and keeps to no other rule.
struct Hostile {
    swarm: Swarm<Behaviour>,
    keys: Keys,
    victim: PeerId,
}

impl Hostile {
    /// Connects to a node, and waits until that node has taken it for one of its network.
    fn meet(runtime: &Pool, victim: &Node) -> Self {
        let keys = Keys::generate().unwrap();
        let key = keys.network_identity();
        let mut swarm = behaviour::swarm(runtime, &key, Some(network()), Reach::Nowhere, &Board::default()).unwrap();
        swarm.dial(victim.address.clone()).unwrap();
        let victim_id = names::peer_of(&victim.keys.node_id()).unwrap();
        let mut this = Self { swarm, keys, victim: victim_id };
        let connected = async { victim.link.heard.recv().await };
        let connected = this.drive_until(connected).unwrap();
        assert!(matches!(connected, Heard::Event(NetEvent::Connected { .. })), "{connected:?}");
        this
    }

    fn drive_until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let swarm = &mut self.swarm;
        let drive = async {
            loop {
                swarm.select_next_some().await;
            }
        };
        let limited = control::within(PATIENCE, future.or(drive));
        async_io::block_on(limited).expect("it happens in time")
    }

    fn open_control(&mut self) -> Stream {
        self.swarm.behaviour_mut().streams.open(self.victim, names::protocol(network(), "control"));
        let open = async {
            loop {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(BehaviourEvent::Streams(StreamEvent::Opened { stream, .. })) = event {
                    return stream;
                }
            }
        };
        async_io::block_on(control::within(PATIENCE, open)).expect("a stream opens in time")
    }

    /// Writes bytes to a stream of control messages, and returns what the victim says of it.
    fn write(&mut self, victim: &Node, bytes: Vec<u8>) -> (NodeId, Misconduct, u64) {
        let mut stream = self.open_control();
        let attack = async move {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            future::pending::<()>().await;
        };
        self.during(attack, victim)
    }

    fn during(&mut self, attack: impl Future<Output = ()>, victim: &Node) -> (NodeId, Misconduct, u64) {
        let verdict = async {
            loop {
                if let Heard::Event(NetEvent::CutOff { node, why, out_s }) = victim.link.heard.recv().await.unwrap() {
                    return (node, why, out_s);
                }
            }
        };
        let never = async {
            attack.await;
            future::pending().await
        };
        self.drive_until(verdict.or(never))
    }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}

#[test]
fn a_peer_that_sends_garbage_is_cut_off_and_does_not_get_in_again() {
    let runtime = Pool::new();
    let victim = Node::start(&runtime, network(), &[]);
    let mut hostile = Hostile::meet(&runtime, &victim);
    let (node, why, out_s) = hostile.write(&victim, framed(&[0xFF; 300]));
    assert_eq!((node, out_s), (hostile.keys.node_id(), 600));
    assert!(matches!(why, Misconduct::Rejected(Reject::Envelope(_))), "{why}");
    let again = victim.address.clone();
    hostile.swarm.dial(again).unwrap();
    let refused = async {
        loop {
            let event = hostile.swarm.select_next_some().await;
            let ended = matches!(
                event,
                SwarmEvent::ConnectionClosed { num_established: 0, .. } | SwarmEvent::OutgoingConnectionError { .. }
            );
            if ended && !hostile.swarm.is_connected(&hostile.victim) {
                return;
            }
        }
    };
    async_io::block_on(control::within(PATIENCE, refused)).expect("it is refused");
    thread::sleep(Duration::from_millis(1100));
    let status = victim.net.board.status();
    assert!(status.peers.is_empty() && status.excluded == 1, "{status:?}");
    assert_eq!(status.cut_off, [("rejected".to_owned(), 1)].into());
}

#[test]
fn a_frame_larger_than_any_message_is_not_even_read() {
    let runtime = Pool::new();
    let victim = Node::start(&runtime, network(), &[]);
    let mut hostile = Hostile::meet(&runtime, &victim);
    let (_, why, _) = hostile.write(&victim, u32::MAX.to_le_bytes().to_vec());
    assert_eq!(why, Misconduct::Oversized { bytes: u32::MAX.into() });
}

#[test]
fn a_message_for_another_network_and_one_that_another_node_signed_are_not_taken() {
    let runtime = Pool::new();
    let victim = Node::start(&runtime, network(), &[]);
    let other = NetworkId(Hash::of_blob(b"another network"));
    let mut hostile = Hostile::meet(&runtime, &victim);
    let foreign = codec::encode(&heartbeat(&hostile.keys, other, 1));
    let (_, why, _) = hostile.write(&victim, framed(&foreign));
    assert_eq!(why, Misconduct::Rejected(Reject::OtherNetwork { theirs: other }));
    let mut hostile = Hostile::meet(&runtime, &victim);
    let friend = Keys::generate().unwrap();
    let (_, why, _) = hostile.write(&victim, framed(&codec::encode(&heartbeat(&friend, network(), 1))));
    assert_eq!(why, Misconduct::Borrowed { signer: friend.node_id() });
}

#[test]
fn a_flood_of_good_messages_is_slowed_down_and_then_ended() {
    let runtime = Pool::new();
    let victim = Node::start(&runtime, network(), &[]);
    let mut hostile = Hostile::meet(&runtime, &victim);
    let frame = framed(&codec::encode(&heartbeat(&hostile.keys, network(), 1)));
    let mut stream = hostile.open_control();
    let flood = async { while stream.write_all(&frame).await.is_ok() {} };
    let (_, why, _) = hostile.during(flood, &victim);
    assert_eq!(why, Misconduct::Flood);
    // It is not that all of them were taken in.
    let status = victim.net.board.status();
    assert!((2000..4000).contains(&status.messages_in), "{status:?}");
}

#[test]
fn gossip_that_nobody_signed_is_not_passed_on_and_its_bearer_is_cut_off() {
    let runtime = Pool::new();
    let victim = Node::start(&runtime, network(), &[]);
    let witness = Node::start(&runtime, network(), &[&victim.address]);
    witness.until_connected();
    victim.until_connected();
    let mut hostile = Hostile::meet(&runtime, &victim);
    let mut forged = transaction(&hostile.keys, 1);
    forged.signature.0[0] ^= 1;
    let frame = codec::encode(&forged);
    let verdict = loop {
        // It takes a moment until the two know each other's topics.
        let topic = IdentTopic::new(names::topic(network(), Topic::Transactions));
        let gossip = hostile.swarm.behaviour_mut().gossip.as_mut().unwrap();
        if gossip.publish(topic, frame.clone()).is_ok() {
            break hostile.during(async {}, &victim);
        }
        hostile.drive_until(async { async_io::Timer::after(Duration::from_millis(20)).await });
    };
    assert!(matches!(verdict.1, Misconduct::Rejected(Reject::Signature { .. })), "{}", verdict.1);
    assert_eq!(witness.net.board.status().messages_in, 0);
}

#[test]
fn a_peer_that_reads_nothing_holds_up_nobody_and_takes_bounded_room() {
    let runtime = Pool::new();
    let mut victim = Node::start(&runtime, network(), &[]);
    let hostile = Hostile::meet(&runtime, &victim);
    let reader = Node::start(&runtime, network(), &[&victim.address]);
    reader.until_connected();
    // The hostile one is not driven any more: its socket fills, and then its queue.
    let padded = {
        let keys = &victim.keys;
        move |ms| heartbeat(keys, network(), ms)
    };
    let (slow, quick) = (hostile.keys.node_id(), reader.keys.node_id());
    let frames: Vec<_> = (0..40_000).map(padded).collect();
    for frame in &frames {
        while victim.net.orders.len() > ORDERS_MAX / 2 {
            thread::yield_now();
        }
        victim.link.network.send(slow, frame.clone());
    }
    victim.link.network.send(quick, frames[0].clone());
    assert_eq!(reader.message().envelope(), &frames[0]);
    let status = victim.net.board.status();
    assert!(status.dropped.get("queue full").is_some_and(|count| *count > 100), "{status:?}");
    drop(hostile);
}

#[test]
fn a_stream_that_ends_in_the_middle_of_a_frame_is_no_crime() {
    let runtime = Pool::new();
    let victim = Node::start(&runtime, network(), &[]);
    let mut hostile = Hostile::meet(&runtime, &victim);
    for cut in [1, 3, 4, 50] {
        let frame = framed(&codec::encode(&heartbeat(&hostile.keys, network(), 1)));
        let mut stream = hostile.open_control();
        hostile.drive_until(async {
            stream.write_all(&frame[..cut]).await.unwrap();
            stream.close().await.unwrap();
            let _ = stream.read(&mut [0]).await;
        });
    }
    let frame = framed(&codec::encode(&heartbeat(&hostile.keys, network(), 2)));
    let mut stream = hostile.open_control();
    let heard = hostile.drive_until(async {
        stream.write_all(&frame).await.unwrap();
        stream.flush().await.unwrap();
        victim.link.heard.recv().await.unwrap()
    });
    assert!(matches!(heard, Heard::Message(..)), "{heard:?}");
}
