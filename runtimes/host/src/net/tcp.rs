//! TCP over `async-io`, as a transport of libp2p: IPv4 and IPv6, `/dns4` and `/dns6`, no delay, every dial with an end.
//!
//! Names are resolved on a thread of their own, because the system's resolver blocks. A dial goes out from a port that the
//! system chooses, unless this node listens behind a router and dials beyond it: then from the port on which it listens, so
//! that the router's hole for it is the one that others are told of. An address of the other side holds a limited number of
//! connections, whoever claims to be behind it.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::{Async, Timer};
use futures::io::{AsyncRead, AsyncWrite};
use futures_lite::{FutureExt as _, future};
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::address::{self, Distance};
use super::board::Board;

/// A dial that takes longer has failed. Who dials to try an address for another has ten seconds to say what came of it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(7);
/// Connections that one address may have here at a time. On this machine itself a swarm of nodes may run.
const INBOUND_MAX: u32 = 16;
const INBOUND_LOCAL_MAX: u32 = 48;
/// How long to wait after the system could not accept: it has no more file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// How often the machine's own addresses are looked up, for listeners on all of them.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);

/// What a dial says where the system refused it. On the way up errors are wrapped until only their text is left.
pub(super) const NOBODY_LISTENS: &str = "the connection is refused: nobody listens there";

/// The transport.
#[derive(Debug)]
pub(super) struct Tcp {
    board: Board,
    listeners: VecDeque<Listener>,
    events: VecDeque<TransportEvent<Upgrade, io::Error>>,
    seats: Seats,
}

impl Tcp {
    /// A transport that counts its bytes on a board.
    pub(super) fn new(board: Board) -> Self {
        Self { board, listeners: VecDeque::new(), events: VecDeque::new(), seats: Seats::default() }
    }
}

type Upgrade = future::Ready<io::Result<Connection>>;

#[derive(Debug)]
struct Listener {
    id: ListenerId,
    socket: Async<TcpListener>,
    /// What peers are told to dial.
    addresses: Vec<Multiaddr>,
    /// Runs as long as the system cannot accept.
    pause: Option<Timer>,
    /// The next look at the machine's addresses; `None` for a listener on one address.
    look: Option<Timer>,
}

