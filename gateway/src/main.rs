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
    if let Err(error) = logging::init(loaded.config.log_level, loaded.config.log_format) {
        eprintln!("roost-gateway: no log: {error}");
        return ExitCode::FAILURE;
    }
    match run::run(&loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roost-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
