//! Blobs from honest holders, from holders that are not, and a whole network for those who join.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use neuroshard_proto::{Params, Preset};

use super::*;
use crate::home::Home;
use crate::net::behaviour::BLOBS;
use crate::net::fetch::{self, FetchFault};
use crate::net::join::{Guest, JoinError, Target, join};
use crate::net::library::{ASK_BYTES, Verdict};
use crate::net::outline::{Outline, PART_BYTES};
use crate::network::{Founding, Source};

pub(super) fn blob(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

type Fetched = Result<Vec<u8>, Vec<(PeerId, FetchFault)>>;

/// Fetches as a guest of these nodes, in this order.
fn fetch_from(runtime: &Pool, addresses: &[Multiaddr], hash: Hash, bytes_max: u64) -> Fetched {
    let keys = Keys::generate().unwrap();
    let mut guest = Guest::new(runtime, &keys, None).unwrap();
    let fetch = async {
        let mut peers = Vec::new();
        for address in addresses {
            peers.extend(guest.look_for(std::slice::from_ref(address)).await.unwrap());
        }
        let notes = guest.notes.0.clone();
        guest.drive_while(fetch::blob(&notes, &peers, hash, bytes_max)).await
    };
    async_io::block_on(control::within(PATIENCE, fetch)).expect("it comes in time")
}

fn faults(fetched: Fetched) -> Vec<FetchFault> {
    fetched.unwrap_err().into_iter().map(|(_, fault)| fault).collect()
}

#[test]
fn a_blob_comes_whole_whatever_its_size() {
    let runtime = Pool::new();
    let holder = Node::start(&runtime, network(), &[]);
    for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 20 * PART_BYTES + 17] {
        let blob = blob(bytes);
        let hash = holder.store.put(&blob).unwrap();
        assert_eq!(fetch_from(&runtime, std::slice::from_ref(&holder.address), hash, bytes), Ok(blob), "{bytes}");
    }
}

#[test]
fn several_holders_share_the_work_and_one_without_it_is_passed_over() {
    let runtime = Pool::new();
    let holders: Vec<_> = (0..3).map(|_| Node::start(&runtime, network(), &[])).collect();
    let blob = blob(64 * PART_BYTES);
    let hash = holders[1].store.put(&blob).unwrap();
    holders[2].store.put(&blob).unwrap();
    let addresses: Vec<_> = holders.iter().map(|holder| holder.address.clone()).collect();
    assert_eq!(fetch_from(&runtime, &addresses, hash, blob.len() as u64), Ok(blob));
    let given = |holder: &Node| holder.net.board.status().bytes_out / PART_BYTES;
    assert!(given(&holders[0]) == 0 && given(&holders[1]) >= 4 && given(&holders[2]) >= 4);
}

#[test]
fn what_nobody_has_and_what_is_too_large_is_said() {
    let runtime = Pool::new();
    let holder = Node::start(&runtime, network(), &[]);
    let address = [holder.address.clone()];
    assert_eq!(faults(fetch_from(&runtime, &address, Hash::of_blob(b"nothing"), 100)), [FetchFault::NotHere]);
    let hash = holder.store.put(&blob(101)).unwrap();
    assert_eq!(faults(fetch_from(&runtime, &address, hash, 100)), [FetchFault::TooLarge { bytes: 101 }]);
}

/// What a dishonest holder does with the parts of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    /// Gives other bytes, from this part on.
    Lie { from: u64 },
    /// Ends the stream instead.
    BreakOff { from: u64 },
    /// Announces more than a part has.
    Oversize,
}

/// A holder that knows the outline and plays a trick. It runs on a thread of its own until its listener goes with the test.
fn dishonest(runtime: &Pool, blob: Vec<u8>, trick: Trick) -> Multiaddr {
    let keys = Keys::generate().unwrap();
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
                    SwarmEvent::Behaviour(BehaviourEvent::Streams(StreamEvent::Came { protocol, stream, .. })) => {
                        assert_eq!(protocol, BLOBS);
                        runtime.spawn(play(stream, blob.clone(), trick));
                    }
                    _ => {}
                }
            }
        });
    });
    address.recv_blocking().unwrap()
}

