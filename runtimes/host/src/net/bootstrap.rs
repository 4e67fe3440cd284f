//! Addresses to begin with: those the operator names, and those of peers that were met before.
//!
//! Each is dialled until it is connected, at waits that double. What was met is written to the data directory, so that a node
//! that starts again needs no address.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId, noise};

use super::{address, tcp};
use crate::files::{self, Access};

/// Waits between two dials of an address.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// An address of no use is tried again after this.
const WAIT_USELESS: Duration = Duration::from_secs(600);
/// Addresses in the file, and bytes of it.
const MET_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How often the file is written if something changed.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// Addresses kept of a peer.
const ADDRESSES_A_PEER: usize = 4;

/// One address to connect to.
#[derive(Debug)]
struct Entry {
    /// Without the peer's name.
    address: Multiaddr,
    /// Who is expected there, or answered there.
    peer: Option<PeerId>,
    named_by_operator: bool,
    connected: bool,
    /// The attempt that is under way.
    dialling: Option<ConnectionId>,
    failures: u32,
    next: Instant,
}

/// The addresses, and the file they are kept in.
#[derive(Debug)]
pub(super) struct Bootstrap {
    entries: Vec<Entry>,
    me: PeerId,
    file: Option<PathBuf>,
    met: BTreeMap<PeerId, Vec<Multiaddr>>,
    changed: bool,
    save_at: Instant,
}

/// The addresses that a file of peers holds; none if there is no such file.
pub fn kept(file: &Path) -> Vec<Multiaddr> {
    let text = files::read_limited(file, FILE_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| line.trim().parse().ok()).take(MET_MAX).collect()
}

/// Addresses as the file holds them.
pub(super) fn lines(addresses: impl Iterator<Item = Multiaddr>) -> String {
    addresses.take(MET_MAX).map(|address| format!("{address}\n")).collect()
}

/// Splits `/p2p/NAME` off an address.
pub(super) fn split(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.pop() {
        Some(Protocol::P2p(peer)) => (address, Some(peer)),
        Some(other) => (address.with(other), None),
        None => (address, None),
    }
}

impl Bootstrap {
    /// The addresses that the operator names, and those in the file.
    pub(super) fn new(named: &[Multiaddr], file: Option<PathBuf>, me: PeerId) -> Self {
        let now = Instant::now();
        let kept = file.as_deref().map(kept).unwrap_or_default().into_iter();
        let mut this = Self { entries: Vec::new(), me, file, met: BTreeMap::new(), changed: false, save_at: now };
        let all = named.iter().cloned().map(|address| (address, true)).chain(kept.map(|address| (address, false)));
        for (address, named_by_operator) in all {
            let (address, peer) = split(address);
            let known = this.entries.iter().any(|entry| entry.address == address);
            if known || peer == Some(me) || !address::is_dialable(&address) {
                continue;
            }
            if let Some(peer) = peer {
                this.met.entry(peer).or_default().push(address.clone());
            }
            let (connected, dialling, failures, next) = (false, None, 0, now);
            this.entries.push(Entry { address, peer, named_by_operator, connected, dialling, failures, next });
        }
        this
    }

