//! `neuroshard network`: the agreed world, asked of the node that runs, or read from the journal of one that does not; and who
//! trains what in it, and why a node does not, asked of the node that runs.

use neuroshard_host::agreed::{NetworkInfo, network_info};
use neuroshard_host::api::{Client, ClientError};
use neuroshard_host::directory::Paths;
use neuroshard_host::home::Visit;
use neuroshard_host::store::ByteCount;
use neuroshard_host::training::{LayerInfo, NodeInfo, NodeList, PostInfo, QuorumInfo};
use neuroshard_host::why::Why;
use neuroshard_proto::Amount;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::NetworkCommand;
use crate::display::{count, duration};
use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;

pub(crate) fn network(settings: &Settings, command: Option<&NetworkCommand>) -> Result<(), Failure> {
    match command {
        None => overview(settings),
        Some(NetworkCommand::Quorums) => show(settings, "/quorums", |quorums: &Vec<QuorumInfo>| quorum_words(quorums)),
        Some(NetworkCommand::Nodes) => show(settings, "/nodes", node_words),
        Some(NetworkCommand::Layers) => show(settings, "/layers", |layers: &Vec<LayerInfo>| layer_words(layers)),
        Some(NetworkCommand::Why { node }) => show(settings, &format!("/nodes/{}/why", node.0), why_words),
    }
}

/// Asks the node that runs, and shows its answer in words or as it is.
fn show<T: DeserializeOwned + Serialize>(
    settings: &Settings,
    path: &str,
    words: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    let client = Client::find(&Paths::of_existing(&settings.data_dir()?)?).map_err(Failure::new)?;
    let answer: T = client.get(path).map_err(Failure::new)?;
    if settings.json.unwrap_or(false) {
        out!("{}", serde_json::to_string(&answer).unwrap_or_default());
    } else {
        words(&answer).iter().for_each(|line| out!("{line}"));
    }
    Ok(())
}

fn quorum_words(quorums: &[QuorumInfo]) -> Vec<String> {
    if quorums.is_empty() {
        return vec!["no quorum trains; `neuroshard network why NODE` says what keeps a node from it".to_owned()];
    }
    let words = |quorum: &QuorumInfo| {
        let QuorumInfo { now_ms, began_ms, ends_ms, renews_from_ms, first_ms, .. } = *quorum;
        let until = |ms: u64| match ms.checked_sub(now_ms) {
            Some(left) if left > 0 => format!("in {}", duration(left)),
            _ => "now".to_owned(),
        };
        let since = |ms: u64| duration(now_ms.saturating_sub(ms));
        let line = if first_ms < began_ms {
            format!("goes on from quorums that began {} ago", since(first_ms))
        } else {
            "goes on from none".to_owned()
        };
        let mut lines = vec![
            format!("quorum    {:.16}, {} members", quorum.quorum, quorum.members.len()),
            format!(
                "session   began {} ago, may be renewed {}, ends {}",
                since(began_ms),
                until(renews_from_ms),
                until(ends_ms)
            ),
            format!("line      {line}"),
            format!("saves     after every {} steps", count(u64::from(quorum.snapshot_steps))),
        ];
        lines.extend(
            quorum.members.iter().map(|member| format!("member    {:.16}, stages {}", member.node, member.stages)),
        );
        lines
    };
    quorums.iter().flat_map(words).collect()
}

fn node_words(list: &NodeList) -> Vec<String> {
    let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |cells: [&str; 8]| {
        let [node, owner, tier, holds, memory, uptime, reputation, state] = cells;
        format!("{node:<16}  {owner:<16}  {tier:<4}  {holds:<8}  {memory:>10}  {uptime:>6}  {reputation:>10}  {state}")
    };
    let mut lines = vec![row(["node", "owner", "tier", "holds", "memory", "uptime", "reputation", "state"])];
    lines.extend(list.nodes.iter().map(|one| {
        let NodeInfo { node, owner, standing, quorum, stages, .. } = one;
        let state = match (standing.as_str(), quorum) {
            ("good", Some(quorum)) => format!("in quorum {quorum:.8}, stages {}", or(stages)),
            ("good", None) if one.tier.is_none() => "has not said what it can".to_owned(),
            ("good", None) => "free".to_owned(),
            (other, _) => other.to_owned(),
        };
        let memory = one.memory_bytes.map_or("-".to_owned(), |bytes| ByteCount(bytes).to_string());
        let (node, owner) = (format!("{node:.16}"), format!("{owner:.16}"));
        let (uptime, reputation) = (share(one.uptime), share(one.reputation));
        row([&node, &owner, &or(&one.tier), &or(&one.held), &memory, &uptime, &reputation, &state])
    }));
    let hidden = list.total.saturating_sub(list.nodes.len() as u64);
    if hidden > 0 {
        lines.push(format!("and {} more", count(hidden)));
    }
    lines
}