impl Transport for Tcp {
    type Output = Connection;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let Some(Target::Address(wanted)) = target(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let socket = Async::<TcpListener>::bind(wanted).map_err(TransportError::Other)?;
        let bound = socket.get_ref().local_addr().map_err(TransportError::Other)?;
        // Only now, so that two nodes do not listen on one port unawares: dials may go out from it.
        let _ = sockopt::set_socket_reuseport(&socket, true);
        let everywhere = bound.ip().is_unspecified();
        let mut listener = Listener { id, socket, addresses: Vec::new(), pause: None, look: None };
        if everywhere {
            listener.look = Some(Timer::interval(ADDRESSES_EVERY));
        }
        listener.announce(reachable_at(bound), &mut self.events);
        self.listeners.push_back(listener);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(place) = self.listeners.iter().position(|listener| listener.id == id) else { return false };
        let gone = self.listeners.remove(place);
        let addresses = gone.into_iter().flat_map(|listener| listener.addresses);
        let expired = addresses.map(|listen_addr| TransportEvent::AddressExpired { listener_id: id, listen_addr });
        self.events.extend(expired);
        self.events.push_back(TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) });
        true
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(target) = target(&address) else { return Err(TransportError::MultiaddrNotSupported(address)) };
        let board = self.board.clone();
        let ports: Vec<SocketAddr> = match options.port_use {
            PortUse::Reuse => self.listeners.iter().filter_map(Listener::behind_a_router).collect(),
            PortUse::New => Vec::new(),
        };
        let connect = async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address of this kind");
            for address in target.addresses().await? {
                let from = ports.iter().find(|port| port.is_ipv4() == address.is_ipv4());
                match connect(address, from.copied()).await {
                    Ok(socket) => return Connection::new(socket, board, None),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        last = io::Error::new(error.kind(), NOBODY_LISTENS);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let limit = async {
            Timer::after(DIAL_TIMEOUT).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers at this address"))
        };
        Ok(connect.or(limit).boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, io::Error>> {
        let Self { listeners, events, seats, board } = &mut *self;
        if let Some(event) = events.pop_front() {
            return Poll::Ready(event);
        }
        // The listener that had its turn goes to the end, so that none starves the others.
        for _ in 0..listeners.len() {
            let Some(mut listener) = listeners.pop_front() else { break };
            let found = listener.poll(cx, seats, board, events);
            listeners.push_back(listener);
            if let Poll::Ready(event) = found {
                return Poll::Ready(event);
            }
        }
        events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Listener {
    /// Where it listens, if on all addresses of this machine, and none of them can be reached from anywhere.
    fn behind_a_router(&self) -> Option<SocketAddr> {
        let near = |own: &Multiaddr| address::distance(own) > Distance::Anywhere;
        let bound = self.socket.get_ref().local_addr().ok()?;
        (bound.ip().is_unspecified() && self.addresses.iter().all(near)).then_some(bound)
    }

    /// Tells of addresses that are new, and of those that are gone.
    fn announce(&mut self, now: Vec<Multiaddr>, events: &mut VecDeque<TransportEvent<Upgrade, io::Error>>) {
        let listener_id = self.id;
        for listen_addr in self.addresses.iter().filter(|address| !now.contains(address)).cloned() {
            events.push_back(TransportEvent::AddressExpired { listener_id, listen_addr });
        }
        for listen_addr in now.iter().filter(|address| !self.addresses.contains(address)).cloned() {
            events.push_back(TransportEvent::NewAddress { listener_id, listen_addr });
        }
        self.addresses = now;
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        seats: &Seats,
        board: &Board,
        events: &mut VecDeque<TransportEvent<Upgrade, io::Error>>,
    ) -> Poll<TransportEvent<Upgrade, io::Error>> {
        if let Some(look) = &mut self.look
            && look.poll(cx).is_ready()
        {
            if let Ok(bound) = self.socket.get_ref().local_addr() {
                self.announce(reachable_at(bound), events);
            }
            // The interval wakes this task only once it was looked at again.
            cx.waker().wake_by_ref();
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll(cx));
            self.pause = None;
        }
        loop {
            ready!(self.socket.poll_readable(cx)).ok();
            match self.socket.get_ref().accept() {
                Ok((socket, from)) => {
                    let Some(seat) = seats.take(from.ip()) else { continue };
                    let local = socket.local_addr().unwrap_or(from);
                    let upgrade =
                        Async::new(socket).and_then(|socket| Connection::new(socket, board.clone(), Some(seat)));
                    return Poll::Ready(TransportEvent::Incoming {
                        listener_id: self.id,
                        upgrade: future::ready(upgrade),
                        local_addr: multiaddr(local),
                        send_back_addr: multiaddr(from),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    let mut pause = Timer::after(ACCEPT_PAUSE);
                    // Polled once, so that its end wakes this task.
                    let _ = pause.poll(cx);
                    self.pause = Some(pause);
                    return Poll::Ready(TransportEvent::ListenerError { listener_id: self.id, error });
                }
            }
        }
    }
}

/// Connects to an address, if possible from a port on which this node listens.
async fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<Async<TcpStream>> {
    if let Some(from) = from.filter(|_| address::distance(&multiaddr(to)) == Distance::Anywhere) {
        match connect_from(to, from).await {
            // From this port there is such a connection, or was a moment ago.
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
            connected => return connected,
        }
    }
    Async::<TcpStream>::connect(to).await
}

async fn connect_from(to: SocketAddr, from: SocketAddr) -> io::Result<Async<TcpStream>> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &from)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = Async::new_nonblocking(TcpStream::from(socket))?;
    socket.writable().await?;
    match socket.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(socket),
    }
}

/// How many connections each address has here.
#[derive(Clone, Debug, Default)]
struct Seats(Arc<Mutex<BTreeMap<IpAddr, u32>>>);

/// A connection's place among those of its address.
#[derive(Debug)]
struct Seat {
    seats: Seats,
    host: IpAddr,
}

impl Seats {
    fn take(&self, address: IpAddr) -> Option<Seat> {
        let host = host(address);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(host).or_default();
        if *count >= if host.is_loopback() { INBOUND_LOCAL_MAX } else { INBOUND_MAX } {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Seat { seats: self.clone(), host })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

/// Whose an address is: one of IPv4, a whole /64 of IPv6, which is what a household has.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Async<TcpStream>,
    board: Board,
    _seat: Option<Seat>,
}

impl Connection {
    fn new(socket: Async<TcpStream>, board: Board, seat: Option<Seat>) -> io::Result<Self> {
        socket.get_ref().set_nodelay(true)?;
        Ok(Self { socket, board, _seat: seat })
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buffer));
        self.board.on_bytes(*read.as_ref().unwrap_or(&0), 0);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes));
        self.board.on_bytes(0, *written.as_ref().unwrap_or(&0));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

/// What an address leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Address(SocketAddr),
    Name { name: String, port: u16, family: Family },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

impl Target {
    async fn addresses(self) -> io::Result<Vec<SocketAddr>> {
        let (name, port, family) = match self {
            Self::Address(address) => return Ok(vec![address]),
            Self::Name { name, port, family } => (name, port, family),
        };
        let (sender, answer) = async_channel::bounded(1);
        // The system's resolver blocks; a thread that waits for it outlives a dial that gave up, but not for long.
        std::thread::Builder::new().name("resolve".into()).spawn(move || {
            let found = (&*name, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            drop(sender.send_blocking(found));
        })?;
        let found = answer.recv().await.map_err(io::Error::other)?;
        let mut found = found.map_err(|error| io::Error::new(error.kind(), format!("the name is unknown: {error}")))?;
        found.retain(|address| match family {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        });
        Ok(found)
    }
}

/// Reads `/ip4/.../tcp/...` and its siblings, with or without the peer's name at the end.
fn target(address: &Multiaddr) -> Option<Target> {
    let mut parts = address.iter();
    let (host, Protocol::Tcp(port)) = (parts.next()?, parts.next()?) else { return None };
    if !matches!((parts.next(), parts.next()), (None | Some(Protocol::P2p(_)), None)) {
        return None;
    }
    let name = |name: &str, family| Target::Name { name: name.to_owned(), port, family };
    Some(match host {
        Protocol::Ip4(address) => Target::Address((address, port).into()),
        Protocol::Ip6(address) => Target::Address((address, port).into()),
        Protocol::Dns(host) => name(&host, Family::Any),
        Protocol::Dns4(host) => name(&host, Family::V4),
        Protocol::Dns6(host) => name(&host, Family::V6),
        _ => return None,
    })
}

/// Whether this transport can dial an address.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    target(address).is_some()
}

/// The socket address that an address without names stands for.
pub fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    match target(address)? {
        Target::Address(address) => Some(address),
        Target::Name { .. } => None,
    }
}

