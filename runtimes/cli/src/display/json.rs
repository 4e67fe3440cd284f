//! One JSON object a line, for scripts. Names and meanings are stable; new fields and events may come.

use std::io::{self, Write};

use neuroshard_core::{Event, Recovery};
use neuroshard_host::metrics::job_name;
use neuroshard_host::net::NetEvent;
use neuroshard_host::node::{Cause, Report};
use neuroshard_host::status::{Follower, decline_text, peer_fault_text, reason_text};
use serde::Serialize;

use super::{Display, News};

/// Losses are nats per token; times are milliseconds of the network.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Opened {
        version: &'a str,
        data_dir: &'a str,
        node: &'a str,
        adapter: &'a str,
        adapter_reason: &'a str,
    },
    Founded {
        network: String,
        preset: &'a str,
        data: &'a str,
        text_bytes: u64,
        shards: usize,
        skipped_files: u64,
    },
    Joined {
        network: String,
        preset: &'a str,
        shards: usize,
        /// Whether nothing but the node at the address said which network it is.
        trusted: bool,
    },
    Started {
        network: String,
        preset: &'a str,
        parameters: u64,
        data: &'a str,
        api: &'a str,
    },
    Tier {
        tier: String,
        layer_us: u64,
    },
    Mode {
        mode: String,
        reason: String,
    },
    Ready {
        step: u64,
        root: String,
    },
    /// This node proposes a quorum to so many, itself among them; a batch should take so long.
    QuorumProposed {
        quorum: String,
        members: u32,
        batch_us: u64,
        at_ms: u64,
    },
    QuorumDeclined {
        quorum: String,
        node: String,
        why: &'static str,
    },
    /// The ledger has this node as a member of a quorum, with these stages.
    QuorumJoined {
        quorum: String,
        members: u32,
        stages: String,
        at_ms: u64,
    },
    QuorumLeft {
        at_ms: u64,
    },
    /// The operator takes the node away; it hands over to the members of its quorum, if it is in one.
    Leaving {
        quorum: Option<String>,
        at_ms: u64,
    },
    /// Nobody had a blob of stages that others persisted; it is tried again.
    StagesMissing {
        step: u64,
        stages: String,
        blob: String,
        fault: String,
    },
    /// The members of the quorum go on together from this step.
    Quorum {
        quorum: String,
        term: u64,
        step: u64,
        at_ms: u64,
    },
    Step {
        step: u64,
        loss: f64,
        bits_per_byte: f64,
        /// Tokens trained on since genesis.
        tokens: u64,
        tokens_per_s: Option<f64>,
        /// Global gradient norm before clipping, and the learning rate.
        norm: f32,
        rate: f32,
        at_ms: u64,
    },
    Void {
        step: u64,
        voids: u64,
    },
    HeldOut {
        step: u64,
        loss: f64,
        bits_per_byte: f64,
        at_ms: u64,
    },
    Saved {
        step: u64,
        root: String,
        bytes: u64,
        data_dir: &'a str,
        at_ms: u64,
    },
    Fault {
        job: &'a str,
        fault: String,
        then: &'a str,
    },
    Diverged {
        step: u64,
    },
    Listening {
        address: &'a str,
    },
    Connected {
        node: String,
        address: &'a str,
        peers: u64,
    },
    Direct {
        node: String,
        address: &'a str,
    },
    Left {
        node: String,
        peers: u64,
    },
    CutOff {
        node: String,
        why: String,
        out_s: u64,
    },
    Unreachable {
        address: &'a str,
        why: String,
    },
    Decided {
        height: u64,
        block: String,
        transactions: u32,
        root: String,
        at_ms: u64,
    },
    StoreFull {
        why: &'a str,
    },
    StoreRecovered,
    RecordingEnded {
        why: &'a str,
    },
    /// The reader was too slow, and so many events are missing before the next line.
    Lost {
        events: u64,
    },
    Peer {
        node: String,
        up: bool,
    },
    Rejected {
        why: String,
    },
    Limit {
        step: u64,
    },
    Stopping,
    Stopped {
        step: u64,
        saved: Option<u64>,
        cause: &'a str,
    },
}

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write + Send> Display for Json<W> {
    fn show(&mut self, news: &News<'_>, follower: Option<&Follower>) -> io::Result<()> {
        match news {
            News::Opened(opened) => self.line(&Line::Opened {
                version: &opened.version,
                data_dir: &opened.data_dir,
                node: &opened.node,
                adapter: &opened.adapter,
                adapter_reason: &opened.adapter_reason,
            }),
            News::Founded { network, skipped } => self.line(&Line::Founded {
                network: network.genesis.network().to_string(),
                preset: network.model_name(),
                data: &network.source,
                text_bytes: network.manifest.text_bytes,
                shards: network.manifest.shards.len(),
                skipped_files: skipped.binary + skipped.empty + skipped.hidden + skipped.links + skipped.special,
            }),
            News::Started { network, api } => self.line(&Line::Started {
                network: network.genesis.network().to_string(),
                preset: network.model_name(),
                parameters: network.genesis.model.parameters(),
                data: &network.source,
                api,
            }),
            News::Report(report) => match report_line(report, follower) {
                Some(line) => self.line(&line),
                None => Ok(()),
            },
            News::Stopping { times: 1 } => self.line(&Line::Stopping),
            News::Ended(ended) => self.line(&Line::Stopped {
                step: ended.step.0,
                saved: ended.saved.map(|step| step.0),
                cause: match ended.cause {
                    Cause::Done => "done",
                    Cause::Failed => "failed",
                    Cause::Diverged => "diverged",
                },
            }),
            News::Joined { network, trusted } => self.line(&Line::Joined {
                network: network.genesis.network().to_string(),
                preset: network.model_name(),
                shards: network.manifest.shards.len(),
                trusted: *trusted,
            }),
            News::Packing { .. } | News::Fetching { .. } | News::Stopping { .. } | News::Log(_) => Ok(()),
        }
    }
}

