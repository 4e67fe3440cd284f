//! Do the tests notice? Each mutant is one deliberate mistake in the core, the wire or the kernels (`mutant("...")` marks
//! the place), and one named test that must fail because of it.

use std::process::Command;

use crate::tree::{Source, root};

struct Mutant {
    /// As it stands in the source.
    name: &'static str,
    /// The test that must notice: package, target (`--lib` or a test file), name.
    package: &'static str,
    target: &'static str,
    test: &'static str,
}

const fn mutant(name: &'static str, package: &'static str, target: &'static str, test: &'static str) -> Mutant {
    Mutant { name, package, target, test }
}

const CORE: &str = "neuroshard-core";
const PROTO: &str = "neuroshard-proto";
const SHADERS: &str = "neuroshard-shaders";
const HOST: &str = "neuroshard-host";
const SIM: &str = "neuroshard-sim";

const MUTANTS: &[Mutant] = &[
    mutant("trailing bytes accepted", PROTO, "--lib", "codec::tests::one_value_has_one_encoding"),
    mutant("weak keys accepted", PROTO, "--lib", "envelope::tests::a_small_order_key_is_refused"),
    mutant("lone nodes untagged", "neuroshard-tests", "golden", "numbers_that_every_node_computes_stay_what_they_are"),
    mutant("tier bounds inclusive", PROTO, "--lib", "params::tests::tiers_are_half_open_intervals"),
    mutant("journal record skipped", CORE, "solo", "a_crash_goes_back_to_the_last_durable_snapshot"),
    mutant("released before durable", CORE, "solo", "nothing_that_depends_on_a_record_happens_before_it_is_durable"),
    mutant("released before durable", SIM, "worlds", "a_hundred_worlds_with_everything_that_can_go_wrong_hold"),
    mutant("vote not journaled", SIM, "worlds", "a_hundred_worlds_with_everything_that_can_go_wrong_hold"),
    mutant("solo left out of the hash", CORE, "solo", "every_part_of_the_state_is_in_the_hash"),
    mutant(
        "batch lost at a stop",
        CORE,
        "solo",
        "a_node_that_comes_back_asks_for_the_very_batches_it_would_have_asked_for",
    ),
    mutant("shared blobs dropped", CORE, "solo", "snapshots_come_by_steps_and_old_ones_are_collected"),
    mutant(
        "offline at exactly 120 s",
        CORE,
        "liveness",
        "a_node_that_hears_another_is_no_longer_solo_and_is_again_when_it_is_gone",
    ),
    mutant("burn forgotten", CORE, "ledger", "rules::a_transfer_costs_five_percent_on_top_rounded_up_and_burns_it"),
    mutant("fee rounded down", CORE, "ledger", "rules::a_transfer_costs_five_percent_on_top_rounded_up_and_burns_it"),
    mutant("sequence not checked", CORE, "ledger", "rules::a_wish_is_good_once_and_in_its_turn"),
    mutant(
        "a halt lets time pass",
        CORE,
        "ledger",
        "rules::epochs_end_by_protocol_time_and_blocks_are_empty_only_where_one_is_due",
    ),
    mutant("unbonding early", CORE, "ledger", "rules::a_bond_comes_back_after_seven_days_of_protocol_time"),
    mutant("bond not checked", CORE, "ledger", "rules::a_bond_comes_back_after_seven_days_of_protocol_time"),
    mutant("attester not drawn", CORE, "ledger", "nodes::only_drawn_and_bonded_peers_attest"),
    mutant(
        "one attestation suffices",
        CORE,
        "ledger",
        "nodes::a_bonded_node_is_active_when_two_drawn_peers_of_other_owners_say_so",
    ),
    mutant(
        "acceptances not checked",
        CORE,
        "ledger",
        "quorums::signatures_that_are_missing_swapped_or_of_other_terms_form_nothing",
    ),
    mutant("taken twice", CORE, "ledger", "quorums::no_node_is_taken_twice"),
    mutant(
        "terms never lapse",
        CORE,
        "ledger",
        "quorums::signatures_hold_up_to_their_last_moment_and_not_for_too_long",
    ),
    mutant(
        "early ends succeed",
        CORE,
        "ledger",
        "quorums::a_session_that_ran_for_most_of_its_length_is_a_success_however_it_ended",
    ),
    mutant("stages posted twice", CORE, "ledger", "anchors::steps_of_a_stage_only_go_up"),
    mutant("founders never fade", CORE, "ledger", "validators::founders_fade_as_stake_is_bonded_and_do_not_come_back"),
    mutant(
        "silent validators stay",
        CORE,
        "ledger",
        "validators::a_validator_that_is_silent_for_sixty_epochs_loses_its_vote",
    ),
    mutant(
        "finality by the new seats",
        CORE,
        "ledger",
        "validators::the_first_block_of_an_epoch_carries_a_finalization_by_those_who_decided",
    ),
    mutant(
        "beacon one epoch early",
        CORE,
        "ledger",
        "validators::a_value_revealed_in_an_epoch_is_in_the_beacon_two_epochs_later",
    ),
    mutant(
        "reveals not checked",
        CORE,
        "ledger",
        "validators::a_value_revealed_in_an_epoch_is_in_the_beacon_two_epochs_later",
    ),
    mutant("beacon left out of the root", CORE, "ledger", "validators::what_is_committed_is_in_the_root"),
    mutant("slash spares unbonding", CORE, "ledger", "validators::contradicting_statements_cost_the_whole_bond_once"),
    mutant(
        "light client trusts strangers",
        CORE,
        "ledger",
        "proofs::a_light_client_skips_where_a_third_of_those_it_trusts_signed",
    ),
    mutant("quorum one vote short", CORE, "--lib", "agreement::tests::scenarios::a_quorum_is_more_than_two_thirds"),
    mutant(
        "finalize after nullify",
        CORE,
        "--lib",
        "agreement::tests::scenarios::who_nullified_a_view_does_not_finalize_in_it_or_before",
    ),
    mutant("lock not reported", CORE, "--lib", "agreement::tests::scenarios::a_notarization_locks_and_is_finalized"),
    mutant(
        "locks may be left behind",
        CORE,
        "--lib",
        "agreement::tests::scenarios::a_locked_block_must_be_proposed_again",
    ),
    mutant(
        "votes forgotten at a restart",
        CORE,
        "--lib",
        "agreement::tests::scenarios::a_restart_forgets_no_vote_and_no_lock",
    ),
    mutant(
        "votes said once a view",
        CORE,
        "--lib",
        "agreement::tests::scenarios::each_second_votes_are_said_again_however_long_the_view",
    ),
    mutant(
        "notarized block proposed at once",
        CORE,
        "--lib",
        "agreement::tests::scenarios::a_leader_gives_a_finalization_a_quarter_of_the_view_before_it_proposes_again",
    ),
    mutant("vote not journaled", CORE, "chain", "crashes::no_vote_is_signed_before_it_is_durable"),
    mutant("schedule one step late", CORE, "--lib", "schedule::tests::corrections_undo_the_bias_of_young_moments"),
    mutant(
        "windows drawn twice",
        CORE,
        "--lib",
        "sampling::tests::an_epoch_reads_every_window_once_and_the_next_in_another_order",
    ),
    mutant(
        "mask one token late",
        SHADERS,
        "generation",
        "logits_of_prefill_and_of_single_tokens_are_those_of_training",
    ),
    mutant(
        "depth in another order",
        SHADERS,
        "cpu_training",
        "twenty_steps_agree_with_the_reference_on_every_instruction_set",
    ),
    mutant("gate and up swapped", SHADERS, "mathematics", "the_canonical_model_is_near_the_mathematics"),
    mutant("norm without its mean", SHADERS, "mathematics", "the_canonical_model_is_near_the_mathematics"),
    mutant("gains decay", SHADERS, "mathematics", "decay_pulls_at_matrices_and_at_nothing_else"),
    mutant("norm never clipped", SHADERS, "mathematics", "the_optimizer_is_near_the_mathematics"),
    mutant("gradients in any order", SHADERS, "pipelines", "gradients_add_up_once_and_in_order"),
    mutant(
        "held without end",
        SHADERS,
        "pipelines",
        "only_so_many_microbatches_are_held_and_their_places_are_used_again",
    ),
    mutant(
        "held after a fresh start",
        SHADERS,
        "pipelines",
        "only_so_many_microbatches_are_held_and_their_places_are_used_again",
    ),
    mutant(
        "gradients after a fresh start",
        SHADERS,
        "pipelines",
        "a_void_microbatch_leaves_no_trace_after_a_fresh_start",
    ),
    mutant("strange values let in", SHADERS, "pipelines", "a_void_microbatch_leaves_no_trace_after_a_fresh_start"),
    mutant("one place for all", SHADERS, "pipelines", "a_pipeline_of_any_split_computes_what_one_executor_computes"),
    mutant("stale gradient goes on", SHADERS, "pipelines", "models_that_fit_no_tile_are_split_as_well"),
    mutant(
        "stored because it passes",
        HOST,
        "--lib",
        "store::tests::a_blob_that_is_in_memory_is_stored_all_the_same_and_dropped_from_both",
    ),
];

