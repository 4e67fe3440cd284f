#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
mod config;
mod io;
pub use config::*;
pub use io::*;
