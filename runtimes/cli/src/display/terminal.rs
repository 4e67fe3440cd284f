//! The terminal's own echo: keys that are pressed while the panel is drawn would spoil it.

use std::io::{self, Write as _};

#[cfg(unix)]
use std::sync::Mutex;

/// The terminal's settings from before the panel, to be put back.
#[cfg(unix)]
static BEFORE: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Keeps the terminal from echoing keys, as long as it lives. Ctrl-C works as ever.
#[derive(Debug)]
pub(super) struct Quiet(());

impl Quiet {
    pub(super) fn new() -> Self {
        #[cfg(unix)]
        {
            let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
            // SAFETY: `tcgetattr` fills the whole value when it succeeds, and it is read only then; `tcsetattr` reads it.
            unsafe {
                if libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) == 0 {
                    let before = settings.assume_init();
                    let quiet = libc::termios { c_lflag: before.c_lflag & !libc::ECHO, ..before };
                    libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const quiet);
                    *BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(before);
                }
            }
        }
        Self(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was before the panel, which may also have hidden the cursor. Harmless without one.
pub(crate) fn restore() {
    #[cfg(unix)]
    if let Some(before) = BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        // SAFETY: `tcsetattr` only reads the value.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const before);
        }
        let _ = io::stdout().write_all(b"\x1b[?25h");
        let _ = io::stdout().flush();
    }
}
