//! What a running node tells, and to whom.

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use common::{Running, Scratch};
use serde_json::Value;

fn start(scratch: &Scratch) -> Running {
    let arguments = format!("--config {}", scratch.config("").display());
    let mut node = scratch.start("node", &arguments);
    node.wait_for_step(1);
    node
}

#[test]
fn every_line_is_an_object_with_an_event_and_the_promised_fields() {
    let scratch = Scratch::new();
    let more = "[snapshots]\nevery-steps = 5\nshare-ppm = 1000000\n";
    let arguments = format!("--config {} --steps 20 --json", scratch.config(more).display());
    let finished = scratch.run("node", &arguments);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let mut names: Vec<String> =
        finished.lines().iter().map(|line| line["event"].as_str().expect("an event").to_owned()).collect();
    // The node decides alone, from its first second on and beside all else.
    let decided = finished.events("decided");
    assert!(decided.iter().all(|line| line["height"].is_u64()) && !decided.is_empty(), "{names:?}");
    names.retain(|name| name != "decided");
    assert_eq!(names[..6], ["opened", "founded", "started", "tier", "mode", "ready"]);
    assert_eq!(names.last().map(String::as_str), Some("stopped"));
    let steps = finished.events("step");
    assert_eq!(steps.len(), 20);
    for (index, line) in steps.iter().enumerate() {
        let step = index as u64 + 1;
        assert_eq!((line["step"].as_u64(), line["tokens"].as_u64()), (Some(step), Some(step * 128)), "{line}");
        assert!(line["loss"].is_f64() && line["bits_per_byte"].is_f64() && line["norm"].is_f64(), "{line}");
        assert!(line["tokens_per_s"].is_f64() || line["tokens_per_s"].is_null(), "{line}");
    }
    let first = steps[0]["loss"].as_f64().unwrap();
    assert!((first - 266_f64.ln()).abs() < 0.1, "{first}");
    assert!(finished.events("held_out").iter().all(|line| line["loss"].is_f64()));
    let saved = finished.events("saved");
    assert!(saved.len() >= 2 && saved.iter().all(|line| line["root"].as_str().unwrap().len() == 64), "{saved:?}");
}

#[test]
fn status_tells_of_a_running_node_and_of_one_that_has_ended() {
    let scratch = Scratch::new();
    let mut node = start(&scratch);
    let status = scratch.status("node");
    assert_eq!((&status["running"], &status["process"]), (&true.into(), &node.id().into()));
    assert!(status["step"].as_u64() >= Some(1) && status["loss"]["nats"].is_f64(), "{status}");
    assert!(status["adapter"].as_str().unwrap().starts_with("CPU"), "{status}");
    assert_eq!(status["mode"], "solo");
    let words = scratch.run("node", "status").stdout;
    assert!(words.contains(&format!("as process {}", node.id())) && words.contains("bits/byte"), "{words}");

    // Killed, it leaves the address of its API behind, at which nobody answers.
    node.signal(libc::SIGKILL);
    node.finish();
    assert!(scratch.path("node").join("api").exists());
    let status = scratch.status("node");
    assert_eq!((&status["running"], &status["process"]), (&false.into(), &Value::Null));
}

#[test]
fn the_api_answers_only_those_who_can_read_the_token() {
    use std::os::unix::fs::PermissionsExt as _;

    let scratch = Scratch::new();
    let mut node = start(&scratch);
    let file = scratch.path("node").join("api");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let access: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let (address, token) = (access["address"].as_str().unwrap(), access["token"].as_str().unwrap());
    assert_eq!(node.last("started").unwrap()["api"], address);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let ask = |path: &str, header: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/status", "").starts_with("HTTP/1.1 401"));
    assert!(ask("/metrics", "Authorization: Bearer 0000\r\n").starts_with("HTTP/1.1 401"));
    let header = format!("Authorization: Bearer {token}\r\n");
    let status = ask("/status", &header);
    let body: Value = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["running"], true);
    let metrics = ask("/metrics", &header);
    for name in [
        "neuroshard_steps_total ",
        "neuroshard_tokens_total ",
        "neuroshard_loss_nats ",
        "neuroshard_held_out_loss_nats ",
        "neuroshard_snapshots_total ",
        "neuroshard_job_seconds_count{kind=\"train\"} ",
        "neuroshard_core_inputs_total{kind=\"computed\"} ",
        "neuroshard_core_outputs_total{kind=\"compute\"} ",
        "neuroshard_queue_length{queue=\"jobs\"} ",
        "neuroshard_store_bytes ",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    // Another life has another token.
    node.signal(libc::SIGINT);
    node.finish();
    let _second = start(&scratch);
    let again: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_ne!(again["token"].as_str(), Some(token));
}

