//! `stoker boots` and `stoker boot log`: machines as they boot, and the story of each.

mod view;

pub use view::View;

use super::api::Api;
use super::{Failure, Reach, table, time};
use control::api::types::{Boot, BootList, Diagnosis, MachineStory, Step, StepState, WatchLine};
use control::observe::now_ms;
use protocol::id::Mac;
use std::process::ExitCode;
use std::time::Duration;

/// How often a screen is drawn again when nothing happens: the seconds move.
const REDRAW: Duration = Duration::from_millis(500);

/// Arguments of `stoker boots`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker boots              the present boot of each machine, and what is wrong with it
  stoker boots --watch      the same, live, until Ctrl-C
  stoker boots --json | jq '.boots[] | select(.diagnosis)'")]
pub struct Boots {
    #[command(flatten)]
    reach: Reach,
    /// Go on showing what happens
    #[arg(long, short)]
    watch: bool,
    /// JSON: one object, or with --watch one a line
    #[arg(long)]
    json: bool,
}

/// Commands below `stoker boot`.
#[derive(clap::Subcommand)]
pub enum BootCommand {
    /// Each step of a machine's boots, with its time, and the diagnosis
    Log(Log),
}

/// Arguments of `stoker boot log`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker boot log 52:54:00:12:34:56            the present boot, step by step
  stoker boot log 52:54:00:12:34:56 --all      the boots before it too
  stoker boot log 52:54:00:12:34:56 --follow   go on as it boots")]
