//! Where the agent's words go: every console the kernel writes to (a person at
//! the screen and a person at the serial line both see them) and the kernel log.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, PoisonError};

/// No line may be longer, bytes.
const MAX_LINE: usize = 400;
/// Consoles written to; more are not used.
const MAX_CONSOLES: usize = 8;

static OUT: Mutex<Vec<Out>> = Mutex::new(Vec::new());

enum Out {
    Tty(File),
    Kmsg(File),
}

/// Opens the consoles that the kernel uses. Before it, and by hand, lines go to standard error.
pub fn open() {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let open = |path: &str| {
        let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
        OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path)
    };
    let mut out: Vec<Out> = active
        .split_ascii_whitespace()
        .take(MAX_CONSOLES)
        .filter_map(|name| open(&format!("/dev/{name}")).ok())
        .map(Out::Tty)
        .collect();
    if let Ok(file) = open("/dev/kmsg") {
        out.push(Out::Kmsg(file));
    }
    *OUT.lock().unwrap_or_else(PoisonError::into_inner) = out;
}

/// One line: `stoker-agent: ...`. Use [`say!`](crate::say).
pub fn line(text: &str) {
    let mut out = OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let text = printable(text);
    if out.is_empty() {
        eprintln!("stoker-agent: {text}");
    }
    for one in out.iter_mut() {
        // A console that cannot take a line must not stop the agent, so errors are dropped.
        let _ = match one {
            Out::Tty(file) => file.write_all(format!("stoker-agent: {text}\r\n").as_bytes()),
            // Level 7: kept in the log, and not printed a second time on the consoles.
            Out::Kmsg(file) => file.write_all(format!("<7>stoker-agent: {text}\n").as_bytes()),
        };
    }
}

/// Printable ASCII of bounded length: texts come from firmware and from the network.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(MAX_LINE).collect()
}

/// Says one line on the consoles; takes what `format!` takes.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(&format!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_made_harmless() {
        assert_eq!(printable("ok\x1b[2J\r\né"), "ok?[2J???");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_LINE);
    }
}
