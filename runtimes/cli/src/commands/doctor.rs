//! `neuroshard doctor`: what could keep a node from working here, one line each.

mod network;

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Instant;

use neuroshard_host::clock::unix_ms;
use neuroshard_host::directory::{DirectoryError, Paths};
use neuroshard_host::home::{HomeError, Visit};
use neuroshard_host::keys::entropy;
use neuroshard_host::runtime::Runtime;
use neuroshard_host::store::ByteCount;
use neuroshard_shaders::selftest::Verdict;

use crate::engine;
use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;

/// The first of January 2026: a clock before that was never set.
const CLOCK_MIN_UNIX_MS: u64 = 1_767_225_600_000;
/// Free space below which a warning is due.
const SPACE_WANTED: u64 = 1 << 30;

/// A finding.
enum Finding {
    Fine(String),
    Odd(String),
    Wrong(String),
}

pub(crate) fn doctor(runtime: &impl Runtime, settings: &Settings, network: bool) -> Result<(), Failure> {
    let root = settings.data_dir()?;
    let mut wrong = 0_u32;
    let json = settings.json.unwrap_or(false);
    let mut tell = |name: &str, finding: Finding| {
        let (mark, text) = match finding {
            Finding::Fine(text) => ("ok", text),
            Finding::Odd(text) => ("odd", text),
            Finding::Wrong(text) => {
                wrong += 1;
                ("WRONG", text)
            }
        };
        if json {
            out!("{}", serde_json::json!({ "check": name, "result": mark.to_lowercase(), "text": text }));
        } else {
            out!("{mark:<6} {name:<18} {text}");
        }
    };
    tell("entropy", entropy().map_or_else(|e| Finding::Wrong(e.to_string()), |_| Finding::Fine("at hand".into())));
    tell("clock", clock());
    if network {
        for (name, finding) in network::findings(runtime, settings, &root) {
            tell(name, finding);
        }
        return verdict(wrong);
    }
    tell("loopback", loopback(settings.api_port));
    tell("memory", Finding::Fine(format!("{} may be used", ByteCount(settings.operator(0).memory_bytes))));
    tell("disk", disk(&root));
    for (name, finding) in adapter(settings) {
        tell(&name, finding);
    }
    for (name, finding) in directory(&root) {
        tell(name, finding);
    }
    verdict(wrong)
}

fn verdict(wrong: u32) -> Result<(), Failure> {
    if wrong > 0 {
        Err(Failure::new(format!("{wrong} of these must be mended before a node can work here")))
    } else {
        Ok(())
    }
}

fn clock() -> Finding {
    let now = unix_ms();
    if now < CLOCK_MIN_UNIX_MS {
        return Finding::Wrong("the system's clock was never set; peers would refuse this node's messages".into());
    }
    Finding::Fine(format!("{} s since 1970", now / 1000))
}

fn loopback(port: Option<u16>) -> Finding {
    let port = port.unwrap_or(0);
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Finding::Fine("the local HTTP API can listen".into()),
        Err(error) => Finding::Wrong(format!("127.0.0.1:{port} cannot be listened on: {error}")),
    }
}

/// Writes, syncs and removes a small file where data would lie.
fn disk(root: &Path) -> Finding {
    let Some(place) = root.ancestors().find(|path| path.is_dir()) else {
        return Finding::Wrong(format!("{} has no directory above it", root.display()));
    };
    let probe = place.join(format!(".neuroshard-doctor-{}.tmp", std::process::id()));
    let started = Instant::now();
    let written = fs::File::create_new(&probe).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()
    });
    let took = started.elapsed();
    let _ = fs::remove_file(&probe);
    if let Err(error) = written {
        return Finding::Wrong(format!("{} cannot be written: {error}", place.display()));
    }
    let sync = format!("a synced write takes {:.1} ms", took.as_secs_f64() * 1000.0);
    match free_space(place) {
        Some(free) if free < SPACE_WANTED => Finding::Odd(format!("only {} are free; {sync}", ByteCount(free))),
        Some(free) => Finding::Fine(format!("{} are free at {}; {sync}", ByteCount(free), place.display())),
        None => Finding::Fine(sync),
    }
}

#[cfg(unix)]
#[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "the fields' types differ between systems")]
fn free_space(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt as _;

    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte and `stat` has room for the answer, which is read only on success.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    Some((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

#[cfg(not(unix))]
fn free_space(_path: &Path) -> Option<u64> {
    None
}

/// The device, and a line for each operation of its self-test.
fn adapter(settings: &Settings) -> Vec<(String, Finding)> {
    let chosen = match engine::choose(&settings.adapter.clone().unwrap_or_default(), settings.threads) {
        Ok(chosen) => chosen,
        Err(error) => return vec![("adapter".into(), Finding::Wrong(error.to_string()))],
    };
    let name = format!("{} ({})", chosen.description, chosen.reason);
    let lines = chosen.report.lines.iter().map(|line| match &line.verdict {
        Verdict::Passed => (line.op.name().to_owned(), Finding::Fine("every bit as it must be".into())),
        Verdict::Failed { why } => (line.op.name().to_owned(), Finding::Wrong(why.clone())),
    });
    std::iter::once(("adapter".into(), Finding::Fine(name))).chain(lines).collect()
}

/// The data directory and everything in it, each blob against its hash.
fn directory(root: &Path) -> Vec<(&'static str, Finding)> {
    match Paths::of_existing(root) {
        Err(DirectoryError::Missing { .. }) => {
            return vec![("directory", Finding::Fine(format!("{} will be created", root.display())))];
        }
        Err(error) => return vec![("directory", Finding::Wrong(error.to_string()))],
        Ok(_) => {}
    }
    let visit = match Visit::open(root) {
        Err(HomeError::NoNetwork { path }) => {
            return vec![("directory", Finding::Fine(format!("{} has no network yet", path.display())))];
        }
        Err(error) => return vec![("directory", Finding::Wrong(error.to_string()))],
        Ok(visit) => visit,
    };
    let mut findings = vec![("directory", Finding::Fine(format!("{}, readable", root.display())))];
    let shards = visit.network.manifest.shards.iter().map(|shard| shard.hash);
    findings.push(("shards", blobs(&visit, shards)));
    findings.push(("snapshots", blobs(&visit, visit.core.pinned().into_iter())));
    findings
}

fn blobs(visit: &Visit, hashes: impl Iterator<Item = neuroshard_proto::Hash>) -> Finding {
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for hash in hashes {
        match visit.store.get(&hash) {
            Ok(blob) => {
                count += 1;
                bytes += blob.len() as u64;
            }
            Err(error) => return Finding::Wrong(error.to_string()),
        }
    }
    Finding::Fine(format!("{count} blobs, {}, each with the hash it should have", ByteCount(bytes)))
}
