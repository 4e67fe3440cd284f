//! Peers that keep to no rule, in their own words.

use std::future::Future;
use std::time::Duration;

use neuroshard_host::keys::Keys;
use neuroshard_host::net::stranger::{self, Stranger, Way};
use neuroshard_host::runtime::Runtime;
use neuroshard_proto::{
    BatchId, Envelope, FormingMessage, FormingWord, Hash, Heartbeat, List, Message, NetworkId, QuorumId, QuorumMessage,
    Step, Time, Word, codec,
};
use smol::future::FutureExt as _;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Clone, Copy, Debug)]
struct Smol;

impl Runtime for Smol {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(task).detach();
    }

    async fn sleep(&self, duration: Duration) {
        smol::Timer::after(duration).await;
    }
}

/// What a peer does, and how a node speaks of it that cuts it off; `None` for what is borne without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    Garbage,
    Oversized,
    OtherVersion,
    Borrowed,
    QuorumFlood,
    FormingFlood,
    BlobFlood,
}

impl Attack {
    pub(crate) const ALL: [Self; 7] = [
        Self::Garbage,
        Self::Oversized,
        Self::OtherVersion,
        Self::Borrowed,
        Self::QuorumFlood,
        Self::FormingFlood,
        Self::BlobFlood,
    ];

    /// What the node says of it.
    pub(crate) const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Garbage => Some("what no honest node sends: envelope"),
            Self::Oversized => Some("a message of 4294967295 bytes, which none may have"),
            Self::OtherVersion => Some("the peer speaks wire version 7"),
            Self::Borrowed => Some("as if it were its own"),
            Self::QuorumFlood | Self::FormingFlood => Some("far more than its share"),
            Self::BlobFlood => None,
        }
    }

    /// Does it to the node at a port for as long as that bears it; returns the attacker's name.
    pub(crate) fn run(self, network: NetworkId, quorum: QuorumId, port: u16) -> String {
        let (keys, address) = (Keys::generate().unwrap(), format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        let own = keys.node_id().to_string();
        let peer = Peer { network, quorum, keys };
        let visit = async {
            let attack = |stranger: Stranger| async {
                let end = async {
                    smol::Timer::after(Duration::from_secs(20)).await;
                };
                peer.attack(self, stranger).or(end).await;
            };
            stranger::visit(&Smol, &peer.keys, network, address, attack).await
        };
        smol::block_on(visit).unwrap_or_else(|why| panic!("{self:?}: {why}"));
        own
    }
}

struct Peer {
    network: NetworkId,
    quorum: QuorumId,
    keys: Keys,
}

impl Peer {
    async fn attack(&self, attack: Attack, stranger: Stranger) {
        let heartbeat = |keys: &Keys| {
            let (node, time) = (keys.node_id(), Time::from_ms(1));
            let beat = Heartbeat { node, time, quorum: None, queue_depth: 0, free_bytes: 0, step: Step(0) };
            self.sealed(keys, &Message::Heartbeat(beat))
        };
        match attack {
            Attack::Garbage => self.say(&stranger, |_| framed(&[0xFF; 300]), 1).await,
            Attack::Oversized => self.say(&stranger, |_| u32::MAX.to_le_bytes().to_vec(), 1).await,
            Attack::OtherVersion => {
                let other = Envelope { wire_version: 7, ..heartbeat(&self.keys) };
                self.say(&stranger, |_| framed(&codec::encode(&other)), 1).await;
            }
            Attack::Borrowed => {
                let friend = heartbeat(&Keys::generate().unwrap());
                self.say(&stranger, |_| framed(&codec::encode(&friend)), 1).await;
            }
            Attack::QuorumFlood => {
                let words = |number| framed(&codec::encode(&self.sealed(&self.keys, &self.quorum_word(number))));
                self.say(&stranger, words, 100_000).await;
            }
            Attack::FormingFlood => {
                let ask = |number| FormingWord::Ask { question: number };
                let word = |number| FormingMessage { node: self.keys.node_id(), word: ask(number) };
                let message = |number| Message::Forming(Box::new(word(number)));
                let words = |number| framed(&codec::encode(&self.sealed(&self.keys, &message(number))));
                self.say(&stranger, words, 100_000).await;
            }
            Attack::BlobFlood => {
                for way in [Way::Passing, Way::Blobs, Way::Blobs, Way::Blobs, Way::Blobs, Way::Blobs, Way::Blobs] {
                    ask_for_blobs(&stranger, way).await;
                }
            }
        }
    }

    fn sealed(&self, keys: &Keys, message: &Message) -> Envelope {
        Envelope::seal(self.network, message, |digest| keys.sign(digest))
    }

    /// Words of the quorum that a member could say, each of another shape, from one who is none.
    fn quorum_word(&self, number: u64) -> Message {
        let (batch, blob) = (BatchId(number), Hash::of_blob(&number.to_le_bytes()));
        let word = match number % 5 {
            0 => Word::Gather,
            1 => Word::Go { step: Step(number) },
            2 => Word::Forward { batch, index: u32::MAX, blob },
            3 => Word::Done { batch, loss_micro: i64::MIN, tokens: u64::MAX, squared_norms: List::default() },
            _ => Word::Lacks { batch, forward: 0, backward: 0, done: true },
        };
        let (quorum, node, term) = (self.quorum, self.keys.node_id(), u64::MAX);
        Message::Quorum(Box::new(QuorumMessage { quorum, node, term, word }))
    }

    /// Says so many things, and then nothing until the connection ends.
    async fn say(&self, stranger: &Stranger, what: impl Fn(u64) -> Vec<u8>, many: u64) {
        let Some(mut stream) = stranger.open(Way::Control).await else { return };
        for number in 0..many {
            if stream.write_all(&what(number)).await.is_err() {
                return;
            }
        }
        let _ = stream.flush().await;
        // A node never answers here: what can be read is the end. Another stream would take this one's place.
        let _ = stream.read(&mut [0; 1]).await;
    }
}

/// Asks for ten thousand blobs that nobody has and for the network's file as often, and reads next to nothing.
async fn ask_for_blobs(stranger: &Stranger, way: Way) {
    let Some(mut stream) = stranger.open(way).await else { return };
    let mut question = [0_u8; 41];
    let flood = async {
        for number in 0..20_000_u64 {
            let kind = u8::from(number % 2 == 0);
            question[0] = kind;
            question[1..33].fill(7 * kind);
            stream.write_all(&question).await?;
        }
        stream.flush().await?;
        stream.read_exact(&mut [0; 1]).await
    };
    let end = async {
        smol::Timer::after(Duration::from_secs(2)).await;
        Ok(())
    };
    let _: std::io::Result<()> = flood.or(end).await;
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}
