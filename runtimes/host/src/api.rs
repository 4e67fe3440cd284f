//! The local HTTP API of a running node, on the loopback interface, for whoever can read the token in the data directory:
//! `/status`, `/network`, `/quorums`, `/nodes`, `/layers`, `/nodes/NODE/why`, `/accounts/OWNER` and its `/history`,
//! `/transactions/ID` (JSON), `/metrics` (OpenMetrics text), `POST /transactions`
//! and `POST /leave`.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use neuroshard_core::Command;
use neuroshard_core::ledger::Refusal;
use neuroshard_proto::chain::SignedTransaction;
use neuroshard_proto::{Hash, NodeId, OwnerId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agreed::{from_hex, to_hex};
use crate::directory::Paths;
use crate::files::{self, Access, FileError};
use crate::http::{self, Method, Response, Routes, Server};
use crate::keys::entropy;
use crate::node::{Handle, Live};
use crate::runtime::Runtime;
use crate::status;
use crate::training;
use crate::why::Facts;

const FILE_BYTES_MAX: u64 = 4096;
const ANSWER_BYTES_MAX: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(3);

/// What the `api` file holds while a node runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessFile {
    address: SocketAddr,
    token: String,
    process: u32,
}

/// Why there is no API.
#[derive(Debug)]
pub enum ApiError {
    /// The port cannot be had.
    Bind {
        port: u16,
        source: std::io::Error,
    },
    File(FileError),
    /// No random bytes for a token.
    Token {
        why: String,
    },
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { port: 0, source } => write!(f, "the local HTTP API cannot listen on 127.0.0.1: {source}"),
            Self::Bind { port, source } => write!(
                f,
                "the local HTTP API cannot listen on 127.0.0.1:{port}: {source}. Name another port with --api-port, or \
                 leave it out to let the system choose."
            ),
            Self::File(error) => error.fmt(f),
            Self::Token { why } => f.write_str(why),
        }
    }
}

impl std::error::Error for ApiError {}

/// The API of a node, as long as this lives.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    file: PathBuf,
}

impl Api {
    /// Starts to answer on a port (0: any), and writes down where and with which token.
    ///
    /// # Errors
    /// If the port is taken, or the file cannot be written.
    pub fn start<R: Runtime>(runtime: &R, paths: &Paths, port: u16, handle: Handle) -> Result<Self, ApiError> {
        let server = Server::bind(port).map_err(|source| ApiError::Bind { port, source })?;
        let token = entropy().map_err(|error| ApiError::Token { why: error.to_string() })?.to_string();
        let access = AccessFile { address: server.address(), token: token.clone(), process: std::process::id() };
        let text = serde_json::to_string_pretty(&access).unwrap_or_default();
        files::write_durably(&paths.api(), text.as_bytes(), Access::Owner).map_err(ApiError::File)?;
        let address = server.address();
        runtime.spawn(server.run(runtime.clone(), token, routes(handle)));
        Ok(Self { address, file: paths.api() })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // One that stays behind is recognised: nobody answers at its address.
        let _ = fs::remove_file(&self.file);
    }
}

fn routes(handle: Handle) -> Routes {
    Arc::new(move |request| {
        let live = &handle.live;
        match (request.method, request.path) {
            (Method::Get, "/status") => Some(json(&live.status())),
            (Method::Get, "/metrics") => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Some(Response { status: http::Status::Ok, content_type, body: live.metrics.text() })
            }
            (Method::Get, "/network") => Some(json(&live.agreed.network())),
            (Method::Get, "/quorums") => Some(json(&training::quorums(&live.agreed.ledger()))),
            (Method::Get, "/nodes") => Some(json(&training::nodes(&live.agreed.ledger()))),
            (Method::Get, "/layers") => Some(json(&live.agreed.layers())),
            (Method::Post, "/transactions") => Some(submit(&handle, request.body)),
            (Method::Post, "/leave") => Some(leave(&handle)),
            (Method::Get, path) => agreed(live, path),
            (Method::Post, _) => None,
        }
    })
}

fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    Response { status: http::Status::Ok, content_type: "application/json", body: format!("{body}\n") }
}

/// `/nodes/NODE/why`, `/accounts/OWNER`, `/accounts/OWNER/history`, the same below a height, and `/transactions/ID`.
fn agreed(live: &Live, path: &str) -> Option<Response> {
    if let Some(digits) = path.strip_prefix("/nodes/") {
        return Some(why(live, digits.strip_suffix("/why")?));
    }
    if let Some(id) = path.strip_prefix("/transactions/") {
        return Some(json(&live.agreed.fate(&Hash::from_hex(id)?)));
    }
    let mut words = path.strip_prefix("/accounts/")?.splitn(3, '/');
    let owner = OwnerId::from_bytes(*Hash::from_hex(words.next()?)?.as_bytes());
    let before = match (words.next(), words.next()) {
        (None, _) => return Some(json(&live.agreed.account(&owner))),
        (Some("history"), height) => height.map_or(Some(u64::MAX), |height| height.parse().ok())?,
        (Some(_), _) => return None,
    };
    Some(match live.agreed.history(&owner, before, &live.store) {
        Ok(entries) => json(&entries),
        Err(error) => Response::text(http::Status::Failed, &error.to_string()),
    })
}

/// Why a node trains or does not, by the first digits of its name.
fn why(live: &Live, digits: &str) -> Response {
    let (status, ledger) = (live.status(), live.agreed.ledger());
    let peers = status.net.iter().flat_map(|net| net.peers.iter());
    let peers = peers.filter_map(|peer| Hash::from_hex(&peer.node)).map(|name| NodeId::from_bytes(*name.as_bytes()));
    let facts = Facts {
        ledger: &ledger,
        own: live.agreed.node(),
        all: live.agreed.all_stages(),
        mode: status.mode.zip(status.mode_reason),
        peers: peers.collect(),
        declined: live.agreed.declined(),
        now: live.now(),
    };
    match facts.find(digits) {
        Ok(node) => json(&facts.why(node)),
        Err(error) => Response::text(http::Status::NotFound, &error.to_string()),
    }
}

/// Puts a transaction before the validators, if the ledger does not refuse it as it stands.
fn submit(handle: &Handle, body: &[u8]) -> Response {
    let signed = std::str::from_utf8(body).ok().and_then(from_hex::<SignedTransaction>);
    let Some(signed) = signed else {
        let text = "this is no signed transaction in canonical encoding and hexadecimal";
        return Response::text(http::Status::BadRequest, text);
    };
    let ledger = handle.live.agreed.ledger();
    if !signed.holds(ledger.network()) {
        return Response::text(http::Status::Conflict, "its signature does not hold in this network");
    }
    // A number that is not up yet may wait for those before it; everything else is better known at once.
    match ledger.admits(&signed) {
        Ok(()) | Err(Refusal::Sequence { .. }) => {}
        Err(refusal) => return Response::text(http::Status::Conflict, &refusal.to_string()),
    }
    let id = signed.transaction.digest(ledger.network()).to_string();
    if handle.command(Command::Submit(Box::new(signed))) { json(&serde_json::json!({ "id": id })) } else { busy() }
}

/// Lets the node hand over and stop.
fn leave(handle: &Handle) -> Response {
    if handle.command(Command::Leave) { json(&serde_json::json!({ "leaving": true })) } else { busy() }
}

fn busy() -> Response {
    Response::text(http::Status::Busy, "the node is too busy to take it; try again")
}

/// A running node's local API, for this machine's own tools.
#[derive(Debug)]
pub struct Client {
    access: AccessFile,
}

