//! Processes that are killed, stopped, starved of disk and restarted end with the same bits as one that never was.

mod common;

use std::io::{Seek as _, SeekFrom};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Dice, FULL, Running, Scratch, limit_file_size};

/// Snapshots as often as the disk allows, so that kills fall into them.
const OFTEN: &str = "[snapshots]\nevery-steps = 7\nshare-ppm = 1000000\n";

fn root_of(status: &serde_json::Value) -> (u64, String) {
    (status["saved"]["step"].as_u64().unwrap(), status["saved"]["root"].as_str().unwrap().to_owned())
}

#[test]
fn steps_in_two_runs_are_those_of_one_bit_for_bit() {
    let scratch = Scratch::new();
    let config = scratch.config("");
    let run = |name: &str, more: &str| {
        let finished = scratch.run(name, &format!("--config {} --seed s {more}", config.display()));
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        root_of(&scratch.status(name))
    };
    let half = run("two", "--steps 40 --threads 1");
    let twice = run("two", "--steps 80 --threads 2");
    let once = run("one", "--steps 80 --threads 3");
    assert_eq!((half.0, twice.0), (40, 80));
    assert_eq!(twice, once);
    assert_ne!(half.1, twice.1);
}

#[test]
fn kills_at_random_moments_lose_only_what_came_after_the_last_snapshot() {
    let scratch = Scratch::new();
    let config = scratch.config(OFTEN);
    let arguments = format!("--config {} --seed s", config.display());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let mut dice = Dice::new(now as u64 | 1);
    let mut saved = 0;
    for round in 0..20 {
        let mut node = scratch.start("killed", &arguments);
        // A moment that may fall into opening, packing, loading, training or saving.
        let steps = dice.below(30);
        if steps > 4 {
            while let Some(line) = node.next() {
                if line["event"] == "ready" {
                    let from = line["step"].as_u64().unwrap();
                    assert!(from >= saved, "round {round}: {saved} was saved, it came back at {from}");
                }
                if line["event"] == "step" && node.told.iter().filter(|l| l["event"] == "step").count() as u64 == steps
                {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(dice.below(3000)));
        node.signal(libc::SIGKILL);
        node.finish();
        saved = node.last("saved").map_or(saved, |line| line["step"].as_u64().unwrap());
    }
    // To a common end, beyond where any round can have come.
    let finished = scratch.run("killed", &format!("{arguments} --steps 700 --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let finished = scratch.run("whole", &format!("{arguments} --steps 700"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(root_of(&scratch.status("killed")), root_of(&scratch.status("whole")));
    let doctor = scratch.run("killed", "doctor");
    assert_eq!(doctor.code, Some(0), "{doctor:#?}");
    // What the kills left behind was collected: two snapshots and the shards are all there is.
    assert_eq!(scratch.status("killed")["store_bytes"], scratch.status("whole")["store_bytes"]);
}

#[test]
fn an_interrupt_and_a_request_to_end_both_save() {
    let scratch = Scratch::new();
    let arguments = format!("--config {}", scratch.config("").display());
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut node = scratch.start("node", &arguments);
        node.wait_for("step", |_| true);
        node.wait_for("step", |_| true);
        node.signal(signal);
        let status = node.finish();
        assert_eq!(status.code(), Some(0));
        let (stopped, saved) = (node.last("stopped").unwrap(), node.last("saved").unwrap());
        assert_eq!(stopped["saved"], stopped["step"]);
        assert_eq!(saved["step"], stopped["step"]);
        assert_eq!(saved["data_dir"], scratch.path("node").display().to_string());
        assert_eq!(scratch.status("node")["saved"]["root"], saved["root"]);
        assert!(!scratch.path("node").join("api").exists(), "the API's file goes with the node");
    }
}

#[test]
fn a_third_interrupt_quits_in_the_middle_of_saving() {
    let scratch = Scratch::new();
    // Six million parameters: saving takes long enough to be interrupted.
    let config = scratch.path("config.toml");
    let text = "[model]\nlayers = 2\nhidden = 512\nheads = 8\nkv-heads = 4\nffn = 2048\ncontext = 32\n\
                [training]\nbatch = 1\nsequence = 8\n[snapshots]\nevery-s = 100000\nevery-steps = 100000\n";
    std::fs::write(&config, text).unwrap();
    let arguments = format!("--config {}", config.display());
    let mut node = scratch.start("node", &arguments);
    node.wait_for_step(2);
    // Each is noticed before the next comes, and all of them before the model is on the disk.
    for _ in 0..3 {
        node.signal(libc::SIGINT);
        std::thread::sleep(Duration::from_millis(3));
    }
    let status = node.finish();
    assert_eq!(status.code(), Some(130), "{:#?}", node.told.last());
    assert!(node.last("saved").is_none());
    // Nothing is broken by it.
    let finished = scratch.run("node", &format!("{arguments} --steps 3 --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(finished.events("ready")[0]["step"], 0);
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let scratch = Scratch::new();
    let arguments = format!("--config {}", scratch.config("").display());
    let mut first = scratch.start("node", &arguments);
    first.wait_for_step(1);
    let process = format!("in use by process {}", first.id());
    scratch.run("node", &arguments).failed(3, &[&process, "--data-dir"]);
    let keys = scratch.path("backup");
    // What only reads works beside it.
    let backup = scratch.run("node", &format!("keys backup {}", keys.display()));
    assert_eq!(backup.code, Some(0), "{backup:#?}");
    first.wait_for("step", |_| true);
    first.signal(libc::SIGINT);
    assert_eq!(first.finish().code(), Some(0));
}

#[test]
fn a_full_disk_stops_no_training_and_loses_nothing() {
    let scratch = Scratch::new();
    let arguments = format!("--config {} --seed s", scratch.config(OFTEN).display());
    // Its log is on the full disk as well: what it would say there is lost, and nothing else.
    let log = std::fs::File::create(scratch.path("log")).unwrap();
    log.set_len(2 * FULL).unwrap();
    (&log).seek(SeekFrom::End(0)).unwrap();
    let mut node = Running::start_logging_to(scratch.command("node", &format!("{arguments} --json")), log);
    node.wait_for("saved", |_| true);
    limit_file_size(node.id() as i32, FULL);
    // It is the snapshot that does not fit, or its record in the journal, whichever came first.
    let full = node.wait_until(|line| line["event"] == "fault" || line["event"] == "store_full");
    if full["event"] == "fault" {
        assert!(full["fault"].as_str().unwrap().contains("no room"), "{full}");
        assert_eq!((&full["job"], &full["then"]), (&"snapshot".into(), &"later".into()));
    }
    let at = node.last("step").unwrap()["step"].as_u64().unwrap();
    node.wait_for_step(at + 20);
    node.signal(libc::SIGINT);
    assert_eq!(node.finish().code(), Some(1), "{:#?}", node.told.last());
    let safe = node.last("saved").unwrap()["step"].as_u64().unwrap();

    let end = node.last("step").unwrap()["step"].as_u64().unwrap() + 5;
    for name in ["node", "whole"] {
        let finished = scratch.run(name, &format!("{arguments} --steps {end} --json"));
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        assert_eq!(finished.events("ready")[0]["step"], if name == "node" { safe } else { 0 });
    }
    assert_eq!(root_of(&scratch.status("node")), root_of(&scratch.status("whole")));
}

#[test]
fn a_recording_replays_even_if_the_node_was_killed() {
    let scratch = Scratch::new();
    let arguments = format!("--config {}", scratch.config(OFTEN).display());
    let trace = scratch.path("trace");
    let mut node = scratch.start("node", &format!("{arguments} --record {}", trace.display()));
    // The recorder writes what it has at least every second.
    let begun = node.wait_for_step(1)["at_ms"].as_u64().unwrap();
    node.wait_for("step", |line| line["at_ms"].as_u64() > Some(begun + 1500));
    node.signal(libc::SIGKILL);
    node.finish();
    let replayed = scratch.run("node", &format!("replay {} --json", trace.display()));
    assert_eq!(replayed.code, Some(0), "{replayed:#?}");
    let line = &replayed.lines()[0];
    assert!(line["equal"] == true && line["steps"].as_u64() > Some(10), "{line}");
    // A second life, recorded from its start out of the journal.
    let second = scratch.path("second");
    let finished = scratch.run("node", &format!("{arguments} --steps 1 --record {}", second.display()));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let replayed = scratch.run("node", &format!("replay {}", second.display()));
    assert!(replayed.code == Some(0) && replayed.stdout.contains("trace: complete"), "{replayed:#?}");
    assert_eq!(scratch.run("node", &format!("trace diff {} {}", trace.display(), second.display())).code, Some(1));
}