fn net_line(event: &NetEvent) -> Line<'_> {
    match event {
        NetEvent::Listening { address } => Line::Listening { address },
        NetEvent::Connected { node, address, peers } => {
            Line::Connected { node: node.to_string(), address, peers: *peers }
        }
        NetEvent::Direct { node, address } => Line::Direct { node: node.to_string(), address },
        NetEvent::Left { node, peers } => Line::Left { node: node.to_string(), peers: *peers },
        NetEvent::CutOff { node, why, out_s } => {
            Line::CutOff { node: node.to_string(), why: why.to_string(), out_s: *out_s }
        }
        NetEvent::Unreachable { address, why } => Line::Unreachable { address, why: why.clone() },
        NetEvent::Useless { address, why } => Line::Unreachable { address, why: why.to_string() },
    }
}

fn report_line<'a>(report: &'a Report, follower: Option<&'a Follower>) -> Option<Line<'a>> {
    let (at, event) = match report {
        Report::Event { at, event, .. } => (at.as_ms(), event),
        Report::StoreWaits { why } => return Some(Line::StoreFull { why }),
        Report::StoreRecovered => return Some(Line::StoreRecovered),
        Report::RecordingEnded { why } => return Some(Line::RecordingEnded { why }),
        Report::Lost { reports } => return Some(Line::Lost { events: *reports }),
        Report::Net(event) => return Some(net_line(event)),
    };
    let loss = || follower?.loss_of(event);
    Some(match event {
        Event::TierMeasured { layer_us, tier } => Line::Tier { tier: tier.to_string(), layer_us: *layer_us },
        Event::ModeChosen { mode, reason } => Line::Mode { mode: mode.to_string(), reason: reason_text(reason) },
        Event::StateReady { step, root } => Line::Ready { step: step.0, root: root.to_string() },
        Event::Stepped { step, norm, rate, .. } => {
            let (loss, status) = (loss()?, &follower?.status);
            Line::Step {
                step: step.0,
                loss: loss.nats,
                bits_per_byte: loss.bits_per_byte,
                tokens: status.tokens,
                tokens_per_s: status.tokens_per_s,
                norm: f32::from_bits(norm.to_bits()),
                rate: f32::from_bits(rate.to_bits()),
                at_ms: at,
            }
        }
        Event::BatchVoid { step, voids, .. } => Line::Void { step: step.0, voids: *voids },
        Event::HeldOut { step, .. } => {
            let loss = loss()?;
            Line::HeldOut { step: step.0, loss: loss.nats, bits_per_byte: loss.bits_per_byte, at_ms: at }
        }
        Event::Saved { step, root, bytes } => {
            let data_dir = follower.map_or("", |follower| &follower.status.data_dir);
            Line::Saved { step: step.0, root: root.to_string(), bytes: *bytes, data_dir, at_ms: at }
        }
        Event::JobFailed { job, fault, then } => {
            let then = match then {
                Recovery::Later { .. } => "later",
                Recovery::Reload { .. } => "reload",
                Recovery::Stop => "stop",
            };
            Line::Fault { job: job_name(*job), fault: fault.to_string(), then }
        }
        Event::JobLate { job } => {
            Line::Fault { job: job_name(*job), fault: "no answer came in time".to_owned(), then: "reload" }
        }
        Event::Diverged { step, .. } => Line::Diverged { step: step.0 },
        Event::BlockDecided { height, id, transactions, root, .. } => Line::Decided {
            height: *height,
            block: id.to_string(),
            transactions: *transactions,
            root: root.to_string(),
            at_ms: at,
        },
        Event::PeerUp { node } => Line::Peer { node: node.to_string(), up: true },
        Event::PeerDown { node } => Line::Peer { node: node.to_string(), up: false },
        Event::Rejected { reject } => Line::Rejected { why: peer_fault_text(reject) },
        Event::QuorumProposed { quorum, members, batch_us } => {
            Line::QuorumProposed { quorum: quorum.to_string(), members: *members, batch_us: *batch_us, at_ms: at }
        }
        Event::QuorumDeclined { quorum, node, why } => {
            Line::QuorumDeclined { quorum: quorum.to_string(), node: node.to_string(), why: decline_text(*why) }
        }
        Event::QuorumJoined { quorum, members, stages } => {
            Line::QuorumJoined { quorum: quorum.to_string(), members: *members, stages: stages.to_string(), at_ms: at }
        }
        Event::QuorumLeft => Line::QuorumLeft { at_ms: at },
        Event::Leaving { quorum } => Line::Leaving { quorum: quorum.map(|quorum| quorum.to_string()), at_ms: at },
        Event::StagesMissing { step, stages, blob, fault } => Line::StagesMissing {
            step: step.0,
            stages: stages.to_string(),
            blob: blob.to_string(),
            fault: format!("{fault:?}"),
        },
        Event::QuorumBegan { quorum, term, step } => {
            Line::Quorum { quorum: quorum.to_string(), term: *term, step: step.0, at_ms: at }
        }
        Event::StepLimit { step } => Line::Limit { step: step.0 },
        // The end of the loop follows and says more.
        Event::Stopped { .. } => return None,
        _ => return None,
    })
}
