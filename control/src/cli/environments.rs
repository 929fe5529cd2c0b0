//! `stoker environments`: what machines are installed from, and how far it is.

use super::api::Api;
use super::{Failure, Reach, table, time};
use control::api::types::{AssetState, EnvironmentList, EnvironmentStatus, Refetching};
use control::observe::now_ms;
use hyper::Method;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often control is asked while something is waited for.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `stoker environments`.
#[derive(clap::Args)]
#[command(after_help = "\
Declared Environments (`stoker apply`) and those of the configuration file, with every file of
theirs: fetched, being fetched, or why not. A failed file is tried again by itself.

Examples:
  stoker environments                              all of them
  stoker apply -f talos.yaml && stoker environments talos --wait
  stoker environments talos --refetch --wait       the file at its source has been corrected")]
pub struct Environments {
    #[command(flatten)]
    reach: Reach,
    /// Only these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Return when they are ready; exit code 1 where they are not in time
    #[arg(long)]
    wait: bool,
    /// How long to wait, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    timeout: u64,
    /// Fetch their files again now
    #[arg(long, requires = "names")]
    refetch: bool,
    /// JSON, as the API gives it
    #[arg(long)]
    json: bool,
}

impl Environments {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        if let Some(bad) = self.names.iter().find(|n| !is_name(n)) {
            return Err(Failure::Usage(format!("{bad:?} is no name: lower-case letters, digits, '-' and '.'")));
        }
        let api = Api::new(&self.reach);
        for name in self.names.iter().filter(|_| self.refetch) {
            let path = format!("/api/v1/environments/{name}/refetch");
            let rung: Refetching = api.call(Method::POST, &path, None::<&()>).await?;
            if !self.json {
                table::line(&format!("{name}: {} files are looked at again", rung.assets));
            }
        }
        let list = if self.wait { self.wait(&api).await? } else { self.list(&api).await? };
        if self.json {
            table::json(&list)?;
        } else if !self.wait {
            lines(&list).iter().for_each(|line| table::line(line));
        }
        let ready = !self.wait || list.environments.iter().all(|e| e.ready);
        Ok(ExitCode::from(u8::from(!ready)))
    }

    /// The environments that are asked for.
    async fn list(&self, api: &Api) -> Result<EnvironmentList, Failure> {
        let mut list: EnvironmentList = api.get("/api/v1/environments").await?;
        for name in &self.names {
            if !list.environments.iter().any(|e| e.name == *name) {
                return Err(Failure::Failed(format!(
                    "there is no environment {name}; declare it with `stoker apply -f`, `stoker environments` lists what there is"
                )));
            }
        }
        list.environments.retain(|e| self.names.is_empty() || self.names.contains(&e.name));
        Ok(list)
    }

    /// Until all are ready, or the time is over; tells what changes.
    async fn wait(&self, api: &Api) -> Result<EnvironmentList, Failure> {
        let end = Instant::now() + Duration::from_secs(self.timeout);
        let (mut screen, drawn) = (table::Screen::default(), table::is_screen() && !self.json);
        let mut told = Vec::new();
        loop {
            let list = self.list(api).await?;
            let ready = list.environments.iter().all(|e| e.ready);
            let over = Instant::now() >= end;
            if drawn {
                screen.draw(&lines(&list));
            } else if !self.json {
                // A log gets a line for what has happened, not for every percent.
                let gist: Vec<String> = list.environments.iter().flat_map(gist).collect();
                gist.iter().filter(|line| !told.contains(*line)).for_each(|line| table::line(line));
                told = gist;
            }
            if ready || over {
                if over && !ready && !self.json {
                    eprintln!("not ready after {} s", self.timeout);
                }
                return Ok(list);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

fn lines(list: &EnvironmentList) -> Vec<String> {
    if list.environments.is_empty() {
        return vec![
            "no environments: declare one with `stoker apply -f`, or name some under `environments:` in the configuration file".to_owned(),
        ];
    }
    let mut lines = Vec::new();
    for environment in &list.environments {
        lines.push(head(environment));
        for arch in &environment.arches {
            let files = arch.assets.iter();
            lines.extend(files.map(|f| format!("  {} {:<7} {}", arch.arch, f.role, progress(&f.state, &f.url))));
        }
        lines.extend(environment.notes.iter().map(|note| format!("  !! {note}")));
    }
    lines
}

fn head(e: &EnvironmentStatus) -> String {
    let default = if e.is_default { " (default)" } else { "" };
    let ready = if e.ready { "ready" } else { "NOT READY" };
    let source = match e.source.as_str() {
        "object" => "declared",
        "config" => "from the configuration file",
        _ => "from the bundle",
    };
    format!("{}{default}: {ready}, {source}", e.name)
}

/// What is worth a line of its own: readiness, files that have become ready or have failed.
fn gist(e: &EnvironmentStatus) -> Vec<String> {
    let mut lines = vec![head(e)];
    for arch in &e.arches {
        for file in &arch.assets {
            let what = format!("{} {} {}", e.name, arch.arch, file.role);
            lines.push(match &file.state {
                AssetState::Failed { why, .. } => format!("{what}: FAILED: {why}; is tried again"),
                AssetState::Ready { .. } => format!("{what}: {}", progress(&file.state, &file.url)),
                _ => format!("{what}: being fetched from {}", file.url),
            });
        }
    }
    lines.extend(e.notes.iter().map(|note| format!("{}: {note}", e.name)));
    lines
}

fn progress(state: &AssetState, url: &str) -> String {
    match state {
        AssetState::Pending => format!("waiting to be fetched from {url}"),
        AssetState::Fetching { bytes, total: Some(total), attempt } if *total > 0 => {
            let percent = bytes.saturating_mul(100) / total;
            format!("{percent} % of {} from {url} (try {attempt})", time::bytes(*total))
        }
        AssetState::Fetching { bytes, attempt, .. } => {
            format!("{} so far from {url} (try {attempt})", time::bytes(*bytes))
        }
        AssetState::Ready { sha256, bytes } => {
            format!("{}, sha256 {}", time::bytes(*bytes), sha256.get(..12).unwrap_or(sha256))
        }
        AssetState::Failed { why, attempts, retry_ms } => {
            let wait = time::span(retry_ms.saturating_sub(now_ms()));
            format!("FAILED after {attempts} tries: {why}; next try in {wait}")
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.'))
}
