//! Plain lines, for logs and pipes: what happens once, and a line of training every few seconds.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use neuroshard_core::{Event, FetchFault, PeerFault, Recovery};
use neuroshard_host::metrics::job_name;
use neuroshard_host::net::NetEvent;
use neuroshard_host::node::{Ended, Report};
use neuroshard_host::status::{Follower, decline_text, peer_fault_text, reason_text};
use neuroshard_host::store::ByteCount;

use super::words::{count, grouped};
use super::{Display, News, data_words, short_path};

/// Least time between two lines of one kind that training repeats.
const REPEAT_EVERY: Duration = Duration::from_secs(5);
/// Least time between two lines of packing.
const PACKING_EVERY: Duration = Duration::from_secs(5);

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Plain<W> {
    out: W,
    /// When a step, a held-out loss, a save and another plan were last told.
    last: [Option<Instant>; 4],
    last_packing: Instant,
    /// The end is near, and every line of it is told.
    ending: bool,
}

impl<W: Write> Plain<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, last: [None; 4], last_packing: Instant::now(), ending: false }
    }

    fn line(&mut self, name: &str, text: &str) -> io::Result<()> {
        writeln!(self.out, "{name:<9} {text}")?;
        self.out.flush()
    }

    fn report(&mut self, report: &Report, follower: Option<&Follower>) -> io::Result<()> {
        let Report::Event { event, .. } = report else {
            let (name, text) = notice_words(report);
            return self.line(name, &text);
        };
        let repeated = match event {
            Event::Stepped { .. } => Some(0),
            Event::HeldOut { .. } => Some(1),
            Event::Saved { .. } => Some(2),
            Event::Rejected { .. } => Some(3),
            _ => None,
        };
        self.ending |= matches!(event, Event::StepLimit { .. });
        if let Some(last) = repeated.and_then(|kind| self.last.get_mut(kind)) {
            if !self.ending && last.is_some_and(|last| last.elapsed() < REPEAT_EVERY) {
                return Ok(());
            }
            *last = Some(Instant::now());
        }
        match event_words(event, follower) {
            Some((name, text)) => self.line(name, &text),
            None => Ok(()),
        }
    }
}

impl<W: Write + Send> Display for Plain<W> {
    fn show(&mut self, news: &News<'_>, follower: Option<&Follower>) -> io::Result<()> {
        match news {
            News::Packing { done, of } | News::Fetching { done, of } => {
                let name = if matches!(news, News::Packing { .. }) { "packing" } else { "fetching" };
                if done < of && self.last_packing.elapsed() < PACKING_EVERY {
                    return Ok(());
                }
                self.last_packing = Instant::now();
                // Small texts are packed before anybody could wonder.
                if *of < 64 << 20 {
                    return Ok(());
                }
                self.line(name, &format!("{} of {}", ByteCount(*done), ByteCount(*of)))
            }
            News::Report(report) => self.report(report, follower),
            News::Stopping { times } => {
                self.ending = true;
                self.line("stopping", stopping_words(*times))
            }
            News::Log(line) => {
                writeln!(self.out, "{line}")?;
                self.out.flush()
            }
            other => opening_lines(other).iter().try_for_each(|(name, text)| self.line(name, text)),
        }
    }
}

/// What plain lines and the live panel say in the same words: the way to the first step, and the end.
pub(super) fn opening_lines(news: &News<'_>) -> Vec<(&'static str, String)> {
    match news {
        News::Opened(opened) => vec![
            ("version", opened.version.clone()),
            ("data", short_path(&opened.data_dir)),
            ("adapter", format!("{} ({})", opened.adapter, opened.adapter_reason)),
        ],
        News::Founded { network, skipped } => {
            let mut lines = vec![("founded", format!("network {:.16}", network.genesis.network()))];
            if !skipped.is_nothing() {
                lines.push(("skipped", skipped.to_string()));
            }
            lines
        }
        News::Joined { network, trusted } => {
            let id = network.genesis.network();
            let mut lines = vec![("joined", format!("network {id:.16}"))];
            if *trusted {
                lines.push((
                    "note",
                    format!("only the node at this address says that it is this one; compare with others: {id}"),
                ));
            }
            lines
        }
        News::Started { network, api } => vec![
            ("text", data_words(&network.source, &network.manifest)),
            (
                "model",
                format!(
                    "{}: {} layers of width {}, {} parameters",
                    network.model_name(),
                    network.genesis.model.layers,
                    network.genesis.model.hidden,
                    count(network.genesis.model.parameters())
                ),
            ),
            ("api", format!("http://{api} (its token is in the data directory)")),
        ],
        News::Ended(ended) => vec![("stopped", ended_words(ended))],
        News::Packing { .. } | News::Fetching { .. } | News::Stopping { .. } | News::Report(_) | News::Log(_) => {
            Vec::new()
        }
    }
}

pub(super) fn stopping_words(times: u32) -> &'static str {
    match times {
        0 | 1 => "saving",
        _ => "still saving; Ctrl-C once more quits at once and loses the steps since the last save",
    }
}

pub(super) fn ended_words(ended: &Ended) -> String {
    match ended.saved {
        Some(saved) if saved == ended.step => format!("at step {}, and all of it is saved", grouped(saved.0)),
        Some(saved) => format!("at step {}; saved is step {}", grouped(ended.step.0), grouped(saved.0)),
        None if ended.step.0 == 0 => "before the first step; there is nothing to save".to_owned(),
        None => format!("at step {}; nothing was saved", grouped(ended.step.0)),
    }
}

