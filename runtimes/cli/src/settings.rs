//! What the operator wants, from four places: a flag is stronger than the environment (`NEUROSHARD_*`), that is stronger
//! than the configuration file, and that is stronger than the default.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use neuroshard_core::Operator;
use neuroshard_host::throttle::Throttle;
use neuroshard_proto::{
    ALLOCATIONS_MAX, Allocation, FOUNDERS_MAX, Founder, List, ModelSpec, OwnerId, Params, Preset, Ratio, TrainSpec,
};
use serde::Deserialize;

use crate::values::{Adapter, Address, FounderCode, ModeWish, Money, Name, PresetName, Seed, Size};

/// Prefix of environment variables.
const PREFIX: &str = "NEUROSHARD_";
/// Largest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Disk for data and snapshots together, unless the operator says otherwise.
const DISK_DEFAULT: Size = Size(16 << 30);
/// Memory to assume where the system does not tell.
const MEMORY_UNKNOWN: u64 = 4 << 30;

/// Settings of one place. What is `None` was not said there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    pub data_dir: Option<PathBuf>,
    /// Files and folders, or `book` or `synthetic`.
    #[serde(default, deserialize_with = "one_or_more")]
    pub data: Option<Vec<PathBuf>>,
    pub preset: Option<PresetName>,
    pub steps: Option<u64>,
    pub seed: Option<Seed>,
    pub adapter: Option<Adapter>,
    pub memory: Option<Size>,
    pub disk: Option<Size>,
    pub threads: Option<usize>,
    /// How many times slower the device computes than it could.
    pub throttle: Option<Throttle>,
    pub mode: Option<ModeWish>,
    /// Who runs which stages.
    pub plan: Option<PathBuf>,
    pub log: Option<String>,
    pub json: Option<bool>,
    pub record: Option<PathBuf>,
    pub record_inputs_only: Option<bool>,
    pub api_port: Option<u16>,
    /// Stop when standard input is closed.
    pub until_stdin_closes: Option<bool>,
    /// Where others reach this node.
    #[serde(default, deserialize_with = "one_or_more")]
    pub listen: Option<Vec<Address>>,
    /// Nodes to connect to.
    #[serde(default, deserialize_with = "one_or_more")]
    pub connect: Option<Vec<Address>>,
    /// Addresses under which others reach this node, in place of those it listens on.
    #[serde(default, deserialize_with = "one_or_more")]
    pub announce: Option<Vec<Address>>,
    /// Whether to call and listen on the local network.
    pub lan: Option<bool>,
    /// Whether to be a relay to nodes that nobody can dial.
    pub relay: Option<bool>,
    /// The other founders of a new network.
    #[serde(default, deserialize_with = "one_or_more")]
    pub founder: Option<Vec<FounderCode>>,
    /// Changes to the preset, for networks of one's own.
    #[serde(default)]
    pub model: ModelChanges,
    #[serde(default)]
    pub training: TrainChanges,
    #[serde(default)]
    pub snapshots: SnapshotSettings,
    #[serde(default)]
    pub evaluation: EvaluationSettings,
    /// `[allocations]`: money that a new network begins with, in NEURO by account; `me` is the founder's own.
    #[serde(default)]
    pub allocations: BTreeMap<String, String>,
}

/// One string or a list of them.
fn one_or_more<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "one value or a list of them, each in the form that the flag of this name takes")]
    enum OneOrMore<T> {
        One(T),
        More(Vec<T>),
    }
    Ok(Some(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(path) => vec![path],
        OneOrMore::More(paths) => paths,
    }))
}

macro_rules! changes {
    ($(#[$doc:meta])* $name:ident changes $spec:ty { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            $(pub $field: Option<u32>,)*
        }

        impl $name {
            fn is_nothing(&self) -> bool {
                *self == Self::default()
            }

            fn apply(&self, spec: &mut $spec) {
                $(if let Some(value) = self.$field { spec.$field = value; })*
            }
        }
    };
}

