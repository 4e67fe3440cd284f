//! What a running node shows: a live panel on a terminal, plain lines elsewhere, one JSON object a line for scripts.

mod inline;
mod json;
mod live;
mod plain;
mod terminal;
mod words;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use neuroshard_host::data::Skipped;
use neuroshard_host::network::Network;
use neuroshard_host::node::{Ended, Report};
use neuroshard_host::status::Follower;
use neuroshard_proto::Manifest;

pub(crate) use self::inline::Inline;
pub(crate) use self::json::Json;
pub(crate) use self::live::Live;
pub(crate) use self::plain::Plain;
pub(crate) use self::terminal::restore as restore_terminal;
pub(crate) use self::words::{count, duration, grouped, short_path, sparkline};

/// How long between two looks of the live panel at the node.
pub(crate) const TICK: Duration = Duration::from_millis(150);

/// Everything worth telling, in the order in which it happens.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// The node's belongings are open and its device is chosen.
    Opened(&'a Opened),
    /// So many bytes of text of so many are packed.
    Packing { done: u64, of: u64 },
    /// A network was founded.
    Founded { network: &'a Network, skipped: Skipped },
    /// So many bytes of so many came from other nodes.
    Fetching { done: u64, of: u64 },
    /// A network was joined; `trusted` if nothing but the node at the address said which one it is.
    Joined { network: &'a Network, trusted: bool },
    /// The loop runs.
    Started { network: &'a Network, api: String },
    /// The loop tells something; the follower has taken note of it.
    Report(&'a Report),
    /// The operator wants to stop: how often that was said.
    Stopping { times: u32 },
    /// A line of the log.
    Log(&'a str),
    /// The loop has ended.
    Ended(&'a Ended),
}

/// What is known before there is a network.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) version: String,
    pub(crate) data_dir: String,
    pub(crate) node: String,
    /// What computes, and why.
    pub(crate) adapter: String,
    pub(crate) adapter_reason: String,
}

/// A way to show news.
pub(crate) trait Display: Send {
    /// Shows something. An error means that nobody looks any more.
    fn show(&mut self, news: &News<'_>, follower: Option<&Follower>) -> io::Result<()>;

    /// Whether other lines on the terminal would spoil what it shows.
    fn owns_terminal(&self) -> bool {
        false
    }

    /// Looks at how things stand; called every [`TICK`].
    fn tick(&mut self, _follower: &Follower) -> io::Result<()> {
        Ok(())
    }
}

/// The display that fits where standard output goes.
pub(crate) fn choose(json: bool) -> Box<dyn Display> {
    if json {
        return Box::new(Json::new(io::stdout()));
    }
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    if io::stdout().is_terminal()
        && !dumb
        && let Ok(live) = Live::on_terminal()
    {
        return Box::new(live);
    }
    Box::new(Plain::new(io::stdout()))
}

/// A network's data in a few words.
pub(crate) fn data_words(source: &str, manifest: &Manifest) -> String {
    let held_out = manifest.shards(true).count();
    let shards = manifest.shards.len();
    let text = neuroshard_host::store::ByteCount(manifest.text_bytes);
    format!("{source}: {text} of text in {shards} shards, {held_out} of them held out")
}
