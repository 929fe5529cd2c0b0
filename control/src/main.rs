//! `stoker-control`: takes the decisions of a network boot.

use clap::Parser;
use control::config::{self, LogFormat, Overrides, Problem};
use control::run::Control;
use control::telemetry;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Takes the decisions of a network boot: DHCP, iPXE scripts, environments,
/// the agent's orders, the timeline of each machine.
///
/// Exit codes: 0 ended as told, 1 failed while running, 2 configuration,
/// 3 a port or socket is taken, 4 the state directory.
#[derive(Parser)]
#[command(name = "stoker-control", version)]
struct Flags {
    /// Configuration file (docs/stoker.yaml explains all of it)
    #[arg(long, value_name = "FILE", env = "STOKER_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration, report every problem, and end
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    overrides: Overrides,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let settings = match config::load(flags.config.as_deref(), &flags.overrides) {
        Ok(settings) => settings,
        Err(problems) => return refuse_config(&problems),
    };
    if flags.check_config {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    telemetry::init_logs(settings.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(settings.log_format, &format!("the runtime cannot be started: {e}"), 1),
    };
    let format = settings.log_format;
    runtime.block_on(async move {
        let control = match Control::open(settings).await {
            Ok(control) => control,
            Err(e) => return fail(format, &e.to_string(), e.exit_code()),
        };
        let stop = CancellationToken::new();
        if let Err(e) = stop_on_signals(stop.clone()) {
            return fail(format, &format!("signals cannot be caught: {e}"), 1);
        }
        match control.serve(stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(format, &e.to_string(), e.exit_code()),
        }
    })
}

fn refuse_config(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    let many = if problems.len() == 1 { "" } else { "s" };
    eprintln!("stoker-control: {} problem{many} in the configuration", problems.len());
    ExitCode::from(2)
}

fn fail(format: LogFormat, why: &str, code: u8) -> ExitCode {
    match format {
        LogFormat::Text => eprintln!("stoker-control: {why}"),
        LogFormat::Json => tracing::error!("{why}"),
    }
    ExitCode::from(code)
}

/// SIGTERM and Ctrl-C end it in order; a second one at once.
fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
        stop.cancel();
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
        #[expect(clippy::disallowed_methods, reason = "the operator asked twice: nothing may hold up the end")]
        std::process::exit(130);
    });
    Ok(())
}