/// A socket address as libp2p writes it.
pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(address.ip().into()).with(Protocol::Tcp(address.port()))
}

/// Where a listener can be reached: its own address, or all of the machine's if it listens on all.
fn reachable_at(bound: SocketAddr) -> Vec<Multiaddr> {
    if !bound.ip().is_unspecified() {
        return vec![multiaddr(bound)];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let own = interfaces.iter().map(if_addrs::Interface::ip).filter(|ip| ip.is_ipv4() == bound.is_ipv4());
    // An address that is only valid on its own link needs a zone, which a multiaddr does not carry.
    let own = own.filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    let mut addresses: Vec<_> = own.map(|ip| multiaddr((ip, bound.port()).into())).collect();
    if addresses.is_empty() {
        let local: IpAddr = if bound.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        addresses.push(multiaddr((local, bound.port()).into()));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
    use libp2p::core::Endpoint;

    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        async_io::block_on(future)
    }

    async fn next(tcp: &mut Tcp) -> TransportEvent<Upgrade, io::Error> {
        future::poll_fn(|cx| Pin::new(&mut *tcp).poll(cx)).await
    }

    fn listen(address: &str) -> (Tcp, Multiaddr) {
        let mut tcp = Tcp::new(Board::default());
        tcp.listen_on(ListenerId::next(), address.parse().unwrap()).unwrap();
        let TransportEvent::NewAddress { listen_addr, .. } = wait(next(&mut tcp)) else { panic!() };
        (tcp, listen_addr)
    }

    fn dial(tcp: &mut Tcp, address: &Multiaddr) -> <Tcp as Transport>::Dial {
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        tcp.dial(address.clone(), options).ok().unwrap()
    }

    #[test]
    fn bytes_go_both_ways_over_both_families_and_by_name() {
        for address in ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip4/0.0.0.0/tcp/0"] {
            let (mut tcp, found) = listen(address);
            let Some(Protocol::Tcp(port)) = found.iter().nth(1) else { panic!() };
            let by_name: Multiaddr = format!("/dns4/localhost/tcp/{port}").parse().unwrap();
            let dialled = if address.contains("ip6") { found } else { by_name };
            let out = dial(&mut Tcp::new(Board::default()), &dialled);
            let came = async {
                loop {
                    if let TransportEvent::Incoming { upgrade, .. } = next(&mut tcp).await {
                        break upgrade.await;
                    }
                }
            };
            let (here, there) = wait(future::zip(out, came));
            let (mut here, mut there) = (here.unwrap(), there.unwrap());
            let mut heard = [0; 4];
            wait(async {
                here.write_all(b"ping").await.unwrap();
                there.read_exact(&mut heard).await.unwrap();
                there.write_all(&heard).await.unwrap();
                here.read_exact(&mut heard).await.unwrap();
            });
            assert_eq!(&heard, b"ping");
            assert!(here.socket.get_ref().nodelay().unwrap() && there.socket.get_ref().nodelay().unwrap());
        }
    }

    #[test]
    fn a_dial_can_go_out_from_the_port_that_is_listened_on_and_nobody_else_can_listen_there() {
        let (tcp, _) = listen("/ip4/0.0.0.0/tcp/0");
        let bound = tcp.listeners[0].socket.get_ref().local_addr().unwrap();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = wait(connect_from(there.local_addr().unwrap(), bound)).unwrap();
        assert_eq!(socket.get_ref().local_addr().unwrap().port(), bound.port());
        // The same way a second time is in use, which says so at once; another port is taken then.
        let again = wait(connect_from(there.local_addr().unwrap(), bound)).unwrap_err();
        assert!(matches!(again.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable), "{again}");
        let mut other = Tcp::new(Board::default());
        let taken = other.listen_on(ListenerId::next(), multiaddr(bound));
        assert!(matches!(taken, Err(TransportError::Other(error)) if error.kind() == io::ErrorKind::AddrInUse));
    }

    #[test]
    fn what_is_not_tcp_is_refused_and_a_closed_port_is_an_error() {
        let mut tcp = Tcp::new(Board::default());
        for address in ["/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/1/ws", "/dns4/localhost", "/memory/1"] {
            assert!(!is_dialable(&address.parse().unwrap()), "{address}");
            let refused = tcp.listen_on(ListenerId::next(), address.parse().unwrap());
            assert!(matches!(refused, Err(TransportError::MultiaddrNotSupported(_))));
        }
        let (listener, address) = listen("/ip4/127.0.0.1/tcp/0");
        drop(listener);
        assert_eq!(wait(dial(&mut tcp, &address)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(wait(dial(&mut tcp, &"/dns6/localhost.invalid/tcp/1".parse().unwrap())).is_err());
    }

    #[test]
    fn an_address_has_so_many_seats_and_gets_them_back() {
        let seats = Seats::default();
        let far: IpAddr = "203.0.113.1".parse().unwrap();
        let mut taken: Vec<_> = (0..INBOUND_MAX).map(|_| seats.take(far).unwrap()).collect();
        assert!(seats.take(far).is_none());
        assert!(seats.take("::ffff:203.0.113.1".parse().unwrap()).is_none());
        assert!(seats.take("203.0.113.2".parse().unwrap()).is_some());
        taken.pop();
        assert!(seats.take(far).is_some());
        // A household of IPv6 is one.
        let _house: Vec<_> =
            (0..INBOUND_MAX).map(|i| seats.take(format!("2001:db8::{i:x}").parse().unwrap()).unwrap()).collect();
        assert!(seats.take("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(seats.take("2001:db8:0:1::1".parse().unwrap()).is_some());
        drop(taken);
        assert!(!seats.0.lock().unwrap().contains_key(&far));
    }

    #[test]
    fn a_listener_that_is_removed_takes_its_addresses_along() {
        let mut tcp = Tcp::new(Board::default());
        let id = ListenerId::next();
        tcp.listen_on(id, "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        wait(next(&mut tcp));
        assert!(tcp.remove_listener(id) && !tcp.remove_listener(id));
        assert!(matches!(wait(next(&mut tcp)), TransportEvent::AddressExpired { .. }));
        assert!(matches!(wait(next(&mut tcp)), TransportEvent::ListenerClosed { reason: Ok(()), .. }));
    }
}
