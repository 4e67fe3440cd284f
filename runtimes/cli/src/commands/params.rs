//! `neuroshard params`: the protocol's numbers (PROTOCOL §12) as the network of the data directory has them, or as a new
//! one would.

use neuroshard_host::directory::Paths;
use neuroshard_host::network::Network;
use neuroshard_proto::Params;

use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;

pub(crate) fn params(settings: &Settings) -> Result<(), Failure> {
    let network = match Paths::of_existing(&settings.data_dir()?) {
        Ok(paths) => Network::read(&paths).map_err(Failure::new)?,
        Err(neuroshard_host::directory::DirectoryError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let params = network.as_ref().map_or(Params::DEFAULT, |network| network.genesis.params);
    if settings.json.unwrap_or(false) {
        out!("{}", serde_json::to_string(&params).map_err(Failure::new)?);
        return Ok(());
    }
    match &network {
        Some(network) => out!("network {:.16}\n", network.genesis.network()),
        None => out!("no network here yet; a new one has these numbers\n"),
    }
    out!("{}", words(&params).trim_end());
    Ok(())
}

fn words(params: &Params) -> String {
    let mut text = String::new();
    let mut line = |name: &str, values: Vec<String>| {
        let values: String = values.iter().map(|value| format!("{value:>9}")).collect();
        text.push_str(&format!("{name:<24}{values}\n"));
    };
    let rows = &params.phases;
    line("from nodes", rows.iter().map(|row| row.nodes.to_string()).collect());
    line("phase", rows.iter().map(|row| row.phase.name().to_owned()).collect());
    line("min quorum size", rows.iter().map(|row| row.quorum_size.to_string()).collect());
    line("min replicas", rows.iter().map(|row| row.replicas.to_string()).collect());
    line("sync interval (batches)", rows.iter().map(|row| row.sync_interval.to_string()).collect());
    let percent = |ppm: u32| format!("{} %", f64::from(ppm) / 10_000.0);
    line("audit floor", rows.iter().map(|row| percent(row.audit_floor.ppm())).collect());
    line("session (s)", rows.iter().map(|row| row.session_s.to_string()).collect());
    text.push('\n');
    let [t1, t2, t3, t4] = params.tier_bounds_us;
    let ms = |us: u64| us as f64 / 1000.0;
    let single = [
        (
            "tiers",
            format!(
                "T1 < {} ms <= T2 < {} ms <= T3 < {} ms <= T4 < {} ms <= T5 a layer",
                ms(t1),
                ms(t2),
                ms(t3),
                ms(t4)
            ),
        ),
        (
            "self-benchmark",
            format!(
                "every {} s: a layer over {} tokens, {} runs after {} to warm up",
                params.benchmark_period_ms / 1000,
                params.benchmark_sequence,
                params.benchmark_runs,
                params.benchmark_warmup
            ),
        ),
        ("memory for layers", percent(params.holding_share.ppm())),
        (
            "heartbeat",
            format!(
                "every {} s; degraded after {} s, offline after {} s",
                params.heartbeat_ms / 1000,
                params.degraded_ms / 1000,
                params.offline_ms / 1000
            ),
        ),
        (
            "epoch",
            format!("{} s; block time counts {} s at most", params.epoch_ms / 1000, params.block_time_step_ms / 1000),
        ),
    ];
    for (name, value) in single {
        text.push_str(&format!("{name:<24}{value}\n"));
    }
    for (title, group) in ledger_numbers(params) {
        text.push_str(&format!("\n{title}\n"));
        for (name, value) in group {
            text.push_str(&format!("  {name:<22}{value}\n"));
        }
    }
    text
}

/// The ledger's numbers by group, under the names that they have in code: none can be forgotten here.
fn ledger_numbers(params: &Params) -> Vec<(&'static str, Vec<(String, String)>)> {
    let numbers = |value: Result<serde_json::Value, serde_json::Error>| {
        let fields = value.ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
        fields.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    };
    vec![
        ("money, in units of 10^-9 NEURO; ratios in parts per million", numbers(serde_json::to_value(params.money))),
        ("nodes", numbers(serde_json::to_value(params.nodes))),
        ("validators", numbers(serde_json::to_value(params.validators))),
        ("quorums", numbers(serde_json::to_value(params.quorums))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_protocol() {
        let text = words(&Params::DEFAULT);
        for line in [
            "from nodes                      1        2        5       10       20      100      500     5000",
            "phase                     genesis    micro    small    small   medium  growing    large  massive",
            "sync interval (batches)       100      100      100      500      500     1000     1000     1000",
            "audit floor                   0 %      0 %      0 %      0 %      1 %      3 %      5 %      5 %",
            "session (s)                  1800     1800     1800     1800     3600     3600     3600     3600",
            "memory for layers       80 %",
            "  fee                   50000",
            "  unbonding_ms          604800000",
            "  seats_quorum          359",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
