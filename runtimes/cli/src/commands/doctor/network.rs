//! `neuroshard doctor --network`: whether this node can listen, from where it can be reached, and who answers.

use std::net::TcpListener;
use std::path::Path;

use neuroshard_host::api::running_status;
use neuroshard_host::directory::Paths;
use neuroshard_host::keys::Keys;
use neuroshard_host::net::address::{Distance, distance};
use neuroshard_host::net::join::probe;
use neuroshard_host::net::{Multiaddr, NetStatus, ReachStatus, kept_addresses, socket_address};
use neuroshard_host::network::Network;
use neuroshard_host::runtime::Runtime;

use super::Finding;
use crate::settings::Settings;
use crate::values::Address;

/// Addresses of other nodes that are looked at.
const PROBES_MAX: usize = 8;

/// What is said of a node that listens on loopback addresses alone.
const ONLY_HERE: &str = "nodes on this machine alone can reach it; listen on all addresses to let others in, as with \
                         --listen 0.0.0.0:4700";

type Findings = Vec<(&'static str, Finding)>;

pub(super) fn findings(runtime: &impl Runtime, settings: &Settings, root: &Path) -> Findings {
    let paths = Paths::of_existing(root).ok();
    let running = paths.as_ref().and_then(running_status).and_then(|status| status.net);
    let mut findings = match &running {
        Some(net) => of_running(net),
        None => listeners(settings),
    };
    let network = paths.as_ref().and_then(|paths| Network::read(paths).ok().flatten());
    let id = network.as_ref().map(|network| network.genesis.network());
    findings.push(match &network {
        Some(network) => {
            let founders = network.genesis.founders.len();
            ("network", Finding::Fine(format!("{:.16}, founded by {founders}", network.genesis.network())))
        }
        None => ("network", Finding::Fine("none yet; nodes of any network are looked for".into())),
    });
    let mut addresses: Vec<Multiaddr> = settings.connect.iter().flatten().map(|address| address.0.clone()).collect();
    addresses.extend(paths.as_ref().map(|paths| kept_addresses(&paths.peers())).unwrap_or_default());
    addresses.truncate(PROBES_MAX);
    if addresses.is_empty() {
        let text = "no address of another node is known; name one with --connect, or join by an invite";
        findings.push(("peers", Finding::Odd(text.into())));
    }
    // A key of its own: the node's may be in use, and nobody is to take this for it.
    let Ok(keys) = Keys::generate() else { return findings };
    let probed = runtime.block_on(probe(runtime, &keys, id, &addresses));
    let nobody = probed.iter().all(Result::is_err);
    findings.extend(addresses.iter().zip(probed).map(|(address, answer)| match answer {
        Ok(node) => ("peer", Finding::Fine(format!("{node:.16} answers at {address}"))),
        Err(why) => ("peer", Finding::Odd(format!("{address}: {why}"))),
    }));
    if nobody && !addresses.is_empty() {
        let text = "none of these nodes answers: this machine is not connected, or a firewall keeps it from them";
        findings.push(("peers", Finding::Wrong(text.into())));
    }
    findings
}

/// A node that runs knows best.
fn of_running(net: &NetStatus) -> Findings {
    let mut findings = vec![(
        "peers",
        match net.peers.len() {
            0 => Finding::Odd("the node runs and has none".into()),
            count => Finding::Fine(format!("the node runs and has {count}")),
        },
    )];
    let listening: Vec<Multiaddr> = net.listening.iter().filter_map(|address| address.parse().ok()).collect();
    findings.extend(listening.iter().map(|address| ("listen", Finding::Fine(place(address)))));
    let inbound = net.peers.iter().filter(|peer| peer.inbound).count();
    findings.push(("reachable", reachable(net, &listening, inbound)));
    if net.reach.guests > 0 {
        let (guests, circuits) = (net.reach.guests, net.reach.circuits);
        let text = format!("{guests} nodes that nobody can dial have a place here, {circuits} connections go through");
        findings.push(("relay", Finding::Fine(text)));
    }
    findings
}

/// Whether others can come to a node that runs, and what to do if not.
fn reachable(net: &NetStatus, listening: &[Multiaddr], inbound: usize) -> Finding {
    let ReachStatus { only_dials, direct, relays, .. } = &net.reach;
    let relays: Vec<_> = relays.iter().map(|node| format!("{node:.16}")).collect();
    let through = relays.join(", ");
    match (only_dials, direct, listening.iter().map(distance).min()) {
        (true, _, _) if relays.is_empty() => Finding::Odd(
            "it does not listen, so it only dials, and no peer is a relay for it: nobody can come to it. --listen lets \
             others in"
                .into(),
        ),
        (true, ..) => Finding::Fine(format!(
            "it does not listen; others come through {through}, slower and no more than 256 MiB at a time. --listen lets them \
             come directly"
        )),
        (false, Some(false), _) => {
            let meanwhile = if relays.is_empty() { String::new() } else { format!(" Others come through {through}.") };
            Finding::Odd(format!(
                "others tried to reach it in vain: a router or a firewall is in between. Open its port there, and say \
                 --announce with the address that others see.{meanwhile}"
            ))
        }
        (false, _, None | Some(Distance::Machine)) => Finding::Odd(ONLY_HERE.into()),
        (false, Some(true), _) => Finding::Fine(format!("others reach it directly; {inbound} peers came by themselves")),
        (false, None, _) => Finding::Odd(
            "nobody has connected to it yet; if others are to come from outside, open its port in the router and say \
             --announce with the address that they see"
                .into(),
        ),
    }
}

/// Whether the addresses that are to be listened on can be had.
fn listeners(settings: &Settings) -> Findings {
    let wanted: Vec<&Address> = settings.listen.iter().flatten().collect();
    if wanted.is_empty() {
        return vec![("listen", Finding::Fine("the node would only dial; --listen lets others in".into()))];
    }
    let look = |address: &&Address| {
        let address = &address.0;
        let finding = match socket_address(address).map(TcpListener::bind) {
            None => Finding::Wrong(format!("{address}: a name cannot be listened on; write an address")),
            Some(Ok(_)) => Finding::Fine(place(address)),
            Some(Err(error)) => Finding::Wrong(format!("{address} cannot be listened on: {error}")),
        };
        ("listen", finding)
    };
    let mut findings: Findings = wanted.iter().map(look).collect();
    if wanted.iter().all(|address| distance(&address.0) == Distance::Machine) {
        findings.push(("reachable", Finding::Odd(ONLY_HERE.into())));
    }
    findings
}

/// An address, and from where it can be reached.
fn place(address: &Multiaddr) -> String {
    let from = match distance(address) {
        Distance::Machine => "from this machine only",
        Distance::Local => "from the local network",
        Distance::Anywhere => "from wherever this address leads",
    };
    format!("{address}, reachable {from}")
}
