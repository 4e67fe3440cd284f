//! The command line.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{ArgGroup, Args, Parser, Subcommand};

use neuroshard_host::throttle::Throttle;
use neuroshard_replay::At;

use crate::settings::Settings;
use crate::values::{
    Adapter, Address, Digits, Door, Faults, FounderCode, Hours, ModeWish, Money, Name, PresetName, Seed, Seeds, Share,
    Size, Strategies,
};

const EXIT_CODES: &str = "\
Settings come from flags, then NEUROSHARD_* environment variables (NEUROSHARD_DATA_DIR, ...), then the configuration file \
(~/.config/neuroshard/config.toml unless --config names another), then defaults.

Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong command line or configuration; 3 the data \
directory is in use by another process; 4 the device that was demanded is not there; 130 quit without saving.";

/// Trains one language model together with whoever wants to, starting with this machine alone.
///
/// Without a command, `neuroshard run`.
#[derive(Debug, Parser)]
#[command(name = "neuroshard", version = version(), after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) run: RunFlags,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The program's version and the wire's.
pub(crate) fn version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{} (wire version {})", env!("CARGO_PKG_VERSION"), neuroshard_proto::WIRE_VERSION));
    &TEXT
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Where keys, data and weights lie [default: ~/.local/share/neuroshard]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// A configuration file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// What to log to standard error: a level, or a list like warn,neuroshard_host=debug
    #[arg(long, value_name = "FILTER", global = true)]
    pub(crate) log: Option<String>,
    /// One JSON object a line instead of words
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Flags of `run`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunFlags {
    /// Text to train on: files and folders, `book` (this project's own text) or `synthetic` [default: book]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) data: Option<Vec<PathBuf>>,
    /// The model: nano, micro or genesis [default: nano]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<PresetName>,
    /// Stop after so many optimizer steps since the network's beginning
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
    /// Any text; equal seeds and data give equal weights, bit for bit [default: random]
    #[arg(long, value_name = "TEXT")]
    pub(crate) seed: Option<Seed>,
    /// What computes: auto, cpu, gpu or gpu:NAME [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) adapter: Option<Adapter>,
    /// Memory the node may use [default: all of it]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Size>,
    /// Disk that data and snapshots may use together [default: 16GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Size>,
    /// Threads of the CPU [default: all, at low priority]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Compute so many times slower than the device could; the self-benchmark is slower too [default: 1]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) throttle: Option<Throttle>,
    /// How to contribute, where the node qualifies: auto, solo, async, idle, ... [default: auto]
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<ModeWish>,
    /// Train together with others: a file that says who runs which stages, the same for all [default: the one given before]
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Write a trace of every input to a new file, for `neuroshard replay`
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Leave out of the trace what the core answered; it then takes a tenth of the room or less
    #[arg(long, requires = "record")]
    pub(crate) record_inputs_only: bool,
    /// Port of the local HTTP API on 127.0.0.1 [default: the system chooses]
    #[arg(long, value_name = "PORT")]
    pub(crate) api_port: Option<u16>,
    /// Save and stop when standard input is closed, so that the node does not outlive the program that started it
    #[arg(long, hide_short_help = true)]
    pub(crate) until_stdin_closes: bool,
    #[command(flatten)]
    pub(crate) net: NetFlags,
    /// Another founder of the network that is founded here, by the code of `neuroshard keys founder`; may be repeated
    #[arg(long, value_name = "CODE")]
    pub(crate) founder: Vec<FounderCode>,
}

/// Flags for being one of many nodes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NetFlags {
    /// Let other nodes connect here, like 0.0.0.0:4700; may be repeated [default: this node only dials]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<Address>,
    /// Connect to a node of this network; may be repeated [default: those met before]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) connect: Vec<Address>,
    /// An address under which others reach this node; may be repeated [default: those it listens on]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) announce: Vec<Address>,
    /// Neither call nor listen on the local network for nodes of this network
    #[arg(long)]
    pub(crate) no_lan: bool,
    /// Do not pass on what others send to nodes that nobody can dial
    #[arg(long)]
    pub(crate) no_relay: bool,
}