changes! {
    /// `[model]`: numbers of the shape that replace the preset's (PROTOCOL §13).
    ModelChanges changes ModelSpec { layers, hidden, heads, kv_heads, ffn, context }
}

changes! {
    /// `[training]`: numbers of the recipe that replace the preset's (PROTOCOL §13).
    TrainChanges changes TrainSpec {
        batch, sequence, peak_rate_nano, warmup, horizon, floor_ppm, beta1_ppm, beta2_ppm, weight_decay_ppm,
        epsilon_pico, clip_ppm,
    }
}

/// `[snapshots]`: how often the model is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SnapshotSettings {
    pub every_s: Option<u64>,
    pub every_steps: Option<u64>,
    pub keep: Option<u32>,
    /// Share of the time that saving may take, in parts per million.
    pub share_ppm: Option<u32>,
}

/// `[evaluation]`: how often the held-out loss is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EvaluationSettings {
    pub every_steps: Option<u64>,
    /// Share of the time that measuring may take, in parts per million.
    pub share_ppm: Option<u32>,
}

/// Why settings cannot be used.
#[derive(Debug)]
pub enum SettingsError {
    /// A file that was named cannot be read, or is no configuration.
    File { path: PathBuf, why: String },
    /// An environment variable has a value that means nothing.
    Environment { name: String, why: String },
    /// There is no home directory to put the data directory in.
    NoHome,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, why } => write!(f, "the configuration file {}: {}", path.display(), why.trim_end()),
            Self::Environment { name, why } => write!(f, "the environment variable {name}: {why}"),
            Self::NoHome => {
                f.write_str("there is no home directory to keep data in. Name a directory with --data-dir.")
            }
        }
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Settings of a configuration file.
    ///
    /// # Errors
    /// If it cannot be read, or holds anything that is no setting.
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let fail = |why: String| SettingsError::File { path: path.to_owned(), why };
        let length = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(fail(format!("it has {length} bytes, at most {FILE_BYTES_MAX} are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        toml::from_str(&text).map_err(|error| fail(error.to_string()))
    }

    /// Settings of the environment. `variable` answers with a variable's value.
    ///
    /// # Errors
    /// The first variable whose value means nothing.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        fn read<T: FromStr<Err: fmt::Display>>(
            variable: &impl Fn(&str) -> Option<String>,
            name: &str,
        ) -> Result<Option<T>, SettingsError> {
            let name = format!("{PREFIX}{name}");
            let Some(text) = variable(&name).filter(|text| !text.is_empty()) else { return Ok(None) };
            let fail = |why: T::Err| SettingsError::Environment { name, why: format!("`{text}`: {why}") };
            text.parse().map(Some).map_err(fail)
        }
        fn read_all<T: FromStr<Err: fmt::Display>>(
            variable: &impl Fn(&str) -> Option<String>,
            name: &str,
        ) -> Result<Option<Vec<T>>, SettingsError> {
            let Some(text) = read::<String>(variable, name)? else { return Ok(None) };
            let one = |text: &str| read(&|_: &str| Some(text.to_owned()), name);
            let all: Result<Vec<Option<T>>, _> = text.split(',').map(str::trim).map(one).collect();
            all.map(|all| Some(all.into_iter().flatten().collect()))
        }
        let data: Option<String> = read(&variable, "DATA")?;
        Ok(Self {
            data_dir: read(&variable, "DATA_DIR")?,
            data: data.map(|paths| std::env::split_paths(&paths).collect()),
            preset: read(&variable, "PRESET")?,
            steps: read(&variable, "STEPS")?,
            seed: read(&variable, "SEED")?,
            adapter: read(&variable, "ADAPTER")?,
            memory: read(&variable, "MEMORY")?,
            disk: read(&variable, "DISK")?,
            threads: read(&variable, "THREADS")?,
            throttle: read(&variable, "THROTTLE")?,
            mode: read(&variable, "MODE")?,
            plan: read(&variable, "PLAN")?,
            log: read(&variable, "LOG")?,
            json: read(&variable, "JSON")?,
            record: read(&variable, "RECORD")?,
            record_inputs_only: read(&variable, "RECORD_INPUTS_ONLY")?,
            api_port: read(&variable, "API_PORT")?,
            until_stdin_closes: read(&variable, "UNTIL_STDIN_CLOSES")?,
            listen: read_all(&variable, "LISTEN")?,
            connect: read_all(&variable, "CONNECT")?,
            announce: read_all(&variable, "ANNOUNCE")?,
            lan: read(&variable, "LAN")?,
            relay: read(&variable, "RELAY")?,
            founder: read_all(&variable, "FOUNDER")?,
            ..Self::default()
        })
    }

    /// These settings, and where they say nothing those.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            data: self.data.or(other.data),
            preset: self.preset.or(other.preset),
            steps: self.steps.or(other.steps),
            seed: self.seed.or(other.seed),
            adapter: self.adapter.or(other.adapter),
            memory: self.memory.or(other.memory),
            disk: self.disk.or(other.disk),
            threads: self.threads.or(other.threads),
            throttle: self.throttle.or(other.throttle),
            mode: self.mode.or(other.mode),
            plan: self.plan.or(other.plan),
            log: self.log.or(other.log),
            json: self.json.or(other.json),
            record: self.record.or(other.record),
            record_inputs_only: self.record_inputs_only.or(other.record_inputs_only),
            api_port: self.api_port.or(other.api_port),
            until_stdin_closes: self.until_stdin_closes.or(other.until_stdin_closes),
            listen: self.listen.or(other.listen),
            connect: self.connect.or(other.connect),
            announce: self.announce.or(other.announce),
            lan: self.lan.or(other.lan),
            relay: self.relay.or(other.relay),
            founder: self.founder.or(other.founder),
            // Tables stand in files only, and there is one file.
            model: if self.model.is_nothing() { other.model } else { self.model },
            training: if self.training.is_nothing() { other.training } else { self.training },
            snapshots: if self.snapshots == SnapshotSettings::default() { other.snapshots } else { self.snapshots },
            evaluation: if self.evaluation == EvaluationSettings::default() {
                other.evaluation
            } else {
                self.evaluation
            },
            allocations: if self.allocations.is_empty() { other.allocations } else { self.allocations },
        }
    }

    /// Who founds a new network together with this node.
    ///
    /// # Errors
    /// If they are too many, or one is named twice.
    pub fn founders(&self, me: Founder) -> Result<List<Founder, FOUNDERS_MAX>, String> {
        let others = self.founder.iter().flatten().map(|code| code.0);
        let all: Vec<_> = std::iter::once(me).chain(others).collect();
        let nodes: BTreeSet<_> = all.iter().map(|founder| founder.node).collect();
        if nodes.len() < all.len() {
            return Err("--founder: a founder is named twice; this node is one without being named".into());
        }
        List::try_from(all).map_err(|_| format!("--founder: at most {FOUNDERS_MAX} may found a network"))
    }

    /// Money that a new network begins with.
    ///
    /// # Errors
    /// The first entry that names no account or no amount.
    pub fn allocations(&self, me: OwnerId) -> Result<List<Allocation, ALLOCATIONS_MAX>, String> {
        let allocation = |(name, amount): (&String, &String)| {
            let owner = if name == "me" { Ok(me) } else { name.parse().map(|name: Name| name.0) };
            let amount = amount.parse().map(|money: Money| money.0);
            Ok(Allocation { owner: owner?, amount: amount? })
        };
        let all: Result<Vec<_>, String> = self.allocations.iter().map(allocation).collect();
        let all = all.and_then(|all| {
            List::try_from(all).map_err(|_| format!("more than the {ALLOCATIONS_MAX} accounts that a genesis may name"))
        });
        all.map_err(|why| format!("[allocations]: {why}"))
    }

    /// Flags over environment over file. `config` names the file; without it the usual place is looked at.
    ///
    /// # Errors
    /// The first place that cannot be read.
    pub fn gather(flags: Self, config: Option<&Path>) -> Result<Self, SettingsError> {
        let variable = |name: &str| std::env::var(name).ok();
        let named = config.map(Path::to_owned).or_else(|| variable("NEUROSHARD_CONFIG").map(PathBuf::from));
        let file = match named {
            Some(path) => Self::from_file(&path)?,
            None => match usual_file(&variable).filter(|path| path.is_file()) {
                Some(path) => Self::from_file(&path)?,
                None => Self::default(),
            },
        };
        Ok(flags.or(Self::from_environment(variable)?).or(file))
    }

    /// The data directory: `$XDG_DATA_HOME/neuroshard` or `~/.local/share/neuroshard` unless one was named.
    ///
    /// # Errors
    /// If there is no home directory either.
    pub fn data_dir(&self) -> Result<PathBuf, SettingsError> {
        match &self.data_dir {
            Some(path) => Ok(path.clone()),
            None => usual_data_dir(&|name| std::env::var(name).ok()).ok_or(SettingsError::NoHome),
        }
    }

    /// The model and recipe for a new network.
    pub fn specs(&self) -> (ModelSpec, TrainSpec) {
        let (mut model, mut training) = self.preset.map_or(Preset::Nano, |name| name.0).specs();
        self.model.apply(&mut model);
        self.training.apply(&mut training);
        (model, training)
    }

    /// The recipe for weights that are brought along: the preset's that was asked for, otherwise `own`, with the changes of the
    /// configuration file.
    pub fn recipe(&self, own: TrainSpec) -> TrainSpec {
        let mut training = self.preset.map_or(own, |name| name.0.specs().1);
        self.training.apply(&mut training);
        training
    }

    /// The model that was asked for by name or number, if any was.
    pub fn wanted_specs(&self) -> Option<(ModelSpec, TrainSpec)> {
        let said = self.preset.is_some() || !self.model.is_nothing() || !self.training.is_nothing();
        said.then(|| self.specs())
    }

    /// The protocol's numbers for a new network.
    pub fn params(&self) -> Params {
        Params::DEFAULT
    }

    /// Bytes of disk for data and snapshots together.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.unwrap_or(DISK_DEFAULT).0
    }

    /// The operator's choices as the core takes them; `data_bytes` of the disk are taken by shards.
    pub fn operator(&self, data_bytes: u64) -> Operator {
        let memory = self.memory.map_or_else(system_memory, |size| size.0);
        let mut operator = Operator::new(memory, self.disk_bytes().saturating_sub(data_bytes));
        operator.mode = self.mode.and_then(|mode| mode.0);
        operator.steps = self.steps;
        let SnapshotSettings { every_s, every_steps, keep, share_ppm } = self.snapshots.clone();
        operator.snapshot_every_ms = every_s.map_or(operator.snapshot_every_ms, |s| s.saturating_mul(1000));
        operator.snapshot_every_steps = every_steps.unwrap_or(operator.snapshot_every_steps);
        operator.snapshots_kept = keep.unwrap_or(operator.snapshots_kept);
        operator.snapshot_share = share_ppm.map_or(operator.snapshot_share, Ratio::from_ppm);
        let EvaluationSettings { every_steps, share_ppm } = self.evaluation.clone();
        operator.evaluate_every_steps = every_steps.unwrap_or(operator.evaluate_every_steps);
        operator.evaluate_share = share_ppm.map_or(operator.evaluate_share, Ratio::from_ppm);
        operator
    }
}

