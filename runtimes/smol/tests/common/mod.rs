//! Real processes of the real program, each in a world of its own.
#![allow(dead_code, reason = "no test file uses all of it")]

pub(crate) mod crew;
pub(crate) mod proxy;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The node under test: the one whose package these tests are compiled in.
pub(crate) const PROGRAM: &str =
    match (option_env!("CARGO_BIN_EXE_neuroshard"), option_env!("CARGO_BIN_EXE_neuroshard-async-std")) {
        (Some(program), _) | (None, Some(program)) => program,
        (None, None) => panic!("these are tests of a program"),
    };
/// A wait that takes longer has failed; far above what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// A process that is read from for longer has failed, however much it tells.
const LIFE_MAX: Duration = Duration::from_secs(300);

/// A model that takes a millisecond a step.
pub(crate) const TOY: &str = "
[model]
layers = 1
hidden = 32
heads = 2
kv-heads = 1
ffn = 64
context = 64
[training]
batch = 4
sequence = 32
";

/// A directory for everything of one test.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration file: the toy model and more.
    pub(crate) fn config(&self, more: &str) -> PathBuf {
        let path = self.path("config.toml");
        std::fs::write(&path, format!("{TOY}{more}")).unwrap();
        path
    }

    /// A configuration whose model has five stages.
    pub(crate) fn deep_config(&self, more: &str) -> String {
        let path = self.config(more);
        let text = std::fs::read_to_string(&path).unwrap().replace("layers = 1", "layers = 4");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The program with these arguments, split at spaces, on data directory `name`.
    pub(crate) fn command(&self, name: &str, arguments: &str) -> Command {
        self.command_of(Path::new(PROGRAM), name, arguments)
    }

    fn command_of(&self, program: &Path, name: &str, arguments: &str) -> Command {
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("NEUROSHARD_")) {
            command.env_remove(variable);
        }
        command.env("HOME", self.dir.path()).env_remove("XDG_DATA_HOME").env_remove("XDG_CONFIG_HOME");
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.args(arguments.split_whitespace()).arg("--data-dir").arg(self.path(name));
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, name: &str, arguments: &str) -> Finished {
        self.run_program(Path::new(PROGRAM), name, arguments)
    }

    /// The same with another program.
    pub(crate) fn run_program(&self, program: &Path, name: &str, arguments: &str) -> Finished {
        let output = self.command_of(program, name, arguments).output().unwrap();
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the program with `--json` and reads what it tells.
    pub(crate) fn start(&self, name: &str, arguments: &str) -> Running {
        self.start_program(Path::new(PROGRAM), name, arguments)
    }

    /// The same with another program.
    pub(crate) fn start_program(&self, program: &Path, name: &str, arguments: &str) -> Running {
        Running::start(self.command_of(program, name, &format!("{arguments} --json")))
    }

    /// `status --json`.
    pub(crate) fn status(&self, name: &str) -> Value {
        let finished = self.run(name, "status --json");
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        serde_json::from_str(&finished.stdout).unwrap()
    }
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The JSON lines of standard output.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The lines of an event.
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["event"] == name).collect()
    }

    /// Demands that it failed with this code and that the message holds these words.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is missing in: {}", self.stderr);
        }
    }
}

/// A process that runs. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    begun: Instant,
    lines: Receiver<String>,
    /// What it told so far.
    pub(crate) told: Vec<Value>,
}

impl Running {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_logging_to(command, Stdio::inherit())
    }

    /// Starts with a standard error of its own.
    pub(crate) fn start_logging_to(mut command: Command, log: impl Into<Stdio>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, begun: Instant::now(), lines, told: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line; `None` when standard output is closed.
    pub(crate) fn next(&mut self) -> Option<Value> {
        assert!(self.begun.elapsed() < LIFE_MAX, "it goes on and on; its last words: {:?}", self.told.last());
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("nothing was told for {PATIENCE:?} after {:?}", self.told.last())
            }
        };
        // A killed process may leave half a line.
        let value: Value = serde_json::from_str(&line).ok()?;
        self.told.push(value.clone());
        Some(value)
    }

    /// Takes what it told meanwhile, without waiting. Of steps in a row only the last is kept.
    pub(crate) fn hear(&mut self) {
        for line in self.lines.try_iter() {
            // A killed process may leave half a line.
            let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
            let step = |line: &Value| line["event"] == "step";
            if step(&value) && self.told.last().is_some_and(step) {
                self.told.pop();
            }
            self.told.push(value);
        }
    }

    /// How it ended, if it has, after everything it told.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().unwrap();
        if ended.is_some() {
            // Nothing is left in the pipe of a process that is gone, once its reader has come to the end.
            while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
                self.told.extend(serde_json::from_str::<Value>(&line));
            }
        } else {
            self.hear();
        }
        ended
    }

    /// Waits for a line that suits.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, suits: impl Fn(&Value) -> bool) -> Value {
        while let Some(line) = self.next() {
            if suits(&line) {
                return line;
            }
        }
        panic!("it ended too early; its last words: {:#?}", &self.told[self.told.len().saturating_sub(5)..]);
    }

    /// Waits for an event that suits.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str, suits: impl Fn(&Value) -> bool) -> Value {
        self.wait_until(|line| line["event"] == event && suits(line))
    }

    /// Waits for a step of at least this number.
    #[track_caller]
    pub(crate) fn wait_for_step(&mut self, step: u64) -> Value {
        self.wait_for("step", |line| line["step"].as_u64() >= Some(step))
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the child is ours and was not waited for, so its number is not anybody else's.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0);
    }

    /// Reads to the end and waits.
    pub(crate) fn finish(&mut self) -> ExitStatus {
        while self.next().is_some() {}
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last event of a kind so far.
    pub(crate) fn last(&self, event: &str) -> Option<&Value> {
        self.told.iter().rev().find(|line| line["event"] == event)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers for choosing moments; the seed is printed by a failing test's output.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        println!("dice seeded with {seed}");
        Self(seed)
    }

    /// A number below `bound`: an xorshift, good enough to choose moments.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Limits the size of any file that a process may write: what exceeds it fails as on a full disk.
pub(crate) fn limit_file_size(process: libc::pid_t, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is read only, and nothing is asked back.
    let set = unsafe { libc::prlimit(process, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Room for nothing but the database's two head pages, which are there already: the disk is full.
pub(crate) const FULL: u64 = 8192;

/// Kilobytes of memory that a process uses.
pub(crate) fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
