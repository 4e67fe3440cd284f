//! How a command fails: what it says, and the code it ends with.

use std::fmt;
use std::process::ExitCode;

use neuroshard_host::directory::DirectoryError;
use neuroshard_host::exchange::ExchangeError;
use neuroshard_host::home::HomeError;
use neuroshard_host::node::NodeError;

use crate::engine::EngineError;
use crate::log::LogError;
use crate::settings::SettingsError;

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Failed = 1,
    Usage = 2,
    InUse = 3,
    NoDevice = 4,
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { code: Code::Failed, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: Code::Usage, message: message.to_string() }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let code = match error {
            HomeError::Directory(DirectoryError::InUse { .. }) => Code::InUse,
            _ => Code::Failed,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Home(error) => error.into(),
            other => Self::new(other),
        }
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        HomeError::Directory(error).into()
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { code: Code::NoDevice, message: error.to_string() }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(error)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::usage(error)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::new(error)
    }
}
