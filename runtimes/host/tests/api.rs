//! The local HTTP API over real sockets, asked by a client that is not ours.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use neuroshard_host::http::{Request, Response, Server, Status};
use neuroshard_host::runtime::Runtime;

use crate::common::Threads;

fn serve() -> SocketAddr {
    let server = Server::bind(0).unwrap();
    let address = server.address();
    let routes = |request: &Request<'_>| (request.path == "/status").then(|| Response::text(Status::Ok, "fine"));
    Threads.spawn(server.run(Threads, "secret".into(), Arc::new(routes)));
    address
}

fn send(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // The server may answer and close before it has heard everything.
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn first_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

#[test]
fn a_request_with_the_token_is_answered() {
    let address = serve();
    assert!(address.ip().is_loopback());
    let answer = send(address, b"GET /status?x=1 HTTP/1.1\r\nauthorization: Bearer secret\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nfine\n"), "{answer}");
    assert!(answer.contains("\r\nContent-Length: 5\r\n"), "{answer}");
}

#[test]
fn without_the_right_token_nothing_is_told() {
    let address = serve();
    for header in
        ["", "Authorization: Bearer wrong!\r\n", "Authorization: Bearer secre\r\n", "Authorization: secret\r\n"]
    {
        let answer = send(address, format!("GET /status HTTP/1.1\r\n{header}\r\n").as_bytes());
        assert_eq!(first_line(&answer), "HTTP/1.1 401 Unauthorized", "{header}");
        assert!(!answer.contains("fine"));
    }
}

#[test]
fn other_paths_methods_and_garbage_are_refused() {
    let address = serve();
    let cases: [(&[u8], &str); 6] = [
        (b"GET /other HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"PUT /status HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        (b"POST /other HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            b"POST /other HTTP/1.1\r\nAuthorization: Bearer secret\r\nContent-Length: 99999\r\n\r\n",
            "HTTP/1.1 413 Content Too Large",
        ),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET /status HTTP/1.1\r\nX: \0\r\n\r\n", "HTTP/1.1 400 Bad Request"),
    ];
    for (request, expected) in cases {
        assert_eq!(first_line(&send(address, request)), expected);
    }
}

#[test]
fn an_endless_head_is_cut_off() {
    let request = [&b"GET /status HTTP/1.1\r\nX: "[..], &[b'a'; 20_000]].concat();
    assert_eq!(first_line(&send(serve(), &request)), "HTTP/1.1 431 Request Header Fields Too Large");
}

#[test]
fn too_many_connections_are_turned_away_and_the_rest_still_served() {
    let address = serve();
    let idle: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(address).unwrap()).collect();
    let request = b"GET /status HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n";
    let end = Instant::now() + Duration::from_secs(30);
    // Connections are accepted in order, so this one comes seventeenth.
    assert_eq!(first_line(&send(address, request)), "HTTP/1.1 503 Service Unavailable");
    drop(idle);
    while first_line(&send(address, request)) != "HTTP/1.1 200 OK" {
        assert!(Instant::now() < end, "closed connections are forgotten");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_silent_connection_is_closed_after_a_while() {
    let mut stream = TcpStream::connect(serve()).unwrap();
    stream.write_all(b"GET /sta").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "closed, not left hanging");
}