/// Why a node does not answer as wished.
#[derive(Debug)]
pub enum ClientError {
    /// No node runs on this data directory.
    NotRunning,
    /// It took the connection, but did not answer to the end: what was asked may have happened or not.
    Silent,
    /// It refused, and says why.
    Refused { why: String },
    /// It answers something else.
    Answer,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str(
                "no node runs on this data directory. Start one with `neuroshard run`, or name its directory with \
                 --data-dir.",
            ),
            Self::Silent => f.write_str(
                "the node took the question, but did not answer to the end: it stopped meanwhile, or is too busy. \
                 `neuroshard status` says which.",
            ),
            Self::Refused { why } => f.write_str(why),
            Self::Answer => f.write_str("the node's answer is not one of this version's API"),
        }
    }
}

impl std::error::Error for ClientError {}

impl Client {
    /// Finds the node that runs on a data directory.
    ///
    /// # Errors
    /// If none does.
    pub fn find(paths: &Paths) -> Result<Self, ClientError> {
        let bytes = files::read_limited(&paths.api(), FILE_BYTES_MAX).map_err(|_| ClientError::NotRunning)?;
        serde_json::from_slice(&bytes).map(|access| Self { access }).map_err(|_| ClientError::NotRunning)
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// If nobody answers, or not in this form.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parsed(exchange(&self.access, "GET", path, ""))
    }

    /// Hands over a signed transaction; returns its name.
    ///
    /// # Errors
    /// If nobody answers, or the node refuses it.
    pub fn submit(&self, signed: &SignedTransaction) -> Result<Hash, ClientError> {
        let answer: serde_json::Value = parsed(exchange(&self.access, "POST", "/transactions", &to_hex(signed)))?;
        answer["id"].as_str().and_then(Hash::from_hex).ok_or(ClientError::Answer)
    }

    /// Asks the node to hand over to the members of its quorum, and then to stop.
    ///
    /// # Errors
    /// If nobody answers, or the node is too busy.
    pub fn leave(&self) -> Result<(), ClientError> {
        parsed(exchange(&self.access, "POST", "/leave", "")).map(|_: serde_json::Value| ())
    }
}

fn parsed<T: DeserializeOwned>(answer: Result<(u16, Vec<u8>), ClientError>) -> Result<T, ClientError> {
    match answer {
        Err(error) => Err(error),
        Ok((200, body)) => serde_json::from_slice(&body).map_err(|_| ClientError::Answer),
        Ok((_, body)) => Err(ClientError::Refused { why: String::from_utf8_lossy(&body).trim().to_owned() }),
    }
}

/// The status of the node that runs on a data directory; `None` if none answers.
pub fn running_status(paths: &Paths) -> Option<status::Status> {
    Client::find(paths).ok()?.get("/status").ok()
}

/// One request to a running node: its answer's code and body.
fn exchange(access: &AccessFile, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>), ClientError> {
    let stream = TcpStream::connect_timeout(&access.address, PATIENCE).map_err(|_| ClientError::NotRunning)?;
    let (address, token, length) = (access.address, &access.token, body.len());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut answer = answered(stream, &request).map_err(|_| ClientError::Silent)?;
    if answer.is_empty() {
        return Err(ClientError::Silent);
    }
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    match (response.parse(&answer), response.code) {
        (Ok(httparse::Status::Complete(head)), Some(code)) => Ok((code, answer.split_off(head))),
        _ => Err(ClientError::Answer),
    }
}

/// Sends a request and reads until the node closes.
fn answered(mut stream: TcpStream, request: &str) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::{AccessFile, Client, ClientError};

    #[test]
    fn a_node_that_ends_before_it_answers_is_told_from_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = Client { access: AccessFile { address, token: "token".to_owned(), process: 0 } };
        let node = std::thread::spawn(move || {
            let (mut asked, _) = listener.accept().unwrap();
            asked.read_exact(&mut [0; 11]).unwrap();
        });
        assert!(matches!(client.leave(), Err(ClientError::Silent)));
        node.join().unwrap();
        assert!(matches!(client.leave(), Err(ClientError::NotRunning)));
    }
}