    /// What is to be dialled now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<DialOpts> {
        let due =
            self.entries.iter_mut().filter(|entry| !entry.connected && entry.dialling.is_none() && entry.next <= now);
        let dial = |entry: &mut Entry| {
            let options = match entry.peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .addresses(vec![entry.address.clone()])
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .build(),
                None => DialOpts::unknown_peer_id().address(entry.address.clone()).build(),
            };
            entry.dialling = Some(options.connection_id());
            options
        };
        due.map(dial).collect()
    }

    /// There is a connection to a peer, whoever made it; `dialled` is the address if this node did.
    pub(super) fn on_connected(&mut self, peer: PeerId, dialled: Option<&Multiaddr>) {
        let dialled = dialled.map(|address| split(address.clone()).0);
        let leads_there = |entry: &&mut Entry| entry.peer == Some(peer) || dialled.as_ref() == Some(&entry.address);
        for entry in self.entries.iter_mut().filter(leads_there) {
            (entry.peer, entry.connected, entry.dialling, entry.failures) = (Some(peer), true, None, 0);
        }
    }

    /// The last connection to a peer ended.
    pub(super) fn on_closed(&mut self, peer: &PeerId) {
        let now = Instant::now();
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == Some(*peer) && entry.connected) {
            entry.connected = false;
            entry.next = entry.next.max(now + WAIT_FIRST);
        }
    }

    /// A peer was cut off: which of the operator's addresses led to it.
    pub(super) fn on_useless(&mut self, peer: &PeerId) -> Option<String> {
        self.met.remove(peer);
        self.changed = true;
        let next = Instant::now() + WAIT_USELESS;
        let mut named = None;
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == Some(*peer)) {
            entry.next = next;
            named = named.or_else(|| entry.named_by_operator.then(|| entry.address.to_string()));
        }
        named
    }

    /// A dial failed: the operator's address that it was for and why, where that is news.
    pub(super) fn on_failure(
        &mut self,
        now: Instant,
        dial: ConnectionId,
        error: &DialError,
    ) -> Option<(String, String)> {
        let place = self.entries.iter().position(|entry| entry.dialling == Some(dial))?;
        let own = match error {
            DialError::LocalPeerId { .. } => true,
            DialError::WrongPeerId { obtained, .. } => *obtained == self.me,
            _ => false,
        };
        if own {
            // This node's own address is no peer.
            self.entries.swap_remove(place);
            return None;
        }
        let entry = self.entries.get_mut(place)?;
        entry.dialling = None;
        entry.next = now + WAIT_FIRST.saturating_mul(1 << entry.failures.min(16)).min(WAIT_MAX);
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            // It is connected already, or about to be.
            return None;
        }
        entry.failures = entry.failures.saturating_add(1);
        // Said once, and now and then again.
        let news = entry.named_by_operator && (entry.failures == 3 || entry.failures.is_multiple_of(30));
        news.then(|| (entry.address.to_string(), in_words(error)))
    }

    /// A peer is of this network and says where it can be reached.
    pub(super) fn on_member(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let addresses: Vec<_> =
            addresses.iter().take(ADDRESSES_A_PEER).map(|address| split(address.clone()).0).collect();
        let room = self.met.len() < MET_MAX || self.met.contains_key(&peer);
        if room && !addresses.is_empty() && self.met.get(&peer) != Some(&addresses) {
            self.met.insert(peer, addresses);
            self.changed = true;
        }
    }

    /// Writes the file if there is news and it is time.
    pub(super) fn save_if_due(&mut self, now: Instant) {
        if self.changed && now >= self.save_at {
            self.save_at = now + SAVE_EVERY;
            self.save();
        }
    }

    /// The file's content: an address a line, those that nobody was met at yet last.
    fn text(&self) -> String {
        let met = self.met.iter();
        let met = met.flat_map(|(peer, all)| all.iter().map(|address| address.clone().with(Protocol::P2p(*peer))));
        let known = |entry: &&Entry| entry.peer.is_some_and(|peer| self.met.contains_key(&peer));
        let others = self.entries.iter().filter(|entry| !known(entry) && entry.next < Instant::now() + WAIT_MAX);
        let others = others.map(|entry| entry.address.clone());
        lines(met.chain(others))
    }

    fn save(&mut self) {
        self.changed = false;
        let Some(file) = self.file.clone() else { return };
        let text = self.text();
        // A disk that hangs must not hold up the network; a file that is not written is only an older one.
        let write = move || {
            if let Err(error) = files::write_durably(&file, text.as_bytes(), Access::Default) {
                tracing::warn!(%error, "the addresses of peers cannot be kept");
            }
        };
        let _ = std::thread::Builder::new().name("peers".into()).spawn(write);
    }
}

