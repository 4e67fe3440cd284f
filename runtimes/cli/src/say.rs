//! Lines for people, on standard output and standard error. The standard macros panic where nobody can read any more: the
//! reader of a pipe has left, or the disk that holds the log is full. Neither is a reason to lose what a node computes.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};

/// Prints a line to standard output, as `println!` does.
macro_rules! out {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}

/// Prints a line to standard error, as `eprintln!` does; a line that cannot be written is lost.
macro_rules! aside {
    ($($text:tt)*) => { $crate::say::line_aside(format_args!($($text)*)) };
}

pub(crate) use {aside, out};

/// Prints the line of a command that only prints. A reader that left, as `head` does, has had what it wanted.
pub(crate) fn line(text: Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let Err(error) = writeln!(stdout, "{text}") else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    line_aside(format_args!("neuroshard: the answer could not be written to standard output: {error}"));
    std::process::exit(crate::failure::Code::Failed as i32);
}

/// Prints a line beside the answer.
pub(crate) fn line_aside(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
