//! Every command of `neuroshard`, for any runtime: the program is `fn main() -> ExitCode { neuroshard_cli::main(runtime) }`.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; the reason is on standard error |
//! | 2 | wrong command line or configuration |
//! | 3 | the data directory is in use by another process |
//! | 4 | the device that was demanded is not there |
//! | 130 | quit without saving |

// Lines go through `say`, which does not panic where nobody reads.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod book;
mod commands;
mod display;
mod engine;
mod failure;
mod log;
mod plan;
mod recording;
mod run;
mod say;
pub mod settings;
mod signals;
pub mod values;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use neuroshard_host::runtime::Runtime;

use crate::args::{Cli, Command, DataCommand, JoinFlags, KeysCommand};
use crate::failure::Failure;
use crate::log::Log;
use crate::run::Way;
use crate::say::aside;
use crate::settings::Settings;

// Simulated signatures are for worlds alone: no program that people run can be built with them.
const _: () = assert!(neuroshard_proto::REAL_SIGNATURES, "a node needs real signatures");

/// Runs the program with the process's own arguments. To be called before the process has other threads.
pub fn main(runtime: impl Runtime) -> ExitCode {
    engine::leave_drivers_order_alone();
    let cli = Cli::parse();
    match dispatch(&runtime, &cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if cli.common.json {
                let _ =
                    writeln!(io::stdout(), "{}", serde_json::json!({ "event": "error", "message": failure.message }));
            }
            aside!("neuroshard: {failure}");
            failure.exit_code()
        }
    }
}

/// The command line as data: for completions, manuals, and the test that holds the book to it.
pub fn command() -> clap::Command {
    Cli::command()
}

fn dispatch(runtime: &impl Runtime, cli: &Cli) -> Result<(), Failure> {
    let flags = match &cli.command {
        None => cli.run.settings(),
        Some(Command::Run(flags)) => flags.settings().or(cli.run.settings()),
        Some(Command::Join(flags)) => flags.run.settings().or(cli.run.settings()),
        Some(Command::Doctor(flags)) => flags.settings().or(cli.run.settings()),
        Some(Command::Import(flags)) => flags.settings().or(cli.run.settings()),
        Some(_) => cli.run.settings(),
    };
    if !matches!(cli.command, None | Some(Command::Run(_))) && cli.run.settings() != Settings::default() {
        return Err(Failure::usage("flags of `neuroshard run` stand before another command; leave them out"));
    }
    if let Some(Command::Join(JoinFlags { run, .. })) = &cli.command
        && (run.data.is_some() || run.preset.is_some() || run.seed.is_some() || !run.founder.is_empty())
    {
        let text =
            "--data, --preset, --seed and --founder found a network; the one that is joined has all of that already";
        return Err(Failure::usage(text));
    }
    let settings = Settings::gather(flags.or(cli.common.settings()), cli.common.config.as_deref())?;
    let log = Log::start(settings.log.as_deref())?;
    match &cli.command {
        None | Some(Command::Run(_)) => run::run(runtime, &settings, &Way::Own, &log),
        Some(Command::Join(flags)) => {
            let way = flags.door.clone().map_or(Way::Near, Way::Door);
            run::run(runtime, &settings, &way, &log)
        }
        Some(Command::Invite { days }) => commands::invite::invite(&settings, *days),
        Some(Command::Status) => commands::status::status(&settings),
        Some(Command::Leave) => commands::leave::leave(&settings),
        Some(Command::Doctor(flags)) => commands::doctor::doctor(runtime, &settings, flags.network),
        Some(Command::Params) => commands::params::params(&settings),
        Some(Command::Data(DataCommand::Pack { paths, out, preset })) => {
            commands::data::pack(&settings, paths, out, *preset)
        }
        Some(Command::Keys(KeysCommand::Backup { file })) => commands::keys::backup(&settings, file),
        Some(Command::Keys(KeysCommand::Founder)) => commands::keys::founder(&settings),
        Some(Command::Keys(KeysCommand::Show)) => commands::keys::show(&settings),
        Some(Command::Keys(KeysCommand::Restore { file })) => commands::keys::restore(&settings, file),
        Some(Command::Generate(flags)) => commands::generate::generate(&settings, flags),
        Some(Command::Export { dir, force }) => commands::exchange::export(&settings, dir, *force),
        Some(Command::Import(flags)) => commands::exchange::import(&settings, &flags.dir),
        Some(Command::Logits { dir, tokens, out, sequence }) => commands::logits::logits(dir, tokens, out, *sequence),
        Some(Command::Wallet(command)) => commands::wallet::wallet(&settings, command),
        Some(Command::Network { command }) => commands::network::network(&settings, command.as_ref()),
        Some(Command::Devnet(flags)) => commands::devnet::devnet(flags, &cli.common),
        Some(Command::Replay { file }) => commands::trace::replay(&settings, file),
        Some(Command::Trace(command)) => commands::trace::trace(&settings, command),
        Some(Command::Sim(flags)) => commands::sim::sim(&settings, flags),
    }
}
