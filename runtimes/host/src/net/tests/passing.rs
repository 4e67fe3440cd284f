//! Blobs from memory to memory, among members of a plan, with strangers, and with a member that breaks the rules.

use neuroshard_core::FetchFault;
use neuroshard_proto::RequestId;

use super::blobs::blob;
use super::*;
use crate::net::behaviour::PASSING;
use crate::net::library::{Verdict, give};
use crate::net::outline::{Outline, PART_BYTES};
use crate::peers::{Fetch, Keep};

type Fetched = (RequestId, Result<u64, FetchFault>);

impl Node {
    fn ask(&mut self, id: u64, hash: Hash, from: &Self, keep: Keep) {
        let wanted = Fetch { id: RequestId(id), hash, from: from.keys.node_id(), keep };
        assert!(self.link.network.fetch(wanted), "the network takes it");
    }

    fn fetched(&self) -> Fetched {
        self.hear(|heard| match heard {
            Heard::Fetched { id, result, .. } => Some((id, result)),
            _ => None,
        })
    }
}

/// Nodes of one plan, each connected to the first.
fn quorum(runtime: &Pool, members: usize) -> Vec<Node> {
    let keys: Vec<Keys> = (0..members).map(|_| Keys::generate().unwrap()).collect();
    let all: BTreeSet<NodeId> = keys.iter().map(Keys::node_id).collect();
    let mut nodes: Vec<Node> = Vec::new();
    for keys in keys {
        let first: Vec<Multiaddr> = nodes.first().map(|node| node.address.clone()).into_iter().collect();
        let connect: Vec<&Multiaddr> = first.iter().collect();
        let node = Node::with_plan(runtime, network(), Vec::new(), &connect, (keys, all.clone()));
        if !first.is_empty() {
            node.until_connected();
        }
        nodes.push(node);
    }
    if members > 1 {
        nodes[0].until_connected();
    }
    nodes
}

#[test]
fn streams_of_any_size_pass_in_the_order_of_the_questions() {
    let runtime = Pool::new();
    let [first, mut second] = <[Node; 2]>::try_from(quorum(&runtime, 2)).map_err(|_| "two").unwrap();
    let sizes = [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 17, 2 << 20];
    let blobs: Vec<_> = sizes.map(blob).into();
    for (id, bytes) in (0..).zip(&blobs) {
        let hash = first.store.put_transient(bytes.clone()).unwrap();
        second.ask(id, hash, &first, Keep::Memory);
    }
    for (id, bytes) in (0..).zip(&blobs) {
        assert_eq!(second.fetched(), (RequestId(id), Ok(bytes.len() as u64)));
        let here = second.store.passing(&Hash::of_blob(bytes)).unwrap();
        assert_eq!(&here.bytes, bytes);
    }
    assert_eq!(second.store.bytes_used(), 0, "nothing of it is on the disk");
    // What was dropped is not there any more, and the stream is as good as before.
    let gone = Hash::of_blob(&blobs[1]);
    first.store.remove(&[gone]).unwrap();
    second.ask(10, gone, &first, Keep::Memory);
    second.ask(11, Hash::of_blob(&blobs[2]), &first, Keep::Memory);
    assert_eq!(second.fetched(), (RequestId(10), Err(FetchFault::Missing)));
    assert_eq!(second.fetched(), (RequestId(11), Ok(PART_BYTES)));
}

#[test]
fn who_is_not_in_the_plan_reads_nothing_that_passes_and_what_is_stored_all_the_same() {
    let runtime = Pool::new();
    let members = quorum(&runtime, 1);
    let first = &members[0];
    // A stranger whose own plan has both of them.
    let keys = Keys::generate().unwrap();
    let plan: BTreeSet<NodeId> = [first.keys.node_id(), keys.node_id()].into();
    let mut stranger = Node::with_plan(&runtime, network(), Vec::new(), &[&first.address], (keys, plan));
    stranger.until_connected();
    let passing = first.store.put_transient(blob(1000)).unwrap();
    let stored = first.store.put(&blob(2 * PART_BYTES)).unwrap();
    stranger.ask(1, passing, first, Keep::Memory);
    assert_eq!(stranger.fetched(), (RequestId(1), Err(FetchFault::Unreachable)));
    stranger.ask(2, passing, first, Keep::Disk);
    assert_eq!(stranger.fetched(), (RequestId(2), Err(FetchFault::Missing)));
    stranger.ask(3, stored, first, Keep::Disk);
    assert_eq!(stranger.fetched(), (RequestId(3), Ok(2 * PART_BYTES)));
    assert_eq!(stranger.store.get_stored(&stored).unwrap(), blob(2 * PART_BYTES));
}