/// Every mutant has its place in the source and its test: a test that was renamed notices nothing any more.
pub(crate) fn check_places(sources: &[Source], problems: &mut Vec<String>) {
    for Mutant { name, test, .. } in MUTANTS {
        let function = format!("fn {}()", test.rsplit("::").next().unwrap_or_default());
        for wanted in [format!("mutant(\"{name}\")"), function] {
            let stands = |source: &Source| !source.path.starts_with("xtask/") && source.text.contains(&wanted);
            if !sources.iter().any(stands) {
                problems.push(format!("the mutant {name:?} needs `{wanted}`, which stands nowhere"));
            }
        }
    }
}

/// Builds every mutant whose name or test contains `filter`, and wants its test to pass without and to fail with the mistake.
pub(crate) fn run(filter: &str) -> Result<(), String> {
    let named = |mutant: &&Mutant| [mutant.name, mutant.target, mutant.test].iter().any(|text| text.contains(filter));
    let chosen: Vec<&Mutant> = MUTANTS.iter().filter(named).collect();
    let mut survived = Vec::new();
    for mutant in &chosen {
        let honest = outcome(mutant, None)?;
        let mistaken = outcome(mutant, Some(mutant.name))?;
        let verdict = match (honest, mistaken) {
            (Outcome::Passed, Outcome::Failed) => "caught",
            (Outcome::Passed, Outcome::Passed) => "SURVIVED",
            (Outcome::Failed, _) => "its test fails without it",
            (Outcome::Missing, _) | (_, Outcome::Missing) => "its test does not exist or does not build",
        };
        println!("{:<28} {:<26} {} {}", mutant.name, verdict, mutant.package, mutant.test);
        if verdict != "caught" {
            survived.push(mutant.name);
        }
    }
    println!("{} of {} mutants caught", chosen.len() - survived.len(), chosen.len());
    if survived.is_empty() { Ok(()) } else { Err(format!("not caught: {}", survived.join(", "))) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Missing,
}

/// Runs a mutant's test, with its mistake or without one.
fn outcome(mutant: &Mutant, mistake: Option<&str>) -> Result<Outcome, String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["test", "--quiet", "-p", mutant.package]);
    // A target folder of its own, so that no honest build ever holds a mistake.
    command.args(["--target-dir", "target/mutants", "--features", "neuroshard-proto/mutants"]);
    if mutant.target == "--lib" {
        command.arg("--lib");
    } else {
        command.args(["--test", mutant.target]);
    }
    command.args([mutant.test, "--", "--exact"]);
    command.env_remove("NEUROSHARD_MUTANT");
    if let Some(name) = mistake {
        command.env("NEUROSHARD_MUTANT", name);
    }
    let output = command.output().map_err(|error| format!("cargo did not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(if text.contains("test result: ok. 1 passed") {
        Outcome::Passed
    } else if text.contains("test result: FAILED. 0 passed; 1 failed") {
        Outcome::Failed
    } else {
        Outcome::Missing
    })
}