pub struct Log {
    #[command(flatten)]
    reach: Reach,
    /// The interface that boots
    mac: Mac,
    /// Show the earlier boots that are still known too
    #[arg(long)]
    all: bool,
    /// Go on showing steps as they happen
    #[arg(long, short)]
    follow: bool,
    /// JSON, as the API gives it
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

impl Boots {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let api = Api::new(&self.reach);
        if self.watch {
            return watch(&api, self.json).await;
        }
        let list: BootList = api.get("/api/v1/boots").await?;
        if self.json {
            table::json(&list)?;
        } else if list.boots.is_empty() {
            table::line("no machine has asked for anything yet");
        } else {
            let mut view = View::default();
            list.boots.into_iter().for_each(|boot| view.update(boot));
            view.lines(now_ms()).iter().for_each(|line| table::line(line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn watch(api: &Api, json: bool) -> Result<ExitCode, Failure> {
    let mut lines = api.lines("/api/v1/boots/watch").await?;
    let mut view = View::default();
    let mut screen = (!json && table::is_screen()).then(table::Screen::default);
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        if table::reader_gone() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            line = lines.next::<WatchLine>() => match line? {
                Some(line) if json => table::line(&serde_json::to_string(&line).map_err(Failure::from_error)?),
                Some(line) => {
                    let words = view.take(line);
                    if screen.is_none() {
                        words.iter().for_each(|line| table::line(line));
                    }
                }
                None => return Err(Failure::Unreachable("stoker-control ended the watch: it is going down".to_owned())),
            },
            _ = redraw.tick(), if screen.is_some() => {
                if let Some(screen) = &mut screen {
                    screen.draw(&view.lines(now_ms()));
                }
            }
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

impl BootCommand {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let Self::Log(log) = self;
        let api = Api::new(&log.reach);
        let path = format!("/api/v1/boots/{}", log.mac);
        let story: MachineStory = api.get(&path).await?;
        if log.json {
            table::json(&story)?;
            return Ok(ExitCode::SUCCESS);
        }
        let skip = if log.all { 0 } else { story.boots.len().saturating_sub(1) };
        let mut told = Told::default();
        for boot in &story.boots[skip..] {
            told.tell(boot);
        }
        if log.follow {
            told.follow(&api, &path, log.mac).await?;
        } else if let Some(boot) = story.boots.last() {
            ending(boot).iter().for_each(|line| table::line(line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What of a story has been printed.
#[derive(Default)]
struct Told {
    boot: Option<u64>,
    /// The steps of that boot as printed.
    steps: Vec<String>,
    diagnosis: Option<Diagnosis>,
}

impl Told {
    /// Prints what is new in a boot: a heading when it is another one, steps
    /// when they are new or have come further.
    fn tell(&mut self, boot: &Boot) {
        if self.boot != Some(boot.summary.boot) {
            *self = Self { boot: Some(boot.summary.boot), ..Self::default() };
            table::line(&heading(boot));
        }
        for (i, step) in boot.steps.iter().enumerate() {
            // A running step is told when it is over, or when it is all there is to tell.
            let line = step_line(boot, step);
            match self.steps.get_mut(i) {
                Some(old) if *old == line => {}
                Some(old) => {
                    if step.state != StepState::Running {
                        table::line(&line);
                    }
                    *old = line;
                }
                None => {
                    table::line(&line);
                    self.steps.push(line);
                }
            }
        }
        if boot.steps_lost > 0 && self.steps.len() == boot.steps.len() {
            table::line(&format!("          ({} more steps were not kept)", boot.steps_lost));
        }
    }

    async fn follow(&mut self, api: &Api, path: &str, mac: Mac) -> Result<(), Failure> {
        let mut lines = api.lines(&format!("/api/v1/boots/watch?mac={mac}")).await?;
        loop {
            let line = tokio::select! {
                line = lines.next::<WatchLine>() => line?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let Some(line) = line else {
                return Err(Failure::Unreachable("stoker-control ended the watch: it is going down".to_owned()));
            };
            if let WatchLine::Boot { boot, .. } = line {
                let story: MachineStory = api.get(path).await?;
                story.boots.iter().filter(|b| b.summary.boot >= boot.boot).for_each(|boot| self.tell(boot));
                if boot.diagnosis != self.diagnosis {
                    boot.diagnosis.iter().flat_map(diagnosis_lines).for_each(|line| table::line(&line));
                    self.diagnosis = boot.diagnosis;
                }
            }
            if table::reader_gone() {
                return Ok(());
            }
        }
    }
}

fn heading(boot: &Boot) -> String {
    let s = &boot.summary;
    let mut line = format!("boot {} of {}", s.boot, s.mac);
    if !s.firmware.is_empty() {
        line += &format!(", {}", s.firmware);
    }
    if let Some(ip) = s.ip {
        line += &format!(", {ip}");
    }
    if let Some(uuid) = s.uuid {
        line += &format!(", UUID {uuid}");
    }
    line + &format!(", began {} ago", time::span(now_ms().saturating_sub(s.started_ms)))
}

fn step_line(boot: &Boot, step: &Step) -> String {
    let mark = match step.state {
        StepState::Running => "..",
        StepState::Ok => "ok",
        StepState::Warn => "! ",
        StepState::Failed => "XX",
    };
    let mut line = format!("{:>8}  {mark}  {}", time::since(boot.summary.started_ms, step.at_ms), step.title);
    if step.total > 0 {
        let whole = step.bytes >= step.total;
        let percent = step.bytes.saturating_mul(100) / step.total;
        line += &if whole {
            format!("  {}", time::bytes(step.total))
        } else {
            format!("  {percent} % of {}", time::bytes(step.total))
        };
        let took = step.last_ms.saturating_sub(step.at_ms);
        if whole && step.state != StepState::Running {
            line += &format!(" in {}.{:03} s", took / 1000, took % 1000);
        }
    }
    if !step.detail.is_empty() {
        line += &format!("  ({})", step.detail);
    }
    if step.count > 1 {
        line += &format!("  x{}", step.count);
    }
    line
}

fn ending(boot: &Boot) -> Vec<String> {
    let s = &boot.summary;
    if let Some(diagnosis) = &s.diagnosis {
        return diagnosis_lines(diagnosis);
    }
    match s.reached_ms {
        Some(at) => vec![format!("{} after {} s", s.phase.name(), time::since(s.started_ms, at))],
        None => vec![format!("{} % so far: {}", s.percent, if s.doing.is_empty() { s.phase.name() } else { &s.doing })],
    }
}

fn diagnosis_lines(diagnosis: &Diagnosis) -> Vec<String> {
    vec![format!("why:      {} [{}]", diagnosis.cause, diagnosis.rule), format!("remedy:   {}", diagnosis.remedy)]
}