fn absolute(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Option<PathBuf> {
    // The XDG specification says to ignore relative paths.
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn usual_data_dir(variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let data = absolute(variable, "XDG_DATA_HOME");
    let data = data.or_else(|| Some(absolute(variable, "HOME")?.join(".local/share")));
    let data = data.or_else(|| absolute(variable, "LOCALAPPDATA"));
    Some(data?.join("neuroshard"))
}

fn usual_file(variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let config = absolute(variable, "XDG_CONFIG_HOME");
    let config = config.or_else(|| Some(absolute(variable, "HOME")?.join(".config")));
    Some(config?.join("neuroshard/config.toml"))
}

/// Memory of this machine.
fn system_memory() -> u64 {
    #[cfg(unix)]
    {
        // SAFETY: `sysconf` takes a plain number and touches no memory of ours.
        let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        if let (Ok(pages), Ok(size)) = (u64::try_from(pages), u64::try_from(size)) {
            return pages.saturating_mul(size);
        }
    }
    MEMORY_UNKNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Settings::from_file(&path)
    }

    #[test]
    fn a_file_says_everything_a_flag_can_say() {
        let settings = file(
            "data-dir = '/tmp/x'\ndata = ['a', 'b']\npreset = 'micro'\nsteps = 5\nseed = 7\nadapter = 'gpu:RTX'\n\
             memory = '4GiB'\ndisk = 1000\nthreads = 2\nmode = 'solo'\nlog = 'info'\njson = true\napi-port = 80\n\
             throttle = 4\nrecord = 'trace'\n[model]\nlayers = 1\n[training]\npeak-rate-nano = 5\n[snapshots]\nevery-steps = 3\n",
        )
        .unwrap();
        assert_eq!(settings.data, Some(vec!["a".into(), "b".into()]));
        assert_eq!(settings.seed, Some(Seed("7".into())));
        assert_eq!(settings.memory, Some(Size(4 << 30)));
        assert_eq!(settings.throttle, Some("4".parse().unwrap()));
        assert!(file("throttle = 0.5").unwrap_err().to_string().contains("from 1 to 10000"));
        let (model, training) = settings.specs();
        assert_eq!((model.layers, model.hidden, training.peak_rate_nano), (1, 256, 5));
        assert_eq!(settings.operator(600).disk_bytes, 400);
        assert_eq!(settings.operator(0).snapshot_every_steps, 3);
        assert_eq!(file("data = 'one'").unwrap().data, Some(vec!["one".into()]));
    }

    #[test]
    fn a_mistake_in_a_file_is_shown_with_its_line() {
        let error = file("steps = 5\npresett = 'nano'\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("unknown field `presett`"), "{error}");
        let error = file("preset = 'nanno'").unwrap_err().to_string();
        assert!(error.contains("there are nano, micro and genesis"), "{error}");
        assert!(file("[model]\nvocab = 5").is_err());
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_beats_the_file() {
        let flags = Settings { steps: Some(1), ..Settings::default() };
        let environment = |name: &str| match name {
            "NEUROSHARD_STEPS" => Some("2".to_owned()),
            "NEUROSHARD_THREADS" => Some("2".to_owned()),
            "NEUROSHARD_PRESET" => Some(String::new()),
            _ => None,
        };
        let environment = Settings::from_environment(environment).unwrap();
        let merged = flags.or(environment).or(file("steps = 3\nthreads = 3\napi-port = 3").unwrap());
        assert_eq!((merged.steps, merged.threads, merged.api_port), (Some(1), Some(2), Some(3)));
        assert_eq!(merged.preset, None);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let environment = |name: &str| (name == "NEUROSHARD_STEPS").then(|| "many".to_owned());
        let error = Settings::from_environment(environment).unwrap_err().to_string();
        assert!(error.contains("NEUROSHARD_STEPS: `many`: invalid digit"), "{error}");
    }

    #[test]
    fn data_lie_where_the_desktop_keeps_data() {
        let only = |key: &'static str, value: &'static str| {
            usual_data_dir(&move |name: &str| (name == key).then(|| value.to_owned()))
        };
        assert_eq!(only("XDG_DATA_HOME", "/data"), Some("/data/neuroshard".into()));
        assert_eq!(only("XDG_DATA_HOME", "relative"), None);
        assert_eq!(only("HOME", "/home/me"), Some("/home/me/.local/share/neuroshard".into()));
        assert!(system_memory() > 1 << 28);
    }
}