async fn play(mut stream: Stream, blob: Vec<u8>, trick: Trick) {
    let outline = Outline::of(&blob).unwrap();
    let mut ask = [0; ASK_BYTES];
    while stream.read_exact(&mut ask).await.is_ok() {
        let part = u64::from_le_bytes(ask[33..].try_into().unwrap());
        let last = part + 1 == outline.parts();
        let (begin, length) = outline.range(part);
        let mut bytes = blob[begin as usize..(begin + length) as usize].to_vec();
        match trick {
            _ if ask[0] == 1 => bytes = outline.to_bytes(),
            Trick::Lie { from } if part >= from && !last => bytes[0] ^= 1,
            Trick::BreakOff { from } if part >= from && !last => return,
            Trick::Oversize => bytes = vec![0; PART_BYTES as usize + 1],
            Trick::Lie { .. } | Trick::BreakOff { .. } => {}
        }
        let head = [&[Verdict::Here as u8][..], &(bytes.len() as u32).to_le_bytes()].concat();
        let wrote = async {
            stream.write_all(&head).await?;
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        if wrote.await.is_err() {
            return;
        }
    }
}

#[test]
fn a_holder_that_lies_or_breaks_off_costs_only_what_it_did_not_give() {
    let runtime = Pool::new();
    let blob = blob(40 * PART_BYTES);
    let honest = Node::start(&runtime, network(), &[]);
    let hash = honest.store.put(&blob).unwrap();
    for trick in [Trick::Lie { from: 3 }, Trick::BreakOff { from: 5 }, Trick::Oversize] {
        let liar = dishonest(&runtime, blob.clone(), trick);
        let fetched = fetch_from(&runtime, &[liar.clone(), honest.address.clone()], hash, blob.len() as u64);
        assert_eq!(fetched.as_ref(), Ok(&blob), "{trick:?}");
        let alone = faults(fetch_from(&runtime, &[liar], hash, blob.len() as u64));
        let caught = match trick {
            Trick::Lie { .. } | Trick::Oversize => alone == [FetchFault::Wrong],
            Trick::BreakOff { .. } => {
                alone.len() == 3 && alone.iter().all(|one| matches!(one, FetchFault::Broken { .. }))
            }
        };
        assert!(caught, "{trick:?}: {alone:?}");
    }
}

/// A founded network, and the home it lies in.
fn found() -> (tempfile::TempDir, Home, crate::network::Network) {
    let scratch = tempfile::tempdir().unwrap();
    let (home, none) = Home::open(scratch.path(), 1 << 30).unwrap();
    assert!(none.is_none());
    let (model, training) = Preset::Nano.specs();
    let founders = vec![home.founder()].try_into().unwrap();
    let (seed, source, params) = (Hash::of_blob(b"seed"), Source::Synthetic, Params::DEFAULT);
    let founding =
        Founding { model, training, params, seed, source, founders, allocations: Default::default(), first: None };
    let (network, _) = home.found(&founding, &mut |_, _| {}).unwrap();
    (scratch, home, network)
}

#[test]
fn who_joins_has_the_network_as_its_founder_has_it_and_fetches_nothing_twice() {
    let runtime = Pool::new();
    let (_founded, founder, network) = found();
    let id = network.genesis.network();
    let node = Node::with_file(&runtime, id, network.to_file(), &[]);
    let mut bytes = 0;
    for shard in network.manifest.shards.iter() {
        let blob = founder.store.get(&shard.hash).unwrap();
        bytes += blob.len() as u64;
        node.store.put(&blob).unwrap();
    }
    let scratch = tempfile::tempdir().unwrap();
    let (home, _) = Home::open(scratch.path(), 1 << 30).unwrap();
    // The first half came before the join that broke off.
    let shards = network.manifest.shards.len();
    for shard in network.manifest.shards.iter().take(shards / 2) {
        home.store.put(&founder.store.get(&shard.hash).unwrap()).unwrap();
    }
    let target = Target { network: Some(id), addresses: vec![node.address.clone()] };
    let mut heard = Vec::new();
    let joined = async_io::block_on(join(&runtime, &home, &target, &mut |done, of| heard.push((done, of)))).unwrap();
    assert_eq!(joined, network);
    assert!(heard.is_sorted() && heard.last() == Some(&(bytes, bytes)), "{heard:?}");
    assert!(network.manifest.shards.iter().all(|shard| home.store.get(&shard.hash).is_ok()));
    assert_eq!(crate::network::Network::read(home.paths()).unwrap(), Some(network));
    assert_eq!(std::fs::read_to_string(home.paths().peers()).unwrap(), format!("{}\n", node.address));
    let given = node.net.board.status().bytes_out;
    assert!(given < bytes * 3 / 4, "{given} of {bytes} bytes");
}

#[test]
fn a_node_of_another_network_does_not_pass_for_the_one_invited_to() {
    let runtime = Pool::new();
    let (_founded, _founder, network) = found();
    let (wanted, there) = (NetworkId(Hash::of_blob(b"wanted")), network.genesis.network());
    let scratch = tempfile::tempdir().unwrap();
    let (home, _) = Home::open(scratch.path(), 1 << 30).unwrap();
    let attempt = |node: &Node| {
        let target = Target { network: Some(wanted), addresses: vec![node.address.clone()] };
        async_io::block_on(join(&runtime, &home, &target, &mut |_, _| {})).unwrap_err()
    };
    // One that says so, one that lies about it and has the wrong genesis, and one whose file is damaged.
    let error = attempt(&Node::with_file(&runtime, there, network.to_file(), &[]));
    assert!(matches!(error, JoinError::NobodyThere { .. }) && error.to_string().contains("not the one of the invite"));
    let error = attempt(&Node::with_file(&runtime, wanted, network.to_file(), &[]));
    assert!(matches!(error, JoinError::NoFacts { .. }) && error.to_string().contains("the invite is to"), "{error}");
    let error = attempt(&Node::with_file(&runtime, wanted, vec![0; 100], &[]));
    assert!(error.to_string().contains("do not have the hash they should have"), "{error}");
    assert_eq!(crate::network::Network::read(home.paths()).unwrap(), None);
}

/// A way to a node that is cut after so many bytes from it, each time it is taken, so many times; then it holds.
fn cut_way(to: &Multiaddr, bytes: u64, times: u32) -> (Multiaddr, Arc<AtomicU32>) {
    let to = tcp::socket_address(to).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (door, cuts) = (tcp::multiaddr(listener.local_addr().unwrap()), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&cuts);
    thread::spawn(move || {
        for visitor in listener.incoming() {
            let (visitor, node) = (visitor.unwrap(), TcpStream::connect(to).unwrap());
            let (mut asking, mut answering) = (visitor.try_clone().unwrap(), node.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut asking, &mut answering));
            let (counted, (mut here, mut there)) = (Arc::clone(&counted), (visitor, node));
            thread::spawn(move || {
                if counted.load(Ordering::Relaxed) >= times {
                    let _ = std::io::copy(&mut there, &mut here);
                } else if std::io::copy(&mut (&mut there).take(bytes), &mut here).is_ok_and(|passed| passed == bytes) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                let _ = (here.shutdown(Shutdown::Both), there.shutdown(Shutdown::Both));
            });
        }
    });
    (door, cuts)
}