#[test]
fn plain_lines_are_written_where_there_is_no_terminal() {
    let scratch = Scratch::new();
    let arguments = format!("--config {} --steps 5", scratch.config("").display());
    let finished = scratch.run("node", &arguments);
    assert!(finished.code == Some(0) && finished.stderr.is_empty(), "{finished:#?}");
    for line in
        ["adapter   CPU", "mode      solo: the only node", "step      1 ", "saved     step 5 ", "stopped   at step 5"]
    {
        assert!(finished.stdout.contains(line), "{line} is missing in {}", finished.stdout);
    }
    assert!(!finished.stdout.contains('\u{1b}'), "no escape sequences");
    assert!(scratch.run("node", &arguments).stdout.contains("resumed   from step 5"));
}

#[test]
fn a_node_whose_reader_goes_away_saves_and_stops() {
    let scratch = Scratch::new();
    let arguments = format!("--config {} --json", scratch.config("").display());
    let mut command = scratch.command("node", &arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("\"event\":\"step\"")));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(scratch.status("node")["saved"]["step"].as_u64() >= Some(1));
}

#[test]
fn settings_come_from_flags_environment_and_file_in_this_order() {
    let scratch = Scratch::new();
    let mut config = std::fs::read_to_string(scratch.config("")).unwrap();
    config = format!("steps = 9\nseed = 'from the file'\njson = true\n{config}");
    std::fs::create_dir_all(scratch.path(".config/neuroshard")).unwrap();
    std::fs::write(scratch.path(".config/neuroshard/config.toml"), config).unwrap();
    let mut command = scratch.command("node", "run --steps 2");
    command.env("NEUROSHARD_STEPS", "4").env("NEUROSHARD_THREADS", "1");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["adapter"].as_str().unwrap().contains("1 thread"), "{}", lines[0]);
    assert_eq!(lines.last().unwrap()["step"], 2);
}

/// The synthetic language has an entropy of 1.875 bits a letter; training must come within a tenth of it. Its letters
/// depend on the two before them, so this takes attention and not only a table.
#[test]
fn training_comes_within_a_tenth_of_the_entropy_of_the_synthetic_language() {
    let scratch = Scratch::new();
    let config = scratch.path("config.toml");
    let text = "[model]\nlayers = 2\nhidden = 64\nheads = 4\nkv-heads = 4\nffn = 128\ncontext = 64\n\
                [training]\nbatch = 16\nsequence = 64\npeak-rate-nano = 6000000\nwarmup = 20\nhorizon = 600\n";
    std::fs::write(&config, text).unwrap();
    let arguments = format!("--config {} --data synthetic --seed s --steps 400 --json", config.display());
    let finished = scratch.run("node", &arguments);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let held_out = finished.events("held_out");
    let loss = held_out.last().unwrap()["loss"].as_f64().unwrap();
    let entropy = 1.875 * std::f64::consts::LN_2;
    println!("held-out losses: {:?}", held_out.iter().map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>());
    assert!(loss > 0.99 * entropy, "{loss} is below what is possible");
    assert!(loss < 1.1 * entropy, "{loss} nats, the language has {entropy}");
}

#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    let scratch = Scratch::new();
    for command in ["params", "doctor --adapter cpu"] {
        let mut child = scratch.command("node", command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
            (Some(0), ""),
            "{command}"
        );
    }
}
