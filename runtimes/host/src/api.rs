//! The local HTTP API of a running node: `GET /status` (JSON) and `GET /metrics` (OpenMetrics text), on the loopback
//! interface, for whoever can read the token in the data directory.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::directory::Paths;
use crate::files::{self, Access, FileError};
use crate::http::{Response, Routes, Server, Status};
use crate::keys::entropy;
use crate::node::Live;
use crate::runtime::Runtime;
use crate::status;

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
    pub fn start<R: Runtime>(runtime: &R, paths: &Paths, port: u16, live: Arc<Live>) -> Result<Self, ApiError> {
        let server = Server::bind(port).map_err(|source| ApiError::Bind { port, source })?;
        let token = entropy().map_err(|error| ApiError::Token { why: error.to_string() })?.to_string();
        let access = AccessFile { address: server.address(), token: token.clone(), process: std::process::id() };
        let text = serde_json::to_string_pretty(&access).unwrap_or_default();
        files::write_durably(&paths.api(), text.as_bytes(), Access::Owner).map_err(ApiError::File)?;
        let address = server.address();
        runtime.spawn(server.run(runtime.clone(), token, routes(live)));
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

fn routes(live: Arc<Live>) -> Routes {
    Arc::new(move |path| match path {
        "/status" => {
            let body = serde_json::to_string(&live.status()).unwrap_or_default();
            Some(Response { status: Status::Ok, content_type: "application/json", body: format!("{body}\n") })
        }
        "/metrics" => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            Some(Response { status: Status::Ok, content_type, body: live.metrics.text() })
        }
        _ => None,
    })
}

/// The status of the node that runs on a data directory; `None` if none answers.
pub fn running_status(paths: &Paths) -> Option<status::Status> {
    let bytes = files::read_limited(&paths.api(), FILE_BYTES_MAX).ok()?;
    let access: AccessFile = serde_json::from_slice(&bytes).ok()?;
    let body = get(&access, "/status").ok()?;
    serde_json::from_slice(&body).ok()
}

/// One request to a running node.
fn get(access: &AccessFile, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&access.address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (address, token) = (access.address, &access.token);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&answer) {
        Ok(httparse::Status::Complete(head)) if response.code == Some(200) => Ok(answer.split_off(head)),
        _ => Err(std::io::Error::other("the answer is not one of this API")),
    }
}
