//! The log: what the parts of the program say beside the display. It goes to standard error, or through the live panel
//! while that owns the terminal.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::say::aside;

/// Without `--log`, only what needs attention. What these parts of libp2p warn of is everyday life: a message said twice, a
/// peer that left.
const FILTER_DEFAULT: &str = "warn,libp2p_gossipsub=error,libp2p_kad=error,libp2p_swarm=error,yamux=error";
/// Lines that wait for the panel at most.
const LINES_MAX: usize = 256;

/// Why there is no log.
#[derive(Debug)]
pub(crate) struct LogError {
    filter: String,
    why: String,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--log `{}` is no filter: {}. Write a level (error, warn, info, debug, trace) or a list like \
             warn,neuroshard_host=debug.",
            self.filter, self.why
        )
    }
}

impl std::error::Error for LogError {}

/// Where lines go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// While a panel owns the terminal, lines wait here for it.
    held: Arc<Mutex<Option<Vec<String>>>>,
}

impl Log {
    /// Starts the log with a filter.
    ///
    /// # Errors
    /// If the filter is none.
    pub(crate) fn start(filter: Option<&str>) -> Result<Self, LogError> {
        let log = Self::default();
        let filter = filter.unwrap_or(FILTER_DEFAULT);
        let fail = |why: String| LogError { filter: filter.to_owned(), why };
        let parsed = EnvFilter::builder().parse(filter).map_err(|error| fail(error.to_string()))?;
        let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(log.clone()).with_target(true);
        let lines = lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
        // A second start in one process, as in tests, keeps the first log.
        let _ = lines.try_init();
        Ok(log)
    }

    /// From now on lines wait for [`Self::take`].
    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The lines that waited.
    pub(crate) fn take(&self) -> Vec<String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// From now on lines go to standard error.
    pub(crate) fn release(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        for line in held.into_iter().flatten() {
            aside!("{line}");
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine { log: self.clone(), bytes: Vec::new() }
    }
}

/// A line on its way; it is written when it is complete.
#[derive(Debug)]
pub(crate) struct LogLine {
    log: Log,
    bytes: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = text.trim_end();
        let mut held = self.log.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(lines) if lines.len() < LINES_MAX => lines.push(line.to_owned()),
            Some(_) => {}
            None => {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }
}