/// Whether a dial failed for a reason that may be gone in a moment: not if nobody listens there, or somebody else.
pub(super) fn may_pass(error: &DialError) -> bool {
    match error {
        DialError::Transport(attempts) => attempts.iter().all(|(_, error)| root(error) != tcp::NOBODY_LISTENS),
        _ => false,
    }
}

/// What a dial says where there was a connection, but no greeting.
const NO_NODE: &str = "what answers there does not speak as a node does: the port is another program's, or something in \
                       between cuts the connection";

/// Why a dial failed, in words.
pub(super) fn in_words(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) => match attempts.first() {
            Some((_, error)) => root(error),
            None => "there is no address".into(),
        },
        DialError::WrongPeerId { .. } => "another node answers there than the one that was named".into(),
        DialError::LocalPeerId { .. } => "this is the node's own address".into(),
        other => other.to_string(),
    }
}

/// The error inside another one. An I/O error that wraps something passes over it when asked for its source.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
}

/// What is at the bottom of a transport's error, in words.
pub(super) fn root(error: &libp2p::TransportError<std::io::Error>) -> String {
    match error {
        libp2p::TransportError::MultiaddrNotSupported(_) => "addresses of this kind cannot be dialled".into(),
        libp2p::TransportError::Other(error) => {
            let errors = || std::iter::successors(Some(error as &(dyn Error + 'static)), |error| inner(*error));
            if errors().any(<dyn Error>::is::<noise::Error>) {
                return NO_NODE.into();
            }
            errors().last().map(ToString::to_string).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn refused(address: &Multiaddr) -> DialError {
        let error = std::io::Error::other(std::io::Error::other(tcp::NOBODY_LISTENS));
        DialError::Transport(vec![(address.clone(), libp2p::TransportError::Other(error))])
    }

    #[test]
    fn an_address_is_dialled_at_longer_and_longer_waits_and_complained_of_once() {
        let address: Multiaddr = "/ip4/203.0.113.7/tcp/1".parse().unwrap();
        let mut bootstrap = Bootstrap::new(std::slice::from_ref(&address), None, peer());
        let mut now = Instant::now();
        let mut told = Vec::new();
        for round in 0..10 {
            let due = bootstrap.due(now);
            assert_eq!(due.len(), 1, "{round}");
            assert!(bootstrap.due(now).is_empty(), "one attempt at a time");
            told.extend(bootstrap.on_failure(now, due[0].connection_id(), &refused(&address)));
            assert!(bootstrap.due(now).is_empty(), "not again at once");
            now += WAIT_MAX;
        }
        assert_eq!(told, [(address.to_string(), tcp::NOBODY_LISTENS.to_owned())]);
    }

    #[test]
    fn who_is_connected_is_not_dialled_until_it_left_and_oneself_never() {
        let (me, other) = (peer(), peer());
        let at =
            |peer: PeerId, port: u16| -> Multiaddr { format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}").parse().unwrap() };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("peers");
        std::fs::write(&file, lines([at(me, 1), at(other, 2)].into_iter()) + "nonsense\n").unwrap();
        let unnamed: Multiaddr = "/ip4/127.0.0.1/tcp/3".parse().unwrap();
        let mut bootstrap = Bootstrap::new(&[unnamed], Some(file), me);
        // The other one came by itself.
        bootstrap.on_connected(other, None);
        let later = Instant::now() + WAIT_MAX;
        let due = bootstrap.due(later);
        assert_eq!(due.len(), 1);
        // What was not named turns out to be this node.
        let address = "/ip4/127.0.0.1/tcp/3".parse().unwrap();
        let own = DialError::LocalPeerId { address };
        assert_eq!(bootstrap.on_failure(Instant::now(), due[0].connection_id(), &own), None);
        assert!(bootstrap.due(later).is_empty());
        bootstrap.on_closed(&other);
        assert_eq!(bootstrap.due(later).len(), 1);
    }
}
