//! QMP, the control socket of a QEMU machine (QEMU Machine Protocol: JSON
//! lines; a greeting, `qmp_capabilities`, then commands).

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// QEMU answers within milliseconds; a loaded host may take longer.
const ANSWER: Duration = Duration::from_secs(10);
/// No line of QMP may be longer, bytes.
const MAX_LINE: u64 = 1 << 20;
/// Events that may come before an answer.
const MAX_EVENTS: usize = 1000;

/// An open control socket.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    /// Names of the events that came since they were asked for.
    events: Vec<String>,
}

impl Qmp {
    /// Connects to the socket `name` in folder `dir`, waiting up to `limit` for QEMU to make it.
    ///
    /// # Errors
    /// Whatever the connection or the greeting met.
    pub fn connect(dir: &Path, name: &str, limit: Duration) -> Result<Self> {
        let began = Instant::now();
        let stream = loop {
            match connect_short(dir, name) {
                Ok(stream) => break stream,
                Err(e) if began.elapsed() >= limit => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut qmp = Self { reader: BufReader::new(stream), events: Vec::new() };
        qmp.line()?;
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Executes a command and returns its `return` value.
    ///
    /// # Errors
    /// QEMU's own words where it refuses.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        self.reader.get_mut().write_all(format!("{request}\n").as_bytes())?;
        for _ in 0..MAX_EVENTS {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(event) = answer.get("event").and_then(Value::as_str)
                && self.events.len() < MAX_EVENTS
            {
                self.events.push(event.to_owned());
            }
            if let Some(error) = answer.get("error") {
                return Err(Error::other(format!("{command}: {}", error["desc"].as_str().unwrap_or("refused"))));
            }
        }
        Err(Error::new(ErrorKind::TimedOut, "only events, no answer"))
    }

    /// The names of the events that came with the answers so far, each told once.
    pub fn events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// The machine's run state: `running`, `paused`, `internal-error`, `shutdown`, ...
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn status(&mut self) -> Result<String> {
        let value = self.execute("query-status", Value::Null)?;
        Ok(value["status"].as_str().unwrap_or("unknown").to_owned())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader.by_ref().take(MAX_LINE).read_line(&mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(|e| Error::new(ErrorKind::InvalidData, e))
    }
}

/// Connects to a Unix socket whose whole path may be longer than the 108 bytes
/// that an address holds: through the open folder in `/proc/self/fd`.
///
/// # Errors
/// Whatever `open` or `connect` met.
pub fn connect_short(dir: &Path, name: &str) -> Result<UnixStream> {
    let dir = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}
