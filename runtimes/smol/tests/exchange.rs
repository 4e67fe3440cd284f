//! Models in and out, by the program itself.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use common::{Finished, Scratch};
use serde_json::Value;

/// A node that trained for some steps and stopped. Its text is the same in every version of the program, so its model is too.
fn trained(name: &str, steps: u64) -> Scratch {
    let scratch = Scratch::new();
    let config = scratch.config("");
    let finished =
        scratch.run(name, &format!("--config {} --data synthetic --seed s --steps {steps}", config.display()));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    scratch
}

#[track_caller]
fn done(finished: Finished) -> Finished {
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    finished
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
    };
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(file).collect();
    files.sort();
    files
}

#[test]
fn a_seed_and_a_prompt_name_the_text() {
    let scratch = trained("node", 30);
    let write = |arguments: &str| done(scratch.run("node", &format!("generate --prompt The {arguments}"))).stdout;
    let text = write("--seed one --max-tokens 100");
    assert_eq!(write("--seed one --max-tokens 100"), text);
    assert_ne!(write("--seed two --max-tokens 100"), text);
    // More of it begins with the same, across a window of 32 tokens.
    assert!(write("--seed one --max-tokens 150").starts_with(text.trim_end_matches(['\n', '\u{fffd}'])));
    assert_eq!(write("--temperature 0 --seed one"), write("--temperature 0 --seed two"));
    assert_eq!(write("--max-tokens 0"), "\n");

    let mut command = scratch.command("node", "generate --prompt - --seed one --max-tokens 100");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"The").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), text);

    let told = done(scratch.run("node", "generate --prompt The --seed one --max-tokens 100 --json"));
    let lines = told.lines();
    let joined: String = lines.iter().filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(format!("{joined}\n"), text);
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["event"], &last["stop"], &last["seed"]),
        (&"generated".into(), &"max_tokens".into(), &"one".into())
    );
    assert_eq!((last["prompt_tokens"].as_u64(), last["tokens"].as_u64()), (Some(3), Some(100)));
    assert_eq!(last["step"], 30);
    assert!(last["tokens_per_s"].as_f64() > Some(0.0));
    assert_eq!(told.events("token").len(), 100);
    // A drawn seed is told, and writes the same again.
    let drawn = done(scratch.run("node", "generate --prompt The --max-tokens 40 --json"));
    let seed = drawn.lines().last().unwrap()["seed"].as_str().unwrap().to_owned();
    let text: String = drawn.lines().iter().filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(write(&format!("--max-tokens 40 --seed {seed}")), format!("{text}\n"));
}

#[test]
fn what_cannot_be_generated_says_why() {
    let scratch = trained("node", 1);
    scratch.run("nothing", "generate --prompt x").failed(1, &["there is no data directory at"]);
    assert!(!scratch.path("nothing").exists());
    scratch.run("node", "generate --prompt x --temperature -1").failed(2, &["temperature is 0 or from 0.001"]);
    scratch.run("node", "generate --prompt x --top-p 0").failed(2, &["top-p is above 0"]);
    scratch.run("node", "generate").failed(2, &["--prompt <TEXT>"]);
    let long = "x".repeat(33);
    let finished = done(scratch.run("node", &format!("generate --prompt {long} --max-tokens 5")));
    assert!(finished.stderr.contains("33 tokens, the model reads 32 at once: it goes on from the last 16"));

    // A network that never saved.
    let config = scratch.config("");
    done(scratch.run("young", &format!("--config {} --steps 0", config.display())));
    for command in ["generate --prompt x".to_owned(), format!("export {}", scratch.path("out").display())] {
        scratch.run("young", &command).failed(1, &["has no saved weights yet", "after 30 seconds or 100 steps"]);
    }
    assert!(!scratch.path("out").exists());
}

#[test]
fn a_node_trains_on_while_its_model_is_read() {
    let scratch = Scratch::new();
    // Each snapshot drops the one before, which a reader may be reading.
    let config = scratch.config("[snapshots]\nevery-steps = 1\nshare-ppm = 1000000\nkeep = 1\n");
    let mut node = scratch.start("node", &format!("--config {}", config.display()));
    node.wait_for("saved", |_| true);
    for round in 0..12 {
        let out = format!("out-{round}");
        let told = done(scratch.run("node", "generate --prompt The --max-tokens 20 --json"));
        let exported = done(scratch.run("node", &format!("export {out} --json")));
        let step = |finished: &Finished| finished.lines().last().unwrap()["step"].as_u64().unwrap();
        assert!(step(&told) >= 1 && step(&exported) >= step(&told), "later reads see later states");
        let reached = node.last("step").unwrap()["step"].as_u64().unwrap();
        node.wait_for_step(reached + 10);
    }
    assert!(node.last("fault").is_none());
    node.signal(libc::SIGINT);
    assert!(node.finish().success());
}

