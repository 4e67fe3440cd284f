//! `neuroshard status`: how the node stands, asked of the node if it runs and read from its journal if not.

use std::io::{self, Write};

use neuroshard_host::api::running_status;
use neuroshard_host::directory::Paths;
use neuroshard_host::home::Visit;
use neuroshard_host::net::{NetStatus, ReachStatus};
use neuroshard_host::status::{Loss, QuorumStatus, Status};
use neuroshard_host::store::ByteCount;
use neuroshard_proto::Amount;

use crate::display::{count, duration, short_path};
use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) fn status(settings: &Settings) -> Result<(), Failure> {
    let root = settings.data_dir()?;
    let paths = Paths::of_existing(&root)?;
    let status = match running_status(&paths) {
        Some(status) => status,
        None => Visit::open(&root)?.status(),
    };
    let written = if settings.json.unwrap_or(false) {
        serde_json::to_string(&status).map_err(io::Error::from).and_then(|text| writeln!(io::stdout(), "{text}"))
    } else {
        io::stdout().write_all(words(&status).as_bytes())
    };
    written.map_err(|error| Failure::new(format!("standard output cannot be written: {error}")))
}

/// How the node stands in its quorum.
fn quorum_words(quorum: &QuorumStatus, running: bool) -> String {
    let QuorumStatus { quorum: name, members, stages, all_stages, term, began_at_step, lag_ms } = quorum;
    let state = match (term, began_at_step) {
        (Some(term), Some(step)) => {
            let lag = lag_ms.map_or(String::new(), |ms| format!(", last step {} ago", duration(ms)));
            format!("; term {term} from step {step}{lag}")
        }
        _ if running => "; not all members are there yet".to_owned(),
        _ => String::new(),
    };
    format!("{name:.16}, stages {stages} of {all_stages}, {members} members{state}")
}

/// How others come to the node.
pub(super) fn reach_words(net: &NetStatus) -> String {
    let ReachStatus { only_dials, direct, relays, is_relay: _, guests, circuits, peers_through_relays } = &net.reach;
    let own: Vec<&str> =
        net.listening.iter().map(String::as_str).filter(|address| !address.contains("p2p-circuit")).collect();
    let mut words = match (only_dials, direct) {
        (true, _) => "it only dials".to_owned(),
        (false, tried) => {
            let found = match tried {
                None => "",
                Some(true) => ", where others reach it",
                Some(false) => ", where others tried to reach it in vain",
            };
            format!("it listens at {}{found}", own.join(", "))
        }
    };
    let names = |nodes: &[String]| nodes.iter().map(|node| format!("{node:.16}")).collect::<Vec<_>>().join(", ");
    if !relays.is_empty() {
        words += &format!("; others come through {}", names(relays));
    }
    if *peers_through_relays > 0 {
        words += &format!("; {peers_through_relays} reached through relays");
    }
    if *guests > 0 {
        words += &format!("; a relay for {guests}, {circuits} connected through it");
    }
    words
}

/// How the node stands to others.
fn peers(net: &NetStatus) -> String {
    let reach = reach_words(net);
    let out = if net.excluded > 0 { format!(", {} kept out", net.excluded) } else { String::new() };
    let (heard, said) = (ByteCount(net.bytes_in), ByteCount(net.bytes_out));
    format!("{}{out}; {reach}; {heard} heard, {said} said", net.peers.len())
}

/// A status as lines of name and value.
fn words(status: &Status) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let state = match (status.running, status.process) {
        (true, Some(process)) => {
            let up = status.uptime_ms.map_or(String::new(), |ms| format!(" for {}", duration(ms)));
            format!("running{up} as process {process}")
        }
        _ => "not running".to_owned(),
    };
    lines.push(("node", format!("{:.16}, {state}", status.node)));
    lines.push(("network", format!("{:.16}", status.network)));
    lines.push(("data", short_path(&status.data_dir)));
    lines.push(("text", format!("{}, {}", status.data, ByteCount(status.text_bytes))));
    lines.push(("model", format!("{}, {} parameters", status.preset, count(status.parameters))));
    let limit = status.steps_limit.map_or(String::new(), |limit| format!(" of {limit}"));
    let trained = format!("{} tokens in {}", count(status.tokens), duration(status.trained_ms));
    lines.push(("step", format!("{}{limit}, {trained}", status.step)));
    let loss =
        |loss: &Loss| format!("{:.3} nats, {:.3} bits/byte, at step {}", loss.nats, loss.bits_per_byte, loss.step);
    lines.extend(status.loss.as_ref().map(|value| ("loss", loss(value))));
    lines.extend(status.held_out.as_ref().map(|value| ("held out", loss(value))));
    lines.extend(status.tokens_per_s.map(|speed| ("speed", format!("{} tokens/s", count(speed as u64)))));
    let reason = |reason: &Option<String>| reason.as_ref().map_or(String::new(), |text| format!(" ({text})"));
    lines.extend(status.adapter.as_ref().map(|name| ("adapter", format!("{name}{}", reason(&status.adapter_reason)))));
    if let (Some(tier), Some(layer_us)) = (&status.tier, status.layer_us) {
        lines.push(("tier", format!("{tier}, {:.2} ms a layer", layer_us as f64 / 1000.0)));
    }
    lines.extend(status.mode.as_ref().map(|mode| ("mode", format!("{mode}{}", reason(&status.mode_reason)))));
    lines.extend(status.quorum.as_ref().map(|quorum| ("quorum", quorum_words(quorum, status.running))));
    let saved = status.saved.as_ref().map_or("nothing yet".to_owned(), |saved| {
        format!("step {}, {}, root {:.16}", saved.step, ByteCount(saved.bytes), saved.root)
    });
    lines.push(("saved", saved));
    lines.extend(status.agreed.iter().flat_map(|agreed| {
        let money = |units| Amount::from_units(units).to_string();
        [
            ("agreed", format!("height {}, root {:.16}, epoch {}", count(agreed.height), agreed.root, agreed.epoch)),
            ("balance", format!("{}, and {} bonded", money(agreed.balance_units), money(agreed.bond_units))),
        ]
    }));
    lines.extend(status.net.as_ref().map(|net| ("peers", peers(net))));
    lines.push(("store", ByteCount(status.store_bytes).to_string()));
    if status.voids > 0 {
        lines.push(("void", format!("{} batches", status.voids)));
    }
    lines.extend(status.trouble.as_ref().map(|trouble| ("trouble", trouble.clone())));
    lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}
