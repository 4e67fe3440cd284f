//! A peer without a node behind it, for tests: it speaks libp2p as nodes do, and says on its streams whatever it is told to.

use std::future::Future;

use futures_lite::{AsyncRead, AsyncWrite};
use libp2p::{Multiaddr, PeerId};
use neuroshard_proto::NetworkId;

use super::behaviour::{BLOBS, CONTROL, PASSING};
use super::control::{self, Note};
use super::join::{Guest, JoinError};
use super::names;
use crate::keys::Keys;
use crate::runtime::Runtime;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Control,
    Passing,
    Blobs,
}

/// A connection to a node. It lasts as long as that node bears it.
#[derive(Clone, Debug)]
pub struct Stranger {
    network: NetworkId,
    peer: PeerId,
    notes: async_channel::Sender<Note>,
}

impl Stranger {
    /// Opens a stream; `None` if the node wants none of it.
    pub async fn open(&self, way: Way) -> Option<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
        let protocol = match way {
            Way::Control => names::protocol(self.network, CONTROL),
            Way::Passing => names::protocol(self.network, PASSING),
            Way::Blobs => BLOBS,
        };
        control::open(&self.notes, self.peer, &protocol).await.ok()
    }
}

/// Connects to the node at an address as one of its network, and does something there.
///
/// # Errors
/// If there is no node of this network.
pub async fn visit<T, F: Future<Output = T>>(
    runtime: &impl Runtime,
    keys: &Keys,
    network: NetworkId,
    address: Multiaddr,
    work: impl FnOnce(Stranger) -> F,
) -> Result<T, JoinError> {
    let mut guest = Guest::of_network(runtime, keys, network)?;
    let peers = guest.look_for(&[address]).await?;
    let [peer, ..] = peers[..] else { return Err(JoinError::NobodyThere { attempts: Vec::new() }) };
    let stranger = Stranger { network, peer, notes: guest.notes.0.clone() };
    Ok(guest.drive_while(work(stranger)).await)
}