#[test]
fn who_joins_over_a_way_that_is_cut_goes_on_where_it_was() {
    let runtime = Pool::new();
    let (_founded, founder, network) = found();
    let node = Node::with_file(&runtime, network.genesis.network(), network.to_file(), &[]);
    let shards: Vec<_> = network.manifest.shards.iter().map(|shard| founder.store.get(&shard.hash).unwrap()).collect();
    node.store.put_all(&shards.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let whole: u64 = shards.iter().map(|shard| shard.len() as u64).sum();
    let attempt = |door, progress: &mut dyn FnMut(u64, u64)| {
        let scratch = tempfile::tempdir().unwrap();
        let (home, _) = Home::open(scratch.path(), 1 << 30).unwrap();
        let target = Target { network: None, addresses: vec![door] };
        async_io::block_on(join(&runtime, &home, &target, progress))
    };
    let (door, cuts) = cut_way(&node.address, whole / 2, 2);
    let mut heard = Vec::new();
    assert_eq!(attempt(door, &mut |done, _| heard.push(done)).unwrap(), network);
    assert_eq!(cuts.load(Ordering::Relaxed), 2);
    assert!(heard.is_sorted() && heard.last() == Some(&whole), "nothing was lost: {heard:?}");
    assert!(node.net.board.status().bytes_out < whole * 3 / 2, "and little came twice");

    // A way that is cut each time before a blob has come is given up.
    let (door, cuts) = cut_way(&node.address, network.to_file().len() as u64 + 8192, u32::MAX);
    let error = attempt(door, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, JoinError::NoBlob { .. }), "{error}");
    assert!(error.to_string().contains("join again to go on") && cuts.load(Ordering::Relaxed) > 3, "{error}");
}
