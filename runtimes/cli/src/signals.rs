//! Ctrl-C, and the other polite ways to end a process: the first one saves and stops, the second one says that it is
//! saving, the third one quits at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use neuroshard_core::Command;
use neuroshard_host::node::Handle;

use crate::display::restore_terminal;
use crate::say::aside;

/// Exit code of a process that was told to quit at once: 128 and the number of SIGINT.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

/// How long a node may save after its standard input was closed. Nobody is there to ask a second time.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(20);

/// How often the operator asked to stop, and the node to be told so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    times: Arc<AtomicU32>,
    node: Arc<Mutex<Option<Handle>>>,
}

impl Signals {
    /// Listens from now on. Until [`Self::attach`] there is nothing to save, and the first signal ends the process.
    ///
    /// # Errors
    /// If the system does not let this process listen.
    pub(crate) fn listen() -> Result<Self, ctrlc::Error> {
        let signals = Self::default();
        let heard = signals.clone();
        ctrlc::set_handler(move || heard.on_signal())?;
        outlive_full_disks();
        Ok(signals)
    }

    /// From now on a signal stops this node.
    pub(crate) fn attach(&self, node: Handle) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    /// How often the operator asked to stop.
    pub(crate) fn times(&self) -> u32 {
        self.times.load(Ordering::Acquire)
    }

    /// The end of standard input counts as a signal from now on. If saving takes too long then, the process ends
    /// without.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn stop_when_stdin_closes(&self) -> io::Result<()> {
        let signals = self.clone();
        let wait = move || {
            // What is written there means nothing; an error is an end as well.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            signals.on_signal();
            thread::sleep(ORPHAN_PATIENCE);
            std::process::exit(EXIT_INTERRUPTED);
        };
        thread::Builder::new().name("stdin".into()).spawn(wait).map(drop)
    }

    /// Asks to stop as a signal would.
    pub(crate) fn on_signal(&self) {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let times = self.times.fetch_add(1, Ordering::AcqRel) + 1;
        let quit = match &*node {
            None => {
                aside!("\nstopped before the first step; there is nothing to save");
                true
            }
            Some(_) if times > 2 => {
                aside!("\nquit without saving what came after the last save");
                true
            }
            Some(node) => {
                node.command(Command::Stop);
                false
            }
        };
        if quit {
            restore_terminal();
            std::process::exit(EXIT_INTERRUPTED);
        }
    }
}

/// A file that grows beyond the process's limit is an error like a full disk, which can be waited out, and not the end.
fn outlive_full_disks() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal runs no code of ours in a handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
