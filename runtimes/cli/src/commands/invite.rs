//! `neuroshard invite`: a code that leads others into this network.

use std::time::Duration;

use neuroshard_host::api::running_status;
use neuroshard_host::clock::unix_ms;
use neuroshard_host::codes::{ADDRESSES_MAX, Invite};
use neuroshard_host::directory::Paths;
use neuroshard_host::net::{Multiaddr, address};
use neuroshard_proto::{Hash, NetworkId};

use crate::failure::Failure;
use crate::say::{aside, out};
use crate::settings::Settings;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn invite(settings: &Settings, days: u16) -> Result<(), Failure> {
    let paths = Paths::of_existing(&settings.data_dir()?)?;
    let status = running_status(&paths).ok_or_else(|| {
        Failure::new(
            "an invite leads to a running node, and none runs on this data directory. Start it with `neuroshard run`.",
        )
    })?;
    let net = status.net.unwrap_or_default();
    let wrong = || Failure::new("the node's answer is not one of this version's API");
    let network = Hash::from_hex(&status.network).map(NetworkId).ok_or_else(wrong)?;
    let mut own: Vec<Multiaddr> = net.listening.iter().filter_map(|text| text.parse().ok()).collect();
    own.sort_by_key(|one| (address::distance(one), address::is_relayed(one)));
    let near = own.iter().all(|one| address::distance(one) > address::Distance::Anywhere);
    // Whoever has this node's peers finds the network too, while this node is down.
    let peers = net.peers.iter().filter(|peer| !peer.inbound).filter_map(|peer| peer.address.parse().ok());
    let mut addresses: Vec<Multiaddr> = own.into_iter().chain(peers).collect();
    addresses.truncate(ADDRESSES_MAX as usize);
    if addresses.is_empty() {
        return Err(Failure::new(
            "this node does not listen and no peer is a relay for it, so nobody can reach it. Start it with --listen \
             0.0.0.0:4700, and open that port in your router if there is one.",
        ));
    }
    let lifetime = u64::try_from(DAY.as_millis()).unwrap_or(u64::MAX).saturating_mul(days.into());
    let invite = Invite { network, addresses, expires_unix_ms: unix_ms().saturating_add(lifetime) };
    let code = invite.code();
    if settings.json.unwrap_or(false) {
        let addresses: Vec<_> = invite.addresses.iter().map(ToString::to_string).collect();
        let expires = invite.expires_unix_ms;
        out!("{}", serde_json::json!({ "invite": code, "addresses": addresses, "expires_unix_ms": expires }));
        return Ok(());
    }
    out!("{code}");
    let list: Vec<_> = invite.addresses.iter().map(ToString::to_string).collect();
    aside!("It leads to network {network:.16} at {} and holds for {days} days.", list.join(", "));
    if near {
        aside!(
            "These addresses are known on this machine or in its local network only. If others are to come from outside, start \
             the node with --announce and the address that they see."
        );
    }
    Ok(())
}