pub(super) fn notice_words(report: &Report) -> (&'static str, String) {
    match report {
        Report::StoreWaits { why } => {
            ("DISK FULL", format!("{why}. Training goes on; nothing is lost as long as it runs. Make room."))
        }
        Report::StoreRecovered => ("disk", "there is room again, and everything is written".to_owned()),
        Report::RecordingEnded { why } => ("trace", why.clone()),
        Report::Lost { reports } => ("lost", format!("{reports} lines that nobody read in time")),
        Report::Net(event) => (net_name(event), event.to_string()),
        Report::Event { .. } => ("", String::new()),
    }
}

/// What happened between this node and others, in a word; in capitals if the operator may have to do something.
fn net_name(event: &NetEvent) -> &'static str {
    match event {
        NetEvent::Listening { .. } => "listening",
        NetEvent::Connected { .. } => "connected",
        NetEvent::Direct { .. } => "direct",
        NetEvent::Left { .. } => "left",
        NetEvent::CutOff { .. } => "cut off",
        NetEvent::Unreachable { .. } => "NO ANSWER",
        NetEvent::Useless { .. } => "NO USE",
    }
}

pub(super) fn event_words(event: &Event, follower: Option<&Follower>) -> Option<(&'static str, String)> {
    let losses = || {
        let loss = follower?.loss_of(event)?;
        Some(format!("{:.3} nats  {:.3} bits/byte", loss.nats, loss.bits_per_byte))
    };
    Some(match event {
        Event::TierMeasured { layer_us, tier } => {
            ("tier", format!("{tier}: a layer takes {:.2} ms", *layer_us as f64 / 1000.0))
        }
        Event::ModeChosen { mode, reason } => ("mode", format!("{mode}: {}", reason_text(reason))),
        Event::StateReady { step, .. } if step.0 > 0 => ("resumed", format!("from step {step}")),
        Event::Stepped { step, .. } => {
            let status = &follower?.status;
            let speed =
                status.tokens_per_s.map_or(String::new(), |speed| format!("  {} tokens/s", count(speed as u64)));
            ("step", format!("{:<7} loss {}{speed}", grouped(step.0), losses()?))
        }
        Event::HeldOut { step, .. } => ("held out", format!("{:<7} loss {}", grouped(step.0), losses()?)),
        Event::Saved { step, bytes, .. } => {
            let place = follower.map_or(String::new(), |f| format!(" in {}", short_path(&f.status.data_dir)));
            ("saved", format!("step {} ({}){place}", grouped(step.0), ByteCount(*bytes)))
        }
        Event::BatchVoid { batch, voids, .. } => {
            ("void", format!("batch {batch} left the range of numbers and is skipped ({voids} so far)"))
        }
        Event::JobFailed { job, fault, then } => {
            let then = match then {
                Recovery::Later { .. } => "trying again later".to_owned(),
                Recovery::Reload { step } => format!("going back to step {step}"),
                Recovery::Stop => "stopping".to_owned(),
            };
            ("FAULT", format!("{}: {fault}; {then}", job_name(*job)))
        }
        Event::JobLate { job } => ("FAULT", format!("{}: no answer in time", job_name(*job))),
        Event::Diverged { step, .. } => {
            ("FAULT", format!("at step {step} batch after batch left the range of numbers: the model has lost its way"))
        }
        Event::QuorumProposed { members, batch_us, .. } => {
            let seconds = *batch_us as f64 / 1e6;
            ("quorum", format!("proposes a quorum of {members}; a batch should take {seconds:.2} s"))
        }
        Event::QuorumDeclined { node, why, .. } => {
            ("quorum", format!("{node:.16} takes no part: {}", decline_text(*why)))
        }
        Event::QuorumJoined { quorum, members, stages } => {
            ("quorum", format!("a member of quorum {quorum:.8} of {members}, runs stages {stages}"))
        }
        Event::QuorumLeft => ("quorum", "a member of no quorum any more".to_owned()),
        Event::Leaving { quorum: Some(_) } => ("leaving", "hands its stages over to the others, then stops".to_owned()),
        Event::Leaving { quorum: None } => ("leaving", "nothing to hand over".to_owned()),
        Event::StagesMissing { step, stages, fault, .. } => {
            let why = match fault {
                FetchFault::Unreachable => "none of those who had them can be reached",
                FetchFault::Missing => "none of those who are there has them",
                FetchFault::Damaged => "what they give is damaged",
                FetchFault::Full => "there is no room for them on this disk",
            };
            ("waiting", format!("stages {stages} at step {} are not to be had: {why}; trying again", grouped(step.0)))
        }
        Event::QuorumBegan { term, step, .. } => {
            ("quorum", format!("all members are there and go on from step {} (term {term})", grouped(step.0)))
        }
        Event::Rejected { reject: reject @ PeerFault::OtherQuorum { .. } } => ("OTHER PLAN", peer_fault_text(reject)),
        Event::PeerUp { node } => ("peer", format!("{node:.16} is here")),
        Event::PeerDown { node } => ("peer", format!("{node:.16} is gone")),
        Event::StepLimit { step } => ("limit", format!("step {} is where you wanted to stop", grouped(step.0))),
        _ => return None,
    })
}
