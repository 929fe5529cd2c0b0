//! `stoker-edge`: flags, log, then [`edge::serve::run`] until a signal comes.

use clap::Parser;
use edge::config::{Flags, LogFormat};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.probe {
        println!("{}", edge::ring::probe::report(flags.driver));
        return ExitCode::SUCCESS;
    }
    write_log(flags.log_format);
    let config = match flags.check() {
        Ok(config) => config,
        Err(faults) => {
            eprint!("stoker-edge: these flags cannot be used:\n{faults}");
            return ExitCode::from(2);
        }
    };
    match edge::serve::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("stoker-edge: {fatal}");
            fatal.exit_code()
        }
    }
}

fn write_log(format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