#[test]
fn a_neighbour_that_leaves_ends_what_was_asked_of_it() {
    let runtime = Pool::new();
    let [first, mut second] = <[Node; 2]>::try_from(quorum(&runtime, 2)).map_err(|_| "two").unwrap();
    let hash = first.store.put_transient(blob(100)).unwrap();
    second.ask(1, hash, &first, Keep::Memory);
    assert_eq!(second.fetched(), (RequestId(1), Ok(100)));
    let Node { net, keys, .. } = first;
    async_io::block_on(net.shut_down());
    let begun = Instant::now();
    let wanted = Fetch { id: RequestId(2), hash, from: keys.node_id(), keep: Keep::Memory };
    assert!(second.link.network.fetch(wanted));
    assert_eq!(second.fetched(), (RequestId(2), Err(FetchFault::Unreachable)));
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for a time limit");
}

/// What a member does wrong with a blob.
#[derive(Clone, Copy, Debug)]
enum Trick {
    OtherBytes,
    OtherPart,
    OtherOutline,
    TooLarge,
    BreakOff,
}

/// A member that answers every question with a trick, on a thread of its own.
fn dishonest(runtime: &Pool, keys: &Keys, trick: Trick) -> Multiaddr {
    let board = Board::default();
    let mut swarm =
        behaviour::swarm(runtime, &keys.network_identity(), Some(network()), Reach::Listening, &board).unwrap();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let (sender, address) = async_channel::bounded(1);
    let runtime = runtime.clone();
    thread::spawn(move || {
        async_io::block_on(async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => drop(sender.try_send(address)),
                    SwarmEvent::Behaviour(BehaviourEvent::Streams(StreamEvent::Came { protocol, stream, .. }))
                        if protocol == names::protocol(network(), PASSING) =>
                    {
                        runtime.spawn(async move { drop(play(stream, trick).await) });
                    }
                    _ => {}
                }
            }
        });
    });
    address.recv_blocking().unwrap()
}

/// The blob that is asked for.
fn wanted() -> Vec<u8> {
    blob(2 * PART_BYTES)
}

async fn play(mut stream: Stream, trick: Trick) -> std::io::Result<()> {
    let blob = wanted();
    let outline = Outline::of(&blob).unwrap().to_bytes();
    let mut hash = [0; 32];
    loop {
        stream.read_exact(&mut hash).await?;
        match trick {
            Trick::OtherBytes => give(&mut stream, Verdict::Here, &blob[1..1000]).await?,
            Trick::OtherPart => {
                give(&mut stream, Verdict::InParts, &outline).await?;
                give(&mut stream, Verdict::Here, &blob[PART_BYTES as usize..]).await?;
            }
            Trick::OtherOutline => give(&mut stream, Verdict::InParts, &outline[..outline.len() - 32]).await?,
            Trick::TooLarge => {
                stream.write_all(&[&[Verdict::Here as u8][..], &u32::MAX.to_le_bytes()].concat()).await?;
                stream.flush().await?;
            }
            Trick::BreakOff => {
                give(&mut stream, Verdict::InParts, &outline).await?;
                return Ok(());
            }
        }
    }
}

#[test]
fn what_a_dishonest_member_gives_is_not_taken_and_asking_goes_on() {
    let runtime = Pool::new();
    let hash = Hash::of_blob(&wanted());
    for trick in [Trick::OtherBytes, Trick::OtherPart, Trick::OtherOutline, Trick::TooLarge, Trick::BreakOff] {
        let (keys, liar) = (Keys::generate().unwrap(), Keys::generate().unwrap());
        let address = dishonest(&runtime, &liar, trick);
        let plan = [keys.node_id(), liar.node_id()].into();
        let mut node = Node::with_plan(&runtime, network(), Vec::new(), &[&address], (keys, plan));
        node.until_connected();
        let fault = if matches!(trick, Trick::BreakOff) { FetchFault::Unreachable } else { FetchFault::Damaged };
        for id in 0..3 {
            let wanted = Fetch { id: RequestId(id), hash, from: liar.node_id(), keep: Keep::Memory };
            assert!(node.link.network.fetch(wanted));
            assert_eq!(node.fetched(), (RequestId(id), Err(fault)), "{trick:?}");
        }
        assert_eq!(node.store.transient_bytes(), 0, "{trick:?}");
    }
}

#[test]
fn what_is_larger_than_a_stream_can_be_and_what_finds_no_room_is_refused() {
    let runtime = Pool::new();
    let [first, mut second] = <[Node; 2]>::try_from(quorum(&runtime, 2)).map_err(|_| "two").unwrap();
    let large = first.store.put_transient(blob((2 << 20) + 1)).unwrap();
    second.ask(1, large, &first, Keep::Memory);
    assert_eq!(second.fetched(), (RequestId(1), Err(FetchFault::Damaged)));
    let room = crate::store::TRANSIENT_BYTES_MAX - 10;
    second.store.put_transient(vec![0; room as usize]).unwrap();
    let small = first.store.put_transient(blob(11)).unwrap();
    second.ask(2, small, &first, Keep::Memory);
    assert_eq!(second.fetched(), (RequestId(2), Err(FetchFault::Full)));
}
