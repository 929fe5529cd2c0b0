//! What a server costs: the CPU time and memory of a process, its threads and
//! its children, dead or alive, as the kernel accounts them in `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

/// `/proc/PID/stat` counts in these ticks: `USER_HZ`, 100 a second on every
/// architecture that stoker runs on.
const TICK: Duration = Duration::from_millis(10);

/// CPU time since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// In user mode.
    pub user: Duration,
    /// In the kernel: on loopback this holds the whole network path of what the process sends.
    pub system: Duration,
}

impl Usage {
    /// Both together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    fn plus(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }
}

/// CPU time of `root`, its threads, its living descendants, and the dead ones
/// that were waited for (a forking server's transfers).
///
/// # Errors
/// When `/proc` cannot be read or `root` is gone.
pub fn of_tree(root: u32) -> io::Result<Usage> {
    Ok(tree(root)?.iter().fold(Usage::default(), |sum, stat| sum.plus(stat.usage())))
}

/// Watches a server whose children's times are lost: tftpd-hpa ignores SIGCHLD,
/// so that the kernel adds them to nobody (`times(2)`). What a child did after it
/// was last seen is missing: the sum is a lower bound.
#[derive(Debug, Default)]
pub struct Watched {
    seen: HashMap<u32, Usage>,
}

impl Watched {
    /// How often to look.
    pub const INTERVAL: Duration = Duration::from_millis(20);

    /// Notes what each process of the tree has used so far.
    ///
    /// # Errors
    /// When `/proc` cannot be read or `root` is gone.
    pub fn look(&mut self, root: u32) -> io::Result<()> {
        self.seen.extend(tree(root)?.iter().map(|stat| (stat.pid, stat.usage())));
        Ok(())
    }

    /// The sum over all that were ever seen.
    pub fn total(&self) -> Usage {
        self.seen.values().fold(Usage::default(), |sum, usage| sum.plus(*usage))
    }
}

/// The largest resident set that the living processes of the tree have had, bytes, summed.
///
/// # Errors
/// When `/proc` cannot be read or `root` is gone.
pub fn peak_memory_of_tree(root: u32) -> io::Result<u64> {
    let mut sum = 0;
    for stat in tree(root)? {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", stat.pid)) else { continue };
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|v| v.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
        sum += kib.unwrap_or(0) * 1024;
    }
    Ok(sum)
}

fn tree(root: u32) -> io::Result<Vec<Stat>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading.
        if let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|s| Stat::parse(&s)) {
            all.push(stat);
        }
    }
    let parents: HashMap<u32, u32> = all.iter().map(|s| (s.pid, s.parent)).collect();
    all.retain(|s| descends(s.pid, root, &parents));
    if all.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {root} is gone")));
    }
    Ok(all)
}

fn descends(mut pid: u32, root: u32, parents: &HashMap<u32, u32>) -> bool {
    // No chain of parents is longer than the number of processes.
    for _ in 0..=parents.len() {
        if pid == root {
            return true;
        }
        match parents.get(&pid) {
            Some(&parent) if parent != 0 => pid = parent,
            _ => return false,
        }
    }
    false
}

#[derive(PartialEq, Eq, Debug)]
struct Stat {
    pid: u32,
    parent: u32,
    user_ticks: u32,
    system_ticks: u32,
}

impl Stat {
    fn usage(&self) -> Usage {
        Usage { user: TICK * self.user_ticks, system: TICK * self.system_ticks }
    }

    /// proc_pid_stat(5). The name in parentheses may itself hold spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(' ')?;
        let fields: Vec<&str> = rest.get(rest.rfind(')')? + 1..)?.split_whitespace().collect();
        // fields[0] is field 3 (state) of the manual page.
        let number = |manual: usize| fields.get(manual - 3)?.parse::<u32>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            parent: number(4)?,
            user_ticks: number(14)?.saturating_add(number(16)?),
            system_ticks: number(15)?.saturating_add(number(17)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn stat_line_with_a_nasty_name_is_read() {
        let line = "42 (a ) b (c)) S 7 42 42 0 -1 4194304 90 1000 0 0 11 22 33 44 20 0 1 0 5";
        let want = Stat { pid: 42, parent: 7, user_ticks: 44, system_ticks: 66 };
        assert_eq!(Stat::parse(line), Some(want));
        assert_eq!(Stat::parse("42 (x"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn work_of_a_child_that_ended_counts() {
        // The shell's child burns CPU, ends and is waited for; then the shell waits for us.
        let script = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo done; read x";
        let mut shell =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(shell.stdout.take().unwrap()), &mut said).unwrap();
        let used = of_tree(shell.id()).unwrap();
        assert!(peak_memory_of_tree(shell.id()).unwrap() > 0);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(used.total() >= TICK * 5, "{used:?}");
        assert!(of_tree(shell.id()).is_err());
    }
}
