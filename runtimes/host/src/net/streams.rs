//! Raw streams as a behaviour: protocols that carry long-lived streams are asked for by number, and whatever comes in is
//! handed up. No stream is dropped without a word: each request is answered once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

use super::address;

/// A request for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(pub(super) u64);

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoStream {
    /// The peer does not speak this protocol.
    NotSpoken,
    /// The connection ended first, or the peer does not answer.
    Gone { why: String },
}

/// What came of streams.
pub(super) enum StreamEvent {
    /// A peer opened one.
    Came {
        peer: PeerId,
        protocol: StreamProtocol,
        stream: Stream,
    },
    /// One that was asked for.
    Opened {
        ticket: Ticket,
        stream: Stream,
    },
    Failed {
        ticket: Ticket,
        why: NoStream,
    },
}

impl fmt::Debug for StreamEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Came { peer, protocol, .. } => write!(f, "Came({peer}, {protocol})"),
            Self::Opened { ticket, .. } => write!(f, "Opened({ticket:?})"),
            Self::Failed { ticket, why } => write!(f, "Failed({ticket:?}, {why:?})"),
        }
    }
}

type ToHandlers = ToSwarm<StreamEvent, Request>;

/// The behaviour.
#[derive(Debug)]
pub(super) struct Streams {
    /// What others may open here.
    accepted: Vec<StreamProtocol>,
    events: VecDeque<ToHandlers>,
    next: u64,
    connections: Vec<Line>,
}

/// A connection.
#[derive(Debug)]
struct Line {
    peer: PeerId,
    id: ConnectionId,
    relayed: bool,
    /// Requests that wait on it.
    waiting: Vec<Ticket>,
}

impl Streams {
    pub(super) fn new(accepted: Vec<StreamProtocol>) -> Self {
        Self { accepted, events: VecDeque::new(), next: 0, connections: Vec::new() }
    }

    /// Asks for a stream to a connected peer. The answer comes as an event with this ticket.
    pub(super) fn open(&mut self, peer: PeerId, protocol: StreamProtocol) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        // A direct way is better than one through a relay; of two such, the older one is more likely to stay.
        let of_peer = self.connections.iter_mut().filter(|line| line.peer == peer);
        match of_peer.min_by_key(|line| line.relayed) {
            Some(Line { id, waiting, .. }) => {
                waiting.push(ticket);
                let (handler, event) = (NotifyHandler::One(*id), Request { ticket, protocol });
                self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
            }
            None => self.fail(ticket, NoStream::Gone { why: "not connected".into() }),
        }
        ticket
    }

    fn fail(&mut self, ticket: Ticket, why: NoStream) {
        self.events.push_back(ToSwarm::GenerateEvent(StreamEvent::Failed { ticket, why }));
    }

    fn joined(&mut self, peer: PeerId, id: ConnectionId, at: &Multiaddr) -> Handler {
        self.connections.push(Line { peer, id, relayed: address::is_relayed(at), waiting: Vec::new() });
        Handler { accepted: self.accepted.clone(), events: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = StreamEvent;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        here: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.joined(peer, connection, here))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        there: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.joined(peer, connection, there))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let gone = match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => connection_id,
            // Another behaviour may refuse a connection that this one had a handler for.
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            FromSwarm::DialFailure(failure) => failure.connection_id,
            _ => return,
        };
        let Some(place) = self.connections.iter().position(|line| line.id == gone) else { return };
        for ticket in self.connections.remove(place).waiting {
            self.fail(ticket, NoStream::Gone { why: "the connection ended".into() });
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let mut answered = |ticket: Ticket| {
            let line = self.connections.iter_mut().find(|line| line.id == id);
            let waiting = line.map(|line| &mut line.waiting);
            waiting.and_then(|waiting| Some(waiting.swap_remove(waiting.iter().position(|one| *one == ticket)?)))
        };
        let told = match event {
            Answer::Came { protocol, stream } => Some(StreamEvent::Came { peer, protocol, stream }),
            Answer::Opened { ticket, stream } => answered(ticket).map(|ticket| StreamEvent::Opened { ticket, stream }),
            Answer::Failed { ticket, why } => answered(ticket).map(|ticket| StreamEvent::Failed { ticket, why }),
        };
        self.events.extend(told.map(ToSwarm::GenerateEvent));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part.
#[derive(Debug)]
pub(super) struct Handler {
    accepted: Vec<StreamProtocol>,
    events: VecDeque<ConnectionHandlerEvent<OneOf, Ticket, Answer>>,
}

/// What a handler is asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    ticket: Ticket,
    protocol: StreamProtocol,
}

/// What a handler tells.
pub(super) enum Answer {
    Came { protocol: StreamProtocol, stream: Stream },
    Opened { ticket: Ticket, stream: Stream },
    Failed { ticket: Ticket, why: NoStream },
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Came { .. } => "Came",
            Self::Opened { .. } => "Opened",
            Self::Failed { .. } => "Failed",
        })
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Request;
    type ToBehaviour = Answer;
    type InboundProtocol = OneOf;
    type OutboundProtocol = OneOf;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Ticket;

    fn listen_protocol(&self) -> SubstreamProtocol<OneOf> {
        SubstreamProtocol::new(OneOf(self.accepted.clone()), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<OneOf, Ticket, Answer>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn on_behaviour_event(&mut self, Request { ticket, protocol }: Request) {
        let protocol = SubstreamProtocol::new(OneOf(vec![protocol]), ticket);
        self.events.push_back(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, OneOf, OneOf, (), Ticket>) {
        let answer = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => Answer::Came { protocol, stream },
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                Answer::Opened { ticket: info, stream }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let why = match error {
                    StreamUpgradeError::NegotiationFailed => NoStream::NotSpoken,
                    StreamUpgradeError::Timeout => NoStream::Gone { why: "no answer in time".into() },
                    StreamUpgradeError::Io(error) => NoStream::Gone { why: error.to_string() },
                    StreamUpgradeError::Apply(never) => match never {},
                };
                Answer::Failed { ticket: info, why }
            }
            _ => return,
        };
        self.events.push_back(ConnectionHandlerEvent::NotifyBehaviour(answer));
    }
}

/// Negotiates any of some protocols, and leaves the stream as it is.
#[derive(Clone, Debug)]
pub(super) struct OneOf(Vec<StreamProtocol>);

impl UpgradeInfo for OneOf {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for OneOf {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for OneOf {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
