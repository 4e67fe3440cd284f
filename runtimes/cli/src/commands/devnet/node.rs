//! One node of a devnet: a process of this same program, its lives one after the other, and what it tells of itself.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use neuroshard_host::api::running_status;
use neuroshard_host::directory::Paths;
use neuroshard_host::home::Visit;
use neuroshard_host::status::Status;

use super::Options;

/// How often a node is asked how it stands.
const ASK_EVERY: Duration = Duration::from_millis(400);

/// What a node answered.
pub(super) type Answer = (usize, Box<Status>);

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not been started yet: the first node has no address so far.
    Waits,
    /// Its process runs and does not answer yet.
    Starts,
    Runs,
    /// Its process ended, in these words; it may come back at a moment.
    Gone {
        why: String,
        back: Option<Instant>,
    },
    /// Its process came to the last step, saved and ended.
    Done,
}

impl State {
    /// One word for the table.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Starts => "starts",
            Self::Runs => "runs",
            Self::Gone { .. } => "gone",
            Self::Done => "done",
        }
    }
}

/// A process, which does not outlive this.
#[derive(Debug)]
struct Process {
    child: Child,
    /// The node stops when this is closed, be it because this program was killed.
    stdin: Option<ChildStdin>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that was waited for already cannot be killed, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node of a devnet.
#[derive(Debug)]
pub(super) struct Node {
    /// Counted from 1.
    pub(super) number: usize,
    dir: PathBuf,
    log: PathBuf,
    pub(super) state: State,
    process: Option<Process>,
    /// The last one, after its end too.
    pub(super) pid: Option<u32>,
    /// The newest answer of any of its processes.
    pub(super) status: Option<Status>,
    /// Whether the process that runs, or ran last, ever answered.
    answered: bool,
    /// Where it listens, in every one of its lives.
    pub(super) address: Option<String>,
}

impl Node {
    pub(super) fn new(number: usize, root: &Path) -> Self {
        let name = format!("node-{number}");
        Self {
            number,
            log: root.join(format!("{name}.log")),
            dir: root.join(name),
            state: State::Waits,
            process: None,
            pid: None,
            status: None,
            answered: false,
            address: None,
        }
    }

    /// Starts the node's process: the first node founds the network or finds it again, the others enter by the invite.
    /// `others` is where the other nodes listen.
    ///
    /// # Errors
    /// If the system starts no process.
    pub(super) fn start(&mut self, options: &Options, invite: Option<&str>, others: &[String]) -> io::Result<u32> {
        let mut command = Command::new(std::env::current_exe()?);
        match invite {
            None => {
                command.arg("run");
                if let Some(preset) = options.preset {
                    command.args(["--preset", preset.0.name()]);
                }
            }
            Some(invite) => {
                command.args(["join", invite]);
            }
        }
        let throttle = options.throttle(self.number).to_string();
        command.args(["--adapter", "cpu", "--threads", &options.threads.to_string(), "--throttle", &throttle]);
        command.args(["--listen", self.address.as_deref().unwrap_or("127.0.0.1:0"), "--until-stdin-closes"]);
        command.arg("--data-dir").arg(&self.dir).arg("--config").arg(&options.config);
        command.args(["--memory", &options.memory.to_string()]);
        if let Some(steps) = options.steps {
            command.args(["--steps", &steps.to_string()]);
        }
        if let Some(filter) = &options.log {
            command.args(["--log", filter]);
        }
        for address in others {
            command.args(["--connect", address]);
        }
        // What the environment says is meant for one node, not for all of these.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NEUROSHARD_")) {
            command.env_remove(name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for this program, which stops the nodes in its own way.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let pid = child.id();
        let stdin = child.stdin.take();
        self.process = Some(Process { child, stdin });
        (self.pid, self.state, self.answered) = (Some(pid), State::Starts, false);
        Ok(pid)
    }

    /// Asks the node how it stands, again and again on a thread of its own, until nobody hears the answers.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn ask(&self, answers: Sender<Answer>) -> io::Result<()> {
        let (number, dir) = (self.number, self.dir.clone());
        let ask = move || {
            loop {
                // There is no directory before the first start.
                let status = Paths::of_existing(&dir).ok().and_then(|paths| running_status(&paths));
                if status.is_some_and(|status| answers.send((number, Box::new(status))).is_err()) {
                    return;
                }
                thread::sleep(ASK_EVERY);
            }
        };
        thread::Builder::new().name(format!("ask-{number}")).spawn(ask).map(drop)
    }

    /// Takes note of an answer, if it is the process's that runs now.
    pub(super) fn on_status(&mut self, status: Status) {
        if status.process != self.pid || self.process.is_none() {
            return;
        }
        let listening = status.net.as_ref().and_then(|net| net.listening.first());
        self.address = listening.cloned().or(self.address.take());
        (self.status, self.state, self.answered) = (Some(status), State::Runs, true);
    }

    /// How the process ended, if it has since the last look.
    pub(super) fn look(&mut self) -> Option<End> {
        let ended = self.process.as_mut()?.child.try_wait().ok()??;
        self.process = None;
        // Its last answer is from a moment before.
        if let Some(status) = self.status.as_mut().filter(|_| ended.success())
            && let Ok(visit) = Visit::open(&self.dir)
        {
            status.step = visit.status().step;
        }
        Some(End { done: ended.success(), answered: self.answered, why: self.words(ended) })
    }

    /// Asks the process to save and end.
    pub(super) fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stdin = None;
        }
    }

    /// Whether there is a process.
    pub(super) const fn lives(&self) -> bool {
        self.process.is_some()
    }

    /// Ends the process as it is.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// What a process's end looks like to people.
    fn words(&self, ended: ExitStatus) -> String {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&ended) {
            return format!("was killed by signal {signal}");
        }
        match ended.code() {
            Some(0) => "saved and stopped, as it was told".to_owned(),
            code => {
                let code = code.map_or_else(|| "?".to_owned(), |code| code.to_string());
                let said = last_line(&self.log).map_or_else(String::new, |line| format!(": {line}"));
                format!("failed with code {code}{said}")
            }
        }
    }
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct End {
    /// It saved and ended in order, at the last step or because somebody told it to.
    pub(super) done: bool,
    /// It had begun its work.
    pub(super) answered: bool,
    pub(super) why: String,
}

/// The last line of a log that says anything.
fn last_line(log: &Path) -> Option<String> {
    const LINE_CHARS_MAX: usize = 400;
    let lines = BufReader::new(File::open(log).ok()?).lines().map_while(Result::ok);
    let last = lines.filter(|line| !line.trim().is_empty()).last()?;
    Some(last.trim_start_matches("neuroshard: ").chars().take(LINE_CHARS_MAX).collect())
}
