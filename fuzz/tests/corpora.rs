//! Every input of the corpora goes through its target; the seeds among them are those that the code makes.

use std::fs;

use neuroshard_fuzz::{agreement, apply, decode, node, seeds, tokenizer, trace};

fn run_all(target: &str, run: fn(&[u8])) {
    let folder = seeds::folder(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("the corpus can be read").path();
        // What a fuzzer found and nobody kept has a hash for a name.
        if path.file_name().is_some_and(|name| name.len() == 40) {
            continue;
        }
        let bytes = fs::read(&path).expect("the corpus can be read");
        // The last line before a panic names the input.
        println!("{}", path.display());
        run(&bytes);
        inputs += 1;
    }
    assert!(inputs >= 6, "{} holds {inputs} inputs", folder.display());
}

#[test]
fn whatever_is_decoded_is_canonical_or_refused() {
    run_all("decode", decode::run);
}

#[test]
fn whatever_happens_to_a_node_its_promises_hold() {
    run_all("core", node::run);
}

#[test]
fn whatever_order_votes_come_in_one_block_is_decided() {
    run_all("agreement", agreement::run);
}

#[test]
fn whatever_blocks_come_a_ledger_keeps_its_promises() {
    run_all("apply", apply::run);
}

#[test]
fn whatever_is_read_as_a_trace_is_answered() {
    run_all("trace", trace::run);
}

#[test]
fn whatever_text_is_encoded_comes_back() {
    run_all("tokenizer", tokenizer::run);
}

/// With `NEUROSHARD_BLESS` in the environment the seeds are written instead.
#[test]
fn the_seeds_are_those_that_the_code_makes() {
    for (target, seeds) in seeds::corpora() {
        let folder = seeds::folder(target);
        for (name, bytes) in seeds {
            let path = folder.join(name);
            if std::env::var_os("NEUROSHARD_BLESS").is_some() {
                fs::create_dir_all(&folder).expect("the folder can be made");
                fs::write(&path, &bytes).expect("the seed can be written");
            }
            let found = fs::read(&path).unwrap_or_default();
            assert!(found == bytes, "{} is not what the code makes; if that is meant, bless it", path.display());
        }
    }
}
