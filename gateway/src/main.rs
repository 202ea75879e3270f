//! `roost-gateway`: see `--help`, or the repository's README.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use roost_gateway::{
    config::{Cli, Command, Environment, load},
    logging, preflight, run,
};

/// Exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let loaded = match load(&cli.options, &Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if cli.command == Some(Command::Check) {
        let (text, ok) = preflight::check(&loaded);
        print!("{text}");
        return if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let log_level = match logging::init(loaded.config.log_level, loaded.config.log_format) {
        Ok(handle) => handle,
        Err(error) => {
            eprintln!("roost-gateway: no log: {error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match run::run(&loaded, &cli.options, &log_level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roost-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