fn layer_words(layers: &[LayerInfo]) -> Vec<String> {
    let row = |cells: [&str; 5]| {
        let [stage, holders, runs, posted, begin] = cells;
        format!("{stage:<6}  {holders:<26}  {runs:<16}  {posted:<26}  {begin}")
    };
    let posted = |post: &Option<PostInfo>| {
        post.as_ref().map_or("-".to_owned(), |post| format!("{} by {:.8}", count(post.step), post.node))
    };
    let mut lines = vec![row(["stage", "held by", "run by", "newest posted step", "where newcomers begin"])];
    lines.extend(layers.iter().map(|layer| {
        let named: Vec<String> = layer.holders.iter().take(2).map(|node| format!("{node:.8}")).collect();
        let more = layer.holders_total.saturating_sub(named.len() as u64);
        let holders = match (named.is_empty(), more) {
            (true, _) => "nobody".to_owned(),
            (false, 0) => named.join(" "),
            (false, more) => format!("{} and {more} more", named.join(" ")),
        };
        let runs = layer.runs.iter().map(|node| format!("{node:.16}")).next().unwrap_or_else(|| "nobody".to_owned());
        row([&layer.stage.to_string(), &holders, &runs, &posted(&layer.posted), &posted(&layer.anchored)])
    }));
    lines
}

fn why_words(why: &Why) -> Vec<String> {
    let own = if why.own { ", the one that answers" } else { "" };
    let state = if why.trains { "trains" } else { "does not train with others" };
    let mut lines = vec![format!("{:<13} {:.16}{own}: {state}", "node", why.node)];
    for finding in &why.findings {
        lines.push(format!("{:<13} {}", finding.what, finding.why));
        lines.extend(finding.advice.iter().map(|advice| format!("{:<13} what to do: {advice}", "")));
    }
    lines
}

/// Tells how the network stands.
fn overview(settings: &Settings) -> Result<(), Failure> {
    let root = settings.data_dir()?;
    let info: NetworkInfo = match Client::find(&Paths::of_existing(&root)?).and_then(|client| client.get("/network")) {
        Ok(info) => info,
        Err(ClientError::NotRunning) => network_info(Visit::open(&root)?.core.ledger(), 0),
        Err(error) => return Err(Failure::new(error)),
    };
    if settings.json.unwrap_or(false) {
        out!("{}", serde_json::to_string(&info).unwrap_or_default());
        return Ok(());
    }
    let money = |units| Amount::from_units(units).to_string();
    let mut lines = vec![
        ("network", info.network),
        ("height", format!("{}, block {:.16} at {}", count(info.height), info.block, duration(info.time_ms))),
        ("state", format!("root {:.16}", info.root)),
        ("epoch", format!("{}, ends at {}", count(info.epoch), duration(info.epoch_ends_ms))),
        ("beacon", format!("{:.16}", info.beacon)),
        ("nodes", format!("{}, phase {}", count(info.nodes), info.phase)),
        ("money", format!("{} minted, {} burned", money(info.minted_units), money(info.burned_units))),
        ("waiting", format!("{} transactions", count(info.waiting))),
        (
            "quorum",
            format!("{} of {}", count(info.quorum), count(info.validators.iter().map(|(_, weight)| weight).sum())),
        ),
    ];
    lines.extend(
        info.validators.iter().map(|(node, weight)| ("validator", format!("{node:.16}, weight {}", count(*weight)))),
    );
    lines.iter().for_each(|(name, value)| out!("{name:<9} {value}"));
    Ok(())
}
