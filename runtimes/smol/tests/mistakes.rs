//! What goes wrong is said in words that tell what happened and what to do, and nothing is broken by it.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use common::Scratch;

fn train(scratch: &Scratch, name: &str, more: &str) {
    let config = scratch.config("");
    let finished = scratch.run(name, &format!("--config {} --steps 3 {more}", config.display()));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
}

/// Everything in a directory by name and content, but for the locks: they hold the ids of processes and readers.
fn contents(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => folders.push(path),
                false if name == "lock" || name == "lock.mdb" => {}
                false => files.push((path.display().to_string(), fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn data_that_is_missing_empty_binary_or_too_small_is_told_apart() {
    let scratch = Scratch::new();
    let config = scratch.config("");
    let run = |data: &str| scratch.run("node", &format!("--config {} --data {data}", config.display()));
    run("nowhere").failed(1, &["there is nothing at nowhere", "--data"]);
    fs::create_dir(scratch.path("empty")).unwrap();
    run("empty").failed(1, &["there is no text in empty"]);
    fs::create_dir(scratch.path("binary")).unwrap();
    fs::write(scratch.path("binary/image"), [0, 1, 2]).unwrap();
    run("binary").failed(1, &["there is no text in binary: skipped 1 not UTF-8 text"]);
    fs::write(scratch.path("small"), "too small").unwrap();
    run("small").failed(1, &["has 11 tokens", "at least 66 are needed", "Add more text"]);
    // None of it founded anything: the next try starts from the beginning.
    fs::write(scratch.path("text"), "enough of it ".repeat(1000)).unwrap();
    let finished = scratch.run("node", &format!("--config {} --data text --steps 1 --json", config.display()));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(finished.events("founded")[0]["data"], "text");
}

#[test]
fn a_network_is_not_given_another_model_seed_or_data() {
    let scratch = Scratch::new();
    train(&scratch, "node", "--seed one --data synthetic");
    let before = contents(&scratch.path("node"));
    scratch.run("node", "--preset micro").failed(1, &["and `micro` was asked for", "leave out --preset"]);
    scratch.run("node", "--seed two").failed(1, &["another seed", "--seed"]);
    scratch.run("node", "--data book").failed(1, &["trains on `synthetic`, and `book` was asked for", "--data"]);
    assert_eq!(contents(&scratch.path("node")), before);
    // The same wishes, and no wishes, go on.
    train(&scratch, "node", "--seed one --data synthetic");
    let finished = scratch.run("node", "--steps 4 --json");
    assert_eq!(finished.events("ready")[0]["step"], 3);
}

#[test]
fn directories_that_are_not_ours_or_of_another_format_are_left_alone() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("thesis")).unwrap();
    fs::write(scratch.path("thesis/chapter.tex"), "x").unwrap();
    scratch.run("thesis", "run").failed(1, &["not a data directory", "chapter.tex", "Nothing was changed"]);
    assert_eq!(contents(&scratch.path("thesis")).len(), 1);

    train(&scratch, "node", "");
    fs::write(scratch.path("node/format"), "neuroshard data directory, format 7\n").unwrap();
    let before = contents(&scratch.path("node"));
    for command in ["run", "status", "keys backup k"] {
        scratch.run("node", command).failed(1, &["has the format 7", "reads format 1", "Nothing was changed"]);
    }
    assert_eq!(contents(&scratch.path("node")), before);

    fs::write(scratch.path("file"), "x").unwrap();
    scratch.run("file", "run").failed(1, &["is a file, not a directory"]);
    scratch.run("nothing", "status").failed(1, &["there is no data directory at", "neuroshard run"]);
    assert!(!scratch.path("nothing").exists());
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new();
    train(&scratch, "node", "");
    let database = scratch.path("node").join("db/data.mdb");
    let whole = fs::read(&database).unwrap();
    let mut damaged = whole.clone();
    damaged.chunks_mut(4096).skip(2).for_each(|page| page[..24].fill(0xff));
    for (bytes, words) in [
        (&whole[..whole.len() / 2], &["is damaged"][..]),
        (&damaged[..], &["is damaged"][..]),
        (
            &b"not a database, but long enough to be mistaken for one at first sight, perhaps, if nobody looks at all"
                [..],
            &["is damaged", "head page"],
        ),
    ] {
        fs::write(&database, bytes).unwrap();
        for command in ["run --steps 3", "status"] {
            let finished = scratch.run("node", command);
            finished.failed(1, words);
            finished.failed(1, &["Copy a backup", "neuroshard keys backup"]);
        }
        assert!(fs::read(&database).unwrap() == bytes, "nothing is mended behind the operator's back");
    }
    fs::write(&database, &whole).unwrap();
    assert_eq!(scratch.status("node")["saved"]["step"], 3);
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_one_before_and_two_stop_the_node() {
    let scratch = Scratch::new();
    // Layers above 1 MiB lie in files of their own.
    let config = scratch.path("config.toml");
    let text = "[model]\nlayers = 1\nhidden = 256\nheads = 4\nkv-heads = 2\nffn = 256\ncontext = 32\n\
                [training]\nbatch = 1\nsequence = 16\n[snapshots]\nevery-steps = 2\nshare-ppm = 1000000\n";
    fs::write(&config, text).unwrap();
    let arguments = format!("--config {} --seed s", config.display());
    assert_eq!(scratch.run("node", &format!("{arguments} --steps 6")).code, Some(0));
    let blobs = scratch.path("node").join("blobs");
    let damage = |path: &Path| {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 1000).unwrap();
    };
    // Which file belongs to which snapshot is not written on it: the newest by age is of the newest.
    let age = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let mut files = Vec::new();
    for folder in fs::read_dir(&blobs).unwrap() {
        files.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files.sort_by_key(|path| age(path));
    damage(files.last().unwrap());
    let finished = scratch.run("node", &format!("{arguments} --steps 8 --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let fault = &finished.events("fault")[0];
    assert!(fault["fault"].as_str().unwrap().contains("is damaged"), "{fault}");
    assert!(finished.events("ready")[0]["step"].as_u64() < Some(6), "{finished:#?}");
    let whole = scratch.run("whole", &format!("{arguments} --steps 8"));
    assert_eq!(whole.code, Some(0));
    assert_eq!(scratch.status("node")["saved"]["root"], scratch.status("whole")["saved"]["root"]);

    for folder in fs::read_dir(&blobs).unwrap() {
        fs::read_dir(folder.unwrap().path()).unwrap().for_each(|file| damage(&file.unwrap().path()));
    }
    let finished = scratch.run("node", &format!("{arguments} --json"));
    finished.failed(1, &["cannot go on"]);
    assert_eq!(finished.events("fault").last().unwrap()["then"], "stop");
    scratch.run("node", "doctor").failed(1, &["must be mended"]);
}

#[test]
fn keys_are_guarded_backed_up_and_restored() {
    let scratch = Scratch::new();
    train(&scratch, "node", "");
    let key = scratch.path("node").join("keys/node");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    scratch.run("node", "run").failed(1, &["mode 0644", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let backed_up = scratch.run("node", "keys backup backup");
    assert_eq!(backed_up.code, Some(0), "{backed_up:#?}");
    assert_eq!(fs::metadata(scratch.path("backup")).unwrap().permissions().mode() & 0o777, 0o600);
    scratch.run("node", "keys backup backup").failed(1, &["exists already"]);
    fs::remove_file(&key).unwrap();
    scratch.run("node", "run").failed(1, &["no keys"]);
    fs::remove_file(scratch.path("node").join("keys/owner")).unwrap();
    let restored = scratch.run("node", "keys restore backup");
    assert_eq!(restored.code, Some(0), "{restored:#?}");
    train(&scratch, "node", "");
    // Keys of somebody else do not fit this journal.
    train(&scratch, "other", "");
    scratch.run("other", "keys restore backup").failed(1, &["other keys"]);
    scratch.run("node", "keys restore config.toml").failed(1, &["not a backup"]);
}

#[test]
fn wrong_words_on_the_command_line_or_in_the_file_are_corrected() {
    let scratch = Scratch::new();
    scratch.run("node", "--preset nanno").failed(2, &["there are nano, micro and genesis"]);
    scratch.run("node", "--stepz 5").failed(2, &["--steps"]);
    scratch.run("node", "--memory lots").failed(2, &["write it like 512MiB"]);
    scratch.run("node", "--log loud=very").failed(2, &["is no filter", "warn,neuroshard_host=debug"]);
    scratch.run("node", "--steps 5 status").failed(2, &["flags of `neuroshard run`"]);
    scratch.run("node", "--config nowhere.toml").failed(2, &["nowhere.toml", "No such file"]);
    fs::write(scratch.path("bad.toml"), "steps = 5\ndisks = 3\n").unwrap();
    scratch.run("node", "--config bad.toml").failed(2, &["line 2", "unknown field `disks`"]);
    let mut command = scratch.command("node", "status");
    command.env("NEUROSHARD_STEPS", "few");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("NEUROSHARD_STEPS: `few`"));
    assert!(!scratch.path("node").exists(), "nothing was created");
}

#[test]
fn a_gpu_that_is_demanded_and_not_there_is_an_error_before_anything_is_created() {
    let scratch = Scratch::new();
    let finished = scratch.run("node", "--adapter gpu:no-such-device");
    finished.failed(4, &["no-such-device", "use the CPU", "or "]);
    assert!(!scratch.path("node").exists());
}

#[test]
fn budgets_that_are_too_small_are_told_with_the_numbers() {
    let scratch = Scratch::new();
    let config = scratch.config("");
    let run =
        |more: &str| scratch.run("node", &format!("--config {} --data synthetic --steps 2 {more}", config.display()));
    run("--disk 100KB").failed(1, &["exceed the disk budget", "Allow more with --disk"]);
    run("--disk 4500KB").failed(1, &["two snapshots of this model take", "--disk"]);
    // Too little memory is a mode, not an error: the node waits for one that it qualifies for.
    let config = format!("--config {} --memory 1000", config.display());
    let mut node = scratch.start("small", &config);
    let mode = node.wait_for("mode", |_| true);
    assert_eq!(mode["mode"], "idle");
    assert!(mode["reason"].as_str().unwrap().contains("--memory"), "{mode}");
}
