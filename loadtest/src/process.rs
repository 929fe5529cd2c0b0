//! A server as a child process on a core of its own.

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// How often an ending server is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A command that is told to end when this process does, however it does.
pub fn command(program: &Path) -> Command {
    if !in_path("setpriv") {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Whether a program can be found.
pub fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).is_file())
}

/// A running server; dropping it ends it and all its children.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` on these cores (all cores when empty), its output in `log`.
    ///
    /// The server heads a process group, so that its children end with it.
    ///
    /// # Errors
    /// When the program or the log file cannot be opened.
    pub fn start(mut command: Command, cores: &[usize], log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = on_cores(cores, || command.spawn())?
            .with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines it wrote, and its exit, if it has ended.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{status}; its last words:\n{}", self.last_words()))
    }

    /// The end of what the server wrote.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // Failure means that it has ended already.
        let _ = rustix::process::kill_process_group(group, Signal::TERM);
        let until = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Runs `f` with this thread bound to `cores`, then gives the thread its cores
/// back. What `f` spawns inherits the binding before its first instruction.
fn on_cores<T>(cores: &[usize], f: impl FnOnce() -> T) -> Result<T> {
    if cores.is_empty() {
        return Ok(f());
    }
    let before = sched_getaffinity(None).context("cannot read the CPU affinity")?;
    bind_thread(cores)?;
    let result = f();
    sched_setaffinity(None, &before).context("cannot restore the CPU affinity")?;
    Ok(result)
}

/// Binds the calling thread to these cores; does nothing for an empty list.
///
/// # Errors
/// When a core does not exist or is not allowed.
pub fn bind_thread(cores: &[usize]) -> Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &core in cores {
        anyhow::ensure!(core < CpuSet::MAX_CPU, "there is no core {core}");
        set.set(core);
    }
    sched_setaffinity(None, &set)
        .with_context(|| format!("cannot run on cores {cores:?}; see `nproc` and `taskset -p $$`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_runs_on_its_core_and_its_children_end_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "grep Cpus_allowed_list /proc/self/status; sleep 1000 & echo $!; wait"]);
        let log = dir.path().join("log");
        let server = Server::start(command, &[0], &log).unwrap();
        let mut words = String::new();
        for _ in 0..500 {
            words = server.last_words();
            if words.lines().count() == 2 {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let (mask, child) = words.split_once('\n').unwrap();
        assert_eq!(mask.split_whitespace().last(), Some("0"));
        let child = PathBuf::from(format!("/proc/{child}"));
        assert!(child.exists());
        drop(server);
        // The orphan is reaped by init; until then it is a zombie.
        let gone = || std::fs::read_to_string(child.join("stat")).map_or(true, |s| s.contains(") Z "));
        assert!((0..500).any(|_| gone() || {
            std::thread::sleep(LOOK);
            false
        }));
    }
}
