//! Many streams over one connection: yamux, with windows that grow with the distance, and an end to them.
//!
//! libp2p's own wrapper lets a connection's windows grow to 1 GiB together, which a node that anybody may connect to cannot
//! give to each. This one says how much a peer can make it hold.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready as ready_or_pending};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Connection, ConnectionError, Mode};

/// Streams of a connection at a time.
const STREAMS_MAX: usize = 64;
/// Bytes that a peer may have sent and nobody has read: enough for 1 Gbit/s over 250 ms.
const WINDOW_BYTES_MAX: usize = 32 << 20;
/// Streams that wait to be taken up; more are reset.
const WAITING_MAX: usize = 32;

/// Negotiates yamux.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yamux;

impl Yamux {
    fn connect<C: AsyncRead + AsyncWrite + Unpin>(io: C, mode: Mode) -> Muxer<C> {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX).set_max_connection_receive_window(Some(WINDOW_BYTES_MAX));
        Muxer { connection: Connection::new(io, config, mode), waiting: VecDeque::new(), waker: None }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::connect(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::connect(io, Mode::Client)))
    }
}

/// A connection that carries streams.
#[derive(Debug)]
pub(super) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that came while the connection was driven for another reason.
    waiting: VecDeque<yamux::Stream>,
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        let next = ready_or_pending!(self.connection.poll_next_inbound(cx));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)).map_err(to_io))
    }
}

fn to_io(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_connection(cx);
        if next.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        self.connection.poll_new_outbound(cx).map_err(to_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(to_io)
    }

    // Frames move only while the connection is asked for new streams, so it is asked here too.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = match ready_or_pending!(self.poll_connection(cx)) {
            Ok(stream) => stream,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(stream);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
