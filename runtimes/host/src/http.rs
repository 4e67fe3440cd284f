//! A small HTTP/1.1 server for one machine's own tools: GET and POST, a token, limits on everything, one request a connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_io::Async;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use crate::runtime::Runtime;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Connections at a time; one more is turned away at once.
const CONNECTIONS_MAX: usize = 16;
/// How long a whole exchange may take.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection, so that a lack of files does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: Method,
    /// Without the query.
    pub path: &'a str,
    /// Empty but for POST.
    pub body: &'a [u8],
}

/// The methods that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: Status,
    pub content_type: &'static str,
    pub body: String,
}

/// The statuses this server answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    HeadTooLarge,
    BodyTooLarge,
    Conflict,
    Failed,
    Busy,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::Unauthorized => "401 Unauthorized",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::BodyTooLarge => "413 Content Too Large",
            Self::Conflict => "409 Conflict",
            Self::Failed => "500 Internal Server Error",
            Self::Busy => "503 Service Unavailable",
        }
    }
}

impl Response {
    /// A short text.
    pub fn text(status: Status, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{body}\n") }
    }

    fn bytes(&self) -> Vec<u8> {
        let (status, content_type, length) = (self.status.line(), self.content_type, self.body.len());
        let head = match self.status {
            Status::Unauthorized => "WWW-Authenticate: Bearer\r\n",
            Status::MethodNotAllowed => "Allow: GET, POST\r\n",
            _ => "",
        };
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{head}Connection: \
             close\r\nCache-Control: no-store\r\n\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(self.body.as_bytes());
        bytes
    }
}

/// What answers a request; `None` if there is nothing at its path.
pub type Routes = Arc<dyn Fn(&Request<'_>) -> Option<Response> + Send + Sync>;

/// A server that listens on the loopback interface.
#[derive(Debug)]
pub struct Server {
    listener: Async<TcpListener>,
    address: SocketAddr,
}

impl Server {
    /// Listens on a port of 127.0.0.1; 0 lets the system choose.
    ///
    /// # Errors
    /// If the port is taken or may not be used.
    pub fn bind(port: u16) -> io::Result<Self> {
        let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.get_ref().local_addr()?;
        Ok(Self { listener, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests that bear the token, until the task is dropped.
    pub async fn run<R: Runtime>(self, runtime: R, token: String, routes: Routes) {
        let (open, token) = (Arc::new(AtomicUsize::new(0)), Arc::<str>::from(token));
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                runtime.sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let guard = Open::new(&open);
            let (routes, token, clock) = (Arc::clone(&routes), Arc::clone(&token), runtime.clone());
            runtime.spawn(async move {
                let exchange = async {
                    // A peer that goes away in the middle is its own affair.
                    let _ = exchange(stream, guard.within_limit, &token, &*routes).await;
                };
                future::or(exchange, clock.sleep(EXCHANGE)).await;
                drop(guard);
            });
        }
    }
}

/// Counts a connection as long as it lives.
struct Open {
    count: Arc<AtomicUsize>,
    within_limit: bool,
}

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        let others = count.fetch_add(1, Ordering::AcqRel);
        Self { count: Arc::clone(count), within_limit: others < CONNECTIONS_MAX }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn exchange(
    mut stream: Async<TcpStream>,
    within_limit: bool,
    token: &str,
    routes: &(dyn Fn(&Request<'_>) -> Option<Response> + Send + Sync),
) -> io::Result<()> {
    let response = if within_limit {
        match read_head(&mut stream).await? {
            Ok((head, body)) => answer(&mut stream, &head, body, token, routes).await?,
            Err(refusal) => refusal,
        }
    } else {
        Response::text(Status::Busy, "too many connections at once")
    };
    stream.write_all(&response.bytes()).await?;
    stream.flush().await?;
    // Closing with unread bytes would reset the connection and could take the answer with it.
    stream.get_ref().shutdown(std::net::Shutdown::Write)?;
    let mut rest = [0; 512];
    for _ in 0..HEAD_BYTES_MAX / 512 {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads up to the empty line that ends a head; what came behind it is the beginning of the body.
async fn read_head(stream: &mut Async<TcpStream>) -> io::Result<Result<(Vec<u8>, Vec<u8>), Response>> {
    let mut head = Vec::with_capacity(1024);
    let mut block = [0; 1024];
    loop {
        let room = block.len().min(HEAD_BYTES_MAX - head.len());
        if room == 0 {
            return Ok(Err(Response::text(Status::HeadTooLarge, "the head of a request has at most 8 KiB")));
        }
        let len = stream.read(&mut block[..room]).await?;
        if len == 0 {
            return Ok(Err(Response::text(Status::BadRequest, "the request ended inside its head")));
        }
        let searched = head.len().saturating_sub(3);
        head.extend_from_slice(&block[..len]);
        if let Some(end) = head[searched..].windows(4).position(|end| end == b"\r\n\r\n") {
            let body = head.split_off(searched + end + 4);
            return Ok(Ok((head, body)));
        }
    }
}

async fn answer(
    stream: &mut Async<TcpStream>,
    head: &[u8],
    mut body: Vec<u8>,
    token: &str,
    routes: &(dyn Fn(&Request<'_>) -> Option<Response> + Send + Sync),
) -> io::Result<Response> {
    let (method, path, length) = match parse(head, token) {
        Ok(request) => request,
        Err(refusal) => return Ok(refusal),
    };
    if length > BODY_BYTES_MAX {
        return Ok(Response::text(Status::BodyTooLarge, "the body of a request has at most 16 KiB"));
    }
    let come = body.len().min(length);
    body.resize(length, 0);
    if stream.read_exact(&mut body[come..]).await.is_err() {
        return Ok(Response::text(Status::BadRequest, "the request ended inside its body"));
    }
    let request = Request { method, path: &path, body: &body };
    let nothing = "there are /status, /metrics, /network, /accounts/OWNER, /accounts/OWNER/history and /transactions";
    Ok(routes(&request).unwrap_or_else(|| Response::text(Status::NotFound, nothing)))
}

/// Method, path and length of the body of a request that bears the token.
fn parse(head: &[u8], token: &str) -> Result<(Method, String, usize), Response> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(Response::text(Status::BadRequest, "this is not a request of HTTP/1.1"));
    }
    let bears_token = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("authorization"));
    let bears_token = bears_token.filter_map(|header| header.value.strip_prefix(b"Bearer ")).any(|given| {
        // As long for a wrong token as for the right one.
        given.len() == token.len() && given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    });
    if !bears_token {
        let text =
            "this needs the header `Authorization: Bearer TOKEN` with the token of the data directory's `api` file";
        return Err(Response::text(Status::Unauthorized, text));
    }
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|header| std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok()));
    let (method, length) = match (request.method, length) {
        (Some("GET"), _) => (Method::Get, 0),
        (Some("POST"), Some(Some(length))) => (Method::Post, length),
        (Some("POST"), _) => return Err(Response::text(Status::BadRequest, "POST needs the length of its body")),
        _ => return Err(Response::text(Status::MethodNotAllowed, "only GET and POST are answered here")),
    };
    let path = request.path.unwrap_or("/");
    Ok((method, path.split_once('?').map_or(path, |(path, _)| path).to_owned(), length))
}
