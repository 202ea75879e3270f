//! `roost-loadgen`: see `--help` and README.md.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match roost_loadgen::app::main(roost_loadgen::cli::Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            roost_loadgen::say::note(format_args!("roost-loadgen: {error:#}"));
            ExitCode::from(2)
        }
    }
}