impl NetFlags {
    fn add_to(&self, settings: Settings) -> Settings {
        Settings {
            listen: said(&self.listen),
            connect: said(&self.connect),
            announce: said(&self.announce),
            lan: self.no_lan.then_some(false),
            relay: self.no_relay.then_some(false),
            ..settings
        }
    }
}

/// What a flag said, if it was there at all.
fn said<T: Clone>(values: &[T]) -> Option<Vec<T>> {
    (!values.is_empty()).then(|| values.to_vec())
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Train: found a network in a new data directory, or go on with the one that is there
    Run(RunFlags),
    /// Join a running network by an invite, by a node's address, or the one on the local network; then take part in it
    Join(JoinFlags),
    /// Print an invite to this network, for `neuroshard join`
    Invite {
        /// How long it holds
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=365))]
        days: u16,
    },
    /// Run a network of several nodes on this machine and watch it: kill one and see it replaced
    Devnet(DevnetFlags),
    /// Tell how the node stands, whether it runs or not
    Status,
    /// Take the node that runs away for good: it hands its stages over to the others first, then stops
    Leave,
    /// Look for what could keep a node from working, one line each
    Doctor(DoctorFlags),
    /// Print the protocol's numbers as they are in force
    Params,
    /// Work with text
    #[command(subcommand)]
    Data(DataCommand),
    /// Work with the secret keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Continue a text with the weights saved last; a node may be training them meanwhile
    Generate(GenerateFlags),
    /// Write the weights saved last as a Llama checkpoint that `transformers` loads
    Export {
        /// A new or empty directory
        dir: PathBuf,
        /// Replace an earlier export
        #[arg(long)]
        force: bool,
    },
    /// Found a network that begins with the weights of a checkpoint
    Import(ImportFlags),
    /// Write the logits of given tokens under a checkpoint, for the program that compares them with another's
    #[command(hide = true)]
    Logits {
        /// A directory that `export` wrote
        dir: PathBuf,
        /// Tokens as 16-bit little-endian numbers
        tokens: PathBuf,
        /// A new file: singles, little-endian, a row for each token
        out: PathBuf,
        /// Tokens after which the context is forgotten [default: those of a training sequence]
        #[arg(long, value_name = "N")]
        sequence: Option<u32>,
    },
    /// Move money and stake, and see what an account has
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Tell what the network has agreed on: height, epoch, validators, money; or who trains what, and why
    Network {
        #[command(subcommand)]
        command: Option<NetworkCommand>,
    },
    /// Run a recorded trace again, without clock, network or device, and compare every step
    Replay {
        /// A file that `--record` wrote
        file: PathBuf,
    },
    /// Look into recorded traces
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Run worlds of many nodes under virtual time, with faults and liars, and check what must hold
    Sim(SimFlags),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct JoinFlags {
    /// An invite code, or the address of a node, like 203.0.113.7:4700 [default: look around on the local network]
    pub(crate) door: Option<Door>,
    #[command(flatten)]
    pub(crate) run: RunFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DevnetFlags {
    /// Nodes, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// The model: nano, micro or genesis [default: nano]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<PresetName>,
    /// Give each node memory for so many stages only, layers or the head [default: one less than the model has, so
    /// that no node can train alone]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) layers_per_node: Option<u32>,
    /// How many times slower each node is than it could be; the list repeats where it ends [default: 1,1,4,40,160]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) throttle: Vec<Throttle>,
    /// Stop after so many optimizer steps
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
    /// Leave a node that was killed as it is, instead of starting it again after five seconds
    #[arg(long)]
    pub(crate) no_restart: bool,
}

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SimFlags {
    #[command(flatten)]
    pub(crate) world: WorldFlags,
    /// The worlds of many seeds, FROM..TO, on all cores
    #[arg(long, value_name = "RANGE", conflicts_with_all = ["seed", "script", "events", "traces"])]
    pub(crate) seeds: Option<Seeds>,
    /// Run each world once, without the second run and the replay of each node that prove it
    #[arg(long)]
    pub(crate) once: bool,
    /// Write a line for each step to a new file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Write the script of the world to a new file
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Write a trace of every life of every node into a new directory, for `neuroshard replay`
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<SimCommand>,
}

/// Which world.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorldFlags {
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) nodes: u32,
    /// How long things go wrong, in hours of the world's time; a calm follows in which all must agree
    #[arg(long, value_name = "H", default_value = "0.2")]
    pub(crate) hours: Hours,
    /// Draws everything that is not said here
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// What may go wrong: all, none, or some of loss, duplicate, reorder, corrupt, bandwidth, partition, clog, crash, disk,
    /// clock, compute, churn. The seed draws which of them do
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub(crate) faults: Faults,
    /// Let everything in the list go wrong, whatever the seed draws
    #[arg(long)]
    pub(crate) every_fault: bool,
    /// Share of the nodes that lie, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0")]
    pub(crate) byzantine: Share,
    /// How they may: all, or some of twins, silence, stale, certificates, garbage
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub(crate) strategies: Strategies,
    /// Nodes hold no layers: they listen and do not train
    #[arg(long)]
    pub(crate) idle: bool,
    /// Nodes of different speed and room form quorums and train together
    #[arg(long)]
    pub(crate) quorums: bool,
    /// A world from a script instead of a seed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "hours", "seed", "faults", "byzantine", "idle", "quorums"])]
    pub(crate) script: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Leave out of a failing world what its failure does not need, and write what is left as a script
    Minimise {
        #[command(flatten)]
        world: WorldFlags,
        /// A new file
        out: PathBuf,
        /// Most worlds to run
        #[arg(long, value_name = "N", default_value_t = 2000)]
        attempts: u32,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Tell what a trace is of, how long it is and how it ends
    Info { file: PathBuf },
    /// Print a line for each step: input, and what came of it
    Cat {
        file: PathBuf,
        /// Only inputs of these kinds: tick, message, persisted, computed, command
        #[arg(long, value_name = "KIND", value_delimiter = ',')]
        kind: Vec<String>,
        /// The first step to print, or a time: 1200 or 3.5s
        #[arg(long, value_name = "PLACE")]
        from: Option<At>,
        /// The last one
        #[arg(long, value_name = "PLACE")]
        to: Option<At>,
    },
    /// Find the first step that differs between two traces
    Diff { first: PathBuf, second: PathBuf },
    /// Replay to a place and print the state there
    State {
        file: PathBuf,
        /// A step, or a time: 1200 or 3.5s
        #[arg(long, value_name = "PLACE")]
        at: At,
    },
    /// Leave out what does not matter for a symptom, and write what is left as a new trace
    #[command(group = ArgGroup::new("symptom").required(true))]
    Minimise {
        file: PathBuf,
        /// A new file
        out: PathBuf,
        /// Some output's line, as `trace cat` prints it, holds this text
        #[arg(long, value_name = "TEXT", group = "symptom")]
        output: Option<String>,
        /// A step panics
        #[arg(long, group = "symptom")]
        panic: bool,
        /// Most replays to make
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        attempts: u32,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GenerateFlags {
    /// The text to go on from; `-` reads it from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Stop after so many tokens, if the model does not end the document before
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: u64,
    /// 0 takes the likeliest token, 1 draws as the model says, more is wilder
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Any text; with equal seeds the same weights write the same [default: random]
    #[arg(long, value_name = "TEXT")]
    pub(crate) seed: Option<Seed>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ImportFlags {
    /// A directory with config.json, model.safetensors and tokenizer.json
    pub(crate) dir: PathBuf,
    /// Text to train on from now: files and folders, `book` or `synthetic` [default: book]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) data: Option<Vec<PathBuf>>,
    /// Whose recipe to train by [default: the checkpoint's own, or that of the preset most like it]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<PresetName>,
    /// Any text; decides in which order the data is read [default: random]
    #[arg(long, value_name = "TEXT")]
    pub(crate) seed: Option<Seed>,
    /// Disk that data and snapshots may use together [default: 16GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Size>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorFlags {
    /// The device to look at [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) adapter: Option<Adapter>,
    /// Threads of the CPU [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Look at the way to other nodes instead of the device: whether this node can listen, and who answers
    #[arg(long)]
    pub(crate) network: bool,
    #[command(flatten)]
    pub(crate) net: NetFlags,
}

impl DoctorFlags {
    /// The flags as settings.
    pub(crate) fn settings(&self) -> Settings {
        let (adapter, threads) = (self.adapter.clone(), self.threads.map(usize::from));
        self.net.add_to(Settings { adapter, threads, ..Settings::default() })
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Pack text into a directory that `--data` takes: pack once, train many times
    Pack {
        /// Files and folders of text
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// A new or empty directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The model whose sequences must fit into a shard [default: genesis, which suits all]
        #[arg(long, value_name = "NAME")]
        preset: Option<PresetName>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum WalletCommand {
    /// Show an account: this owner's, or another one
    Balance { account: Option<Name> },
    /// Show an account's transactions, newest first, each with its proof checked: all of this owner's; another one's in the
    /// blocks that the node keeps
    History {
        account: Option<Name>,
        /// Those below this height
        #[arg(long, value_name = "HEIGHT")]
        before: Option<u64>,
    },
    /// Pay another account. The fee of 5 % comes on top and is burned
    Transfer {
        to: Name,
        /// In NEURO, like 12 or 0.5
        amount: Money,
        /// Do not wait until it is decided
        #[arg(long)]
        no_wait: bool,
    },
    /// Put money at stake: it votes, and answers for what this owner's nodes do
    Bond {
        amount: Money,
        /// Do not wait until it is decided
        #[arg(long)]
        no_wait: bool,
    },
    /// Take stake back; it is free after seven days
    Unbond {
        amount: Money,
        /// Do not wait until it is decided
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// The quorums that train: members, stages, and when the session ends
    Quorums,
    /// The registered nodes: what they can and hold, and what they do
    Nodes,
    /// The stages of the model: who holds them, who runs them, and what was posted last
    Layers,
    /// Why a node trains or does not, and what to do
    Why {
        /// The first digits of its name; `neuroshard network nodes` lists all
        node: Digits,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Write the keys to a new file. Whoever has it is you
    Backup { file: PathBuf },
    /// Put the keys of a backup into a data directory that has none
    Restore { file: PathBuf },
    /// Print the code by which another node founds a network together with this one; makes keys if there are none
    Founder,
    /// Print the names of this node and its owner; makes keys if there are none
    Show,
}

impl Common {
    /// The flags as settings.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            data_dir: self.data_dir.clone(),
            log: self.log.clone(),
            json: self.json.then_some(true),
            ..Settings::default()
        }
    }
}

impl RunFlags {
    /// The flags as settings.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            data: self.data.clone(),
            preset: self.preset,
            steps: self.steps,
            seed: self.seed.clone(),
            adapter: self.adapter.clone(),
            memory: self.memory,
            disk: self.disk,
            threads: self.threads.map(usize::from),
            throttle: self.throttle,
            mode: self.mode,
            plan: self.plan.clone(),
            record: self.record.clone(),
            record_inputs_only: self.record_inputs_only.then_some(true),
            api_port: self.api_port,
            until_stdin_closes: self.until_stdin_closes.then_some(true),
            founder: said(&self.founder),
            ..self.net.add_to(Settings::default())
        }
    }
}

impl ImportFlags {
    /// The flags as settings.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            data: self.data.clone(),
            preset: self.preset,
            seed: self.seed.clone(),
            disk: self.disk,
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_flags_are_those_of_run() {
        let cli = Cli::try_parse_from(["neuroshard", "--steps", "5", "--data", "a", "b"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.settings().steps, Some(5));
        assert_eq!(cli.run.settings().data.map(|data| data.len()), Some(2));
        let cli = Cli::try_parse_from(["neuroshard", "run", "--steps", "5", "--data-dir", "x"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Run(RunFlags { steps: Some(5), .. }))));
        assert_eq!(cli.common.settings().data_dir, Some("x".into()));
    }

    #[test]
    fn a_wrong_value_is_answered_with_what_would_be_right() {
        let message = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().to_string();
        let error = message(&["neuroshard", "--preset", "nanno"]);
        assert!(error.contains("there are nano, micro and genesis"), "{error}");
        assert!(message(&["neuroshard", "--threads", "0"]).contains("1..=1024"));
        assert!(message(&["neuroshard", "--step", "5"]).contains("--steps"));
    }
}
