//! Processes that we started, ended by pid and never by name.
//!
//! Each runs in a process group of its own, so that a Ctrl-C at the terminal
//! reaches only the command that owns them, and dies with its parent (the
//! kernel's parent-death signal, through `setpriv`), so that even a `kill -9`
//! of the owner leaves no machine behind. The parent-death signal follows the
//! *thread* that started the child: start them from one that lives as long as
//! they should.

use super::RackError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a process may take to leave after SIGTERM before SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take to bury a process after SIGKILL.
const BURIAL: Duration = Duration::from_secs(5);

/// One process that we started and must end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    ended: Option<ExitStatus>,
    /// SIGTERM was sent: a second one means "at once" to some programs.
    asked: bool,
}

impl Process {
    /// Starts `command` with no standard input, both outputs appended to `log`.
    ///
    /// # Errors
    /// [`RackError::Missing`] where the program is not installed, else [`RackError::File`].
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self, RackError> {
        let out = File::options().create(true).append(true).open(log).map_err(RackError::file(log))?;
        let err = out.try_clone().map_err(RackError::file(log))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().map_err(|e| missing(&command, &e))?;
        let pidfd = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|e| RackError::Tool { command: name.to_owned(), why: format!("pidfd_open: {e}") })?;
        Ok(Self { name: name.to_owned(), child, pidfd, ended: None, asked: false })
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id. It stays ours until we have seen it end.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits until it ends, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended().is_none() {
            let limit = Timespec {
                tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: limit.subsec_nanos().into(),
            };
            let _ = rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&limit));
        }
        self.ended()
    }

    /// Asks it to leave with SIGTERM, once.
    pub fn terminate(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.signal(Signal::TERM);
        }
    }

    /// SIGTERM, a bounded wait, SIGKILL. Returns how it ended; `None` only
    /// where the kernel cannot end it (a process stuck in a driver).
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.terminate();
        if self.wait(grace).is_none() {
            self.signal(Signal::KILL);
            self.wait(BURIAL);
        }
        self.ended
    }

    fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            self.wait(BURIAL);
        }
    }
}

/// A command that the kernel ends with `signal` when the thread that starts it ends.
pub fn dies_with_us(program: impl AsRef<std::ffi::OsStr>, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg(signal).arg("--").arg(program);
    command
}

/// The kernel's start time of a process (clock ticks since boot, field 22 of
/// `/proc/PID/stat`): with it a recycled pid is told from the old one.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Ends a process that an earlier run left, if it is still the one remembered.
pub fn end_leftover(pid: u32, started: u64) {
    let still = || start_time(pid) == Some(started);
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(fd) = pidfd_open(id, PidfdFlags::empty()) else { return };
    for (signal, seconds) in [(Signal::TERM, 3), (Signal::KILL, 3)] {
        // The check comes after the pidfd was opened: from here on it cannot be another process.
        if !still() || kill_process(id, signal).is_err() {
            return;
        }
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
    }
}

/// Runs a tool to its end, feeding it `input`, and returns what it printed.
///
/// # Errors
/// [`RackError::Missing`] or [`RackError::Tool`] with its own words.
pub fn run(command: &mut Command, input: &str) -> Result<String, RackError> {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| missing(command, &e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early closes its input; its words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let failed = |why: String| RackError::Tool { command: shown(command), why };
    let out = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    Err(failed(if words.is_empty() { out.status.to_string() } else { words }))
}

fn missing(command: &Command, e: &std::io::Error) -> RackError {
    let program = command.get_program().to_string_lossy().into_owned();
    if e.kind() != std::io::ErrorKind::NotFound {
        return RackError::Tool { command: program, why: e.to_string() };
    }
    let remedy = match program.as_str() {
        "ip" => "apt-get install iproute2",
        "setpriv" => "apt-get install util-linux",
        "dnsmasq" => "apt-get install dnsmasq-base",
        "qemu-system-x86_64" => "apt-get install qemu-system-x86",
        "qemu-system-aarch64" => "apt-get install qemu-system-arm",
        _ => "install it, or put it in PATH",
    };
    RackError::Missing { program, remedy: remedy.to_owned() }
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path, script: &str) -> Process {
        let mut command = dies_with_us("sh", "KILL");
        command.arg("-c").arg(script);
        Process::spawn("sleeper", command, &dir.join("log")).unwrap()
    }

    #[test]
    fn a_process_that_listens_to_term_ends_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = sleeper(dir.path(), "exec sleep 1000");
        assert!(p.wait(Duration::from_millis(20)).is_none() && start_time(p.pid()).is_some());
        let pid = p.pid();
        assert!(p.stop(Duration::from_secs(10)).is_some());
        assert_eq!(start_time(pid), None, "it was waited for");
    }

    #[test]
    fn a_process_that_ignores_term_is_killed_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = sleeper(dir.path(), "trap '' TERM; echo ready; while :; do sleep 1000; done");
        let log = dir.path().join("log");
        let began = std::time::Instant::now();
        while std::fs::read_to_string(&log).unwrap_or_default().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "the shell never started");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(p.stop(Duration::from_millis(50)).is_some_and(|s| !s.success()));
    }

    #[test]
    fn a_leftover_is_ended_only_if_it_is_the_same_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = sleeper(dir.path(), "exec sleep 1000");
        let started = start_time(p.pid()).unwrap();
        end_leftover(p.pid(), started + 1);
        assert!(p.ended().is_none(), "another process with that pid must live");
        end_leftover(p.pid(), started);
        assert!(p.wait(Duration::from_secs(10)).is_some());
    }

    #[test]
    fn a_missing_program_is_named_with_a_remedy() {
        let e = run(&mut Command::new("stoker-no-such-program"), "").unwrap_err().to_string();
        assert!(e.contains("not installed") && e.contains("PATH"), "{e}");
        let e = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]), "").unwrap_err().to_string();
        assert!(e.contains("broken"), "{e}");
    }
}
