//! `roost-gateway`: see `--help`, or the repository's README.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use roost_gateway::{
    config::{Cli, Command, Environment, load_all},
    logging, preflight, run,
};
use roost_router::shell::{log, say};

/// Exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    // Before anything else: no signal may end a start half way.
    let signals = match run::CaughtSignals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            say::last_words(format!("roost-gateway: signals cannot be caught: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let cli = Cli::parse();
    say::bound_panics();
    let (loaded, problems) = load_all(&cli.options, &Environment::of_process());
    if !problems.is_empty() {
        say::last_words(problems.join("\n"));
    }
    if cli.command == Some(Command::Check) {
        signals.let_go();
        let (text, ok) = preflight::check(&loaded, problems.len(), run::rehearse, run::unresolved);
        let written = say::output(&text);
        if let Err(error) = &written {
            say::last_words(format!("roost-gateway: what was checked cannot be written: {error}"));
        }
        return match (problems.is_empty(), ok && written.is_ok()) {
            (false, _) => ExitCode::from(BAD_CONFIGURATION),
            (true, false) => ExitCode::FAILURE,
            (true, true) => ExitCode::SUCCESS,
        };
    }
    if !problems.is_empty() {
        return ExitCode::from(BAD_CONFIGURATION);
    }
    let log_level = match logging::init(loaded.config.log_level, loaded.config.log_format) {
        Ok(handle) => handle,
        Err(error) => {
            say::last_words(format!("roost-gateway: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match run::run(&loaded, &cli.options, &log_level, signals) {
        Ok(()) => {
            log::flush(log::FLUSH_WITHIN);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say::last_words(format!("roost-gateway: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