#[test]
fn an_export_founds_a_network_that_exports_the_same_and_trains_on() {
    let scratch = trained("node", 80);
    let told = done(scratch.run("node", "export first --json")).lines();
    assert_eq!((&told[0]["step"], &told[0]["lm_head_bias"]), (&80.into(), &false.into()));
    scratch.run("node", "export first").failed(1, &["first is not empty", "--force"]);
    let told = done(scratch.run("other", "import first --json")).lines();
    assert_eq!((&told[0]["event"], &told[0]["data"]), (&"imported".into(), &"book".into()));
    done(scratch.run("other", "export second"));
    assert_eq!(files(&scratch.path("first")), files(&scratch.path("second")));
    let text = |name: &str| done(scratch.run(name, "generate --prompt The --seed x --max-tokens 60")).stdout;
    assert_eq!(text("node"), text("other"));
    let status = scratch.status("other");
    assert_eq!((&status["step"], &status["saved"]["root"]), (&0.into(), &told[0]["root"]));
    assert_ne!(status["network"], scratch.status("node")["network"]);

    // It trains from these weights, and its trace replays without them.
    let run = done(scratch.run("other", "run --steps 3 --record trace --json"));
    let ready = &run.events("ready")[0];
    assert_eq!((&ready["step"], &ready["root"]), (&0.into(), &told[0]["root"]));
    let loss = run.events("step")[0]["loss"].as_f64().unwrap();
    assert!((loss - 266_f64.ln()).abs() > 0.3, "{loss} is the loss of an untrained model");
    assert_eq!(scratch.status("other")["step"], 3);
    done(scratch.run("other", "replay trace"));
    scratch.run("other", "import first").failed(1, &["holds network", "already", "--data-dir"]);
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// A checkpoint with one more tensor.
fn with_bias(file: &[u8], bias: &[f32]) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let ends = [tensors.len(), tensors.len() + 4 * bias.len()];
    header["lm_head.bias"] = serde_json::json!({ "dtype": "F32", "shape": [bias.len()], "data_offsets": ends });
    let header = header.to_string().into_bytes();
    let bias: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
    [&(header.len() as u64).to_le_bytes()[..], &header, tensors, &bias].concat()
}

#[test]
fn a_model_that_ends_the_document_is_heard() {
    let scratch = trained("node", 2);
    done(scratch.run("node", "export model"));
    // As after a vocabulary activation, the head has a bias: that of the end of a document is overwhelming.
    let path = scratch.path("model/model.safetensors");
    let mut bias = [0_f32; 266];
    bias[2] = 1000.0;
    fs::write(&path, with_bias(&fs::read(&path).unwrap(), &bias)).unwrap();
    edit_json(&scratch.path("model/config.json"), |config| config["lm_head_bias"] = true.into());
    done(scratch.run("ending", "import model"));
    let exported = done(scratch.run("ending", "export again --json")).lines();
    assert_eq!(exported[0]["lm_head_bias"], true);
    let last = done(scratch.run("ending", "generate --prompt x --json")).lines().pop().unwrap();
    assert_eq!((&last["stop"], &last["tokens"]), (&"eos".into(), &1.into()));
}

#[test]
fn a_spoiled_checkpoint_founds_nothing() {
    let scratch = trained("node", 1);
    let path = scratch.path("model/model.safetensors");
    let import = |spoil: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        done(scratch.run("node", "export model --force"));
        let mut bytes = fs::read(&path).unwrap();
        spoil(&mut bytes);
        fs::write(&path, bytes).unwrap();
        scratch.run("new", "import model").failed(1, words);
        assert!(!scratch.path("new").exists());
    };
    import(&|bytes| bytes.truncate(bytes.len() - 1), &["is cut short"]);
    import(&|bytes| bytes[..8].fill(0xff), &["header", "at most 8388608 are read"]);
    let nan = |bytes: &mut Vec<u8>| {
        let place = bytes.len() - 4;
        bytes[place..].copy_from_slice(&f32::NAN.to_le_bytes());
    };
    import(&nan, &["element 8511 of tensor lm_head.weight is NaN"]);
    done(scratch.run("node", "export model --force"));
    edit_json(&scratch.path("model/config.json"), |config| config["num_hidden_layers"] = 2.into());
    scratch.run("new", "import model").failed(1, &["has no tensor model.layers.1.input_layernorm.weight"]);
    scratch.run("new", "import nowhere").failed(1, &["nowhere has no config.json", "neuroshard export"]);
    assert!(!scratch.path("new").exists());
}

#[test]
fn logits_of_an_export_are_written_for_comparison() {
    let scratch = trained("node", 5);
    done(scratch.run("node", "export model"));
    fs::write(scratch.path("tokens"), [20, 0, 30, 0, 20, 0]).unwrap();
    done(scratch.run("node", "logits model tokens logits --sequence 2"));
    let logits = fs::read(scratch.path("logits")).unwrap();
    assert_eq!(logits.len(), 3 * 266 * 4);
    // The third token stands alone, as the first one does.
    assert_eq!(logits[..266 * 4], logits[2 * 266 * 4..]);
    assert_ne!(logits[..266 * 4], logits[266 * 4..2 * 266 * 4]);
    scratch.run("node", "logits model tokens logits").failed(1, &["cannot create logits"]);
    fs::write(scratch.path("tokens"), [20]).unwrap();
    scratch.run("node", "logits model tokens more").failed(1, &["does not hold 16-bit numbers"]);
}
