//! `stoker tftp get`: our own TFTP client, with a verdict.

use super::{Failure, table, time};
use protocol::tftp::fetch::{Ask, End, Fault, Fetch, Output, Patience, Report};
use protocol::tftp::{DATA_HEADER, DEFAULT_BLKSIZE, ErrorCode, PORT, Rollover};
use protocol::time::Instant as Moment;
use sha2::{Digest as _, Sha256};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Receive buffer asked of the kernel: some windows of the largest kind.
const RECEIVE_BUFFER: usize = 4 << 20;
/// After this much silence it is worth asking whether the port is open at all.
const SUSPICIOUS: Duration = Duration::from_millis(1500);
/// A round trip longer than this makes lock-step visibly slow.
const LONG_TRIP: Duration = Duration::from_millis(2);

/// Commands below `stoker tftp`.
#[derive(clap::Subcommand)]
pub enum TftpCommand {
    /// Fetch a file and say how well that went
    Get(Get),
}

/// Arguments of `stoker tftp get`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  stoker tftp get 10.0.0.1 snponly.efi                     fetch, check, throw away
  stoker tftp get 10.0.0.1 snponly.efi -o /tmp/x.efi       keep it
  stoker tftp get 10.0.0.1 snponly.efi --blksize 512       as old firmware does (no large packets)
  stoker tftp get 10.0.0.1 snponly.efi --no-options        as the oldest does: RFC 1350 alone

Exit code 0 when the whole file came, slow or not; 1 when it did not.")]
pub struct Get {
    /// The TFTP server: a name or an address
    host: String,
    /// The file, as the firmware would ask for it
    file: String,
    /// Keep it under this name (- for standard output)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// UDP port of the server
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// Ask for blocks of so many bytes (RFC 2348); 1468 fits an Ethernet frame
    #[arg(long, default_value_t = 1468, value_parser = clap::value_parser!(u16).range(8..=65464))]
    blksize: u16,
    /// Ask for so many blocks before each acknowledgement (RFC 7440); 1 leaves the option out
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    windowsize: u16,
    /// Ask for no options at all
    #[arg(long)]
    no_options: bool,
    /// Give up after so many seconds of silence
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// One JSON object in place of words
    #[arg(long)]
    json: bool,
}

impl TftpCommand {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let Self::Get(get) = self;
        get.run()
    }
}

impl Get {
    fn run(&self) -> Result<ExitCode, Failure> {
        let server = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|e| Failure::Usage(format!("{} cannot be resolved: {e}", self.host)))?
            .next()
            .ok_or_else(|| Failure::Usage(format!("{} has no address", self.host)))?;
        let mut target = Target::open(self.output.as_deref())?;
        let mut hash = Sha256::new();
        let wish = Wish {
            blksize: (!self.no_options).then_some(self.blksize),
            windowsize: (!self.no_options && self.windowsize > 1).then_some(self.windowsize),
            give_up: Duration::from_secs(self.timeout),
        };
        let got = fetch(server, &self.file, &wish, &mut |bytes| {
            hash.update(bytes);
            target.write(bytes)
        })?;
        let whole = got.report.end == Some(End::Complete);
        target.close(whole)?;
        let digest: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        self.tell(server, &wish, &got, &digest)?;
        Ok(ExitCode::from(u8::from(!whole)))
    }

    fn tell(&self, server: SocketAddr, wish: &Wish, got: &Got, digest: &str) -> Result<(), Failure> {
        let r = &got.report;
        let verdict = verdict(r, wish, got.port_closed);
        if self.json {
            let agreed = r.agreed.as_ref();
            return table::json(&serde_json::json!({
                "verdict": verdict.word, "text": verdict.text, "server": server, "tid": got.tid, "file": self.file,
                "bytes": r.bytes, "blocks": r.blocks, "elapsed_ms": r.elapsed.as_secs_f64() * 1000.0,
                "first_answer_ms": r.first_answer.map(|d| d.as_secs_f64() * 1000.0),
                "blksize": agreed.map(|a| a.blksize()), "windowsize": agreed.map(|a| a.windowsize()),
                "tsize": agreed.and_then(|a| a.tsize()), "retransmissions": r.retransmissions,
                "duplicates": r.duplicates, "gaps": r.gaps,
                "sha256": (r.end == Some(End::Complete)).then_some(digest),
            }));
        }
        // With `-o -` standard output is the file's.
        let piped = self.output.as_deref() == Some(Path::new("-"));
        let say = |line: &str| if piped { eprintln!("{line}") } else { table::line(line) };
        say(&format!("asked      {server} for {}{}", self.file, wish.words()));
        if let (Some(first), Some(tid)) = (r.first_answer, got.tid) {
            say(&format!(
                "answered   by port {} after {:.1} ms{}",
                tid.port(),
                first.as_secs_f64() * 1000.0,
                agreed_words(r)
            ));
        }
        if r.blocks > 0 {
            let counts = [
                (r.retransmissions, "sent again"),
                (r.gaps, "gaps"),
                (r.duplicates, "duplicates"),
                (r.strangers, "strangers"),
            ];
            let counts: Vec<_> = counts.iter().map(|(n, what)| format!("{n} {what}")).collect();
            say(&format!("received   {} bytes in {} blocks; {}", r.bytes, r.blocks, counts.join(", ")));
        }
        if r.end == Some(End::Complete) {
            say(&format!("sha256     {digest}"));
        }
        say(&format!("{}: {}", verdict.word, verdict.text));
        Ok(())
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Block size option, bytes.
    pub blksize: Option<u16>,
    /// Window size option, blocks.
    pub windowsize: Option<u16>,
    /// Longest silence.
    pub give_up: Duration,
}

impl Wish {
    fn words(&self) -> String {
        match (self.blksize, self.windowsize) {
            (None, _) => ", no options".to_owned(),
            (Some(b), None) => format!(", blksize {b}, tsize"),
            (Some(b), Some(w)) => format!(", blksize {b}, windowsize {w}, tsize"),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Got {
    /// The machine's own account.
    pub report: Report,
    /// The server's address for the transfer, once it answered.
    pub tid: Option<SocketAddr>,
    /// The server's host said that nothing listens on the port (ICMP).
    pub port_closed: bool,
}

/// Fetches a file, handing its bytes to `sink` in order.
///
/// # Errors
/// Only what goes wrong on this side: no socket, or a failing sink.
pub fn fetch(
    server: SocketAddr,
    file: &str,
    wish: &Wish,
    sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<Got, Failure> {
    let failed = |what: &str, e: std::io::Error| Failure::Failed(format!("{what}: {e}"));
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).map_err(|e| failed("no UDP socket", e))?;
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    let began = Instant::now();
    let now = || Moment(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let patience = Patience { first: Duration::from_millis(500), give_up: wish.give_up, ..Patience::default() };
    let ask = Ask {
        name: file.as_bytes(),
        blksize: wish.blksize,
        windowsize: wish.windowsize,
        tsize: wish.blksize.is_some(),
        rollover: Rollover::Zero,
        patience,
        ..Ask::default()
    };
    let mut fetch = Fetch::start(server, &ask, now());
    let mut buffer = vec![0; usize::from(wish.blksize.unwrap_or(DEFAULT_BLKSIZE).max(DEFAULT_BLKSIZE)) + DATA_HEADER];
    let mut port_closed = None;
    loop {
        let mut over = false;
        while let Some(output) = fetch.poll_output() {
            match output {
                // A full or unreachable way is the same as a lost packet: the machine repeats it.
                Output::Send { to, bytes } => drop(socket.send_to(bytes, to)),
                Output::Ended(_) => over = true,
            }
        }
        if over || port_closed == Some(true) {
            return Ok(Got {
                report: fetch.report().clone(),
                tid: fetch.tid(),
                port_closed: port_closed == Some(true),
            });
        }
        if fetch.tid().is_none() && port_closed.is_none() && began.elapsed() > SUSPICIOUS {
            port_closed = Some(is_port_closed(server, file));
        }
        let Some(due) = fetch.deadline() else { continue };
        // A timeout of zero would mean "for ever".
        let wait = due.since(now()).clamp(Duration::from_micros(100), Duration::from_secs(1));
        socket.set_read_timeout(Some(wait)).map_err(|e| failed("no timer", e))?;
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => {
                if let Some(bytes) = fetch.handle(from, buffer.get(..n).unwrap_or_default(), now()) {
                    sink(bytes).map_err(|e| failed("the file cannot be written", e))?;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => return Err(failed("the network refuses", e)),
        }
        fetch.timer(now());
    }
}

/// Asks once more from a connected socket: only such a one is told of an ICMP "port unreachable".
fn is_port_closed(server: SocketAddr, file: &str) -> bool {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let refused = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let request: Vec<u8> = [b"\0\x01", file.as_bytes(), b"\0octet\0"].concat();
        socket.send(&request)?;
        socket.recv(&mut [0; 4])
    };
    refused().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

fn agreed_words(r: &Report) -> String {
    let Some(agreed) = &r.agreed else { return String::new() };
    let size = agreed.tsize().map(|n| format!(", tsize {n}")).unwrap_or_default();
    format!(": blksize {}, windowsize {}{size}", agreed.blksize(), agreed.windowsize())
}

/// The last line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// `good`, `slow` or `failed`.
    pub word: &'static str,
    /// Why, and what to do.
    pub text: String,
}

/// Judges a fetch.
pub fn verdict(r: &Report, wish: &Wish, port_closed: bool) -> Verdict {
    let failed = |text: String| Verdict { word: "failed", text };
    let so_far = || {
        format!(
            "after {} of {}",
            time::bytes(r.bytes),
            r.agreed.and_then(|a| a.tsize()).map_or_else(|| "an unknown length".into(), time::bytes)
        )
    };
    match r.end {
        _ if port_closed => {
            failed("nothing listens on that UDP port; start the TFTP server, or look at `stoker doctor` there".into())
        }
        Some(End::Complete | End::Probed) => quality(r, wish),
        None | Some(End::NoAnswer) => failed(format!(
            "no answer in {:.0} s; does a firewall drop UDP to the TFTP port (or the answers, which come from another port)? Look at `stoker doctor` on the server",
            r.elapsed.as_secs_f64().max(wish.give_up.as_secs_f64())
        )),
        Some(End::TimedOut) if r.blocks == 0 => failed(format!(
            "options were agreed on, but no block arrived: packets of {} bytes do not pass; try --blksize 512, then look for a smaller MTU on the way",
            wish.blksize.map_or(512, u32::from) + 32
        )),
        Some(End::TimedOut) => failed(format!("the server fell silent {}; look at its log and at the link", so_far())),
        Some(End::Refused(code)) => {
            failed(format!("the server refuses: error {}, \"{}\"; {}", code.0, r.text, refusal_remedy(code)))
        }
        Some(End::Protocol(fault)) => {
            failed(format!("the server breaks the rules {}: {}", so_far(), fault_words(fault)))
        }
    }
}

fn quality(r: &Report, wish: &Wish) -> Verdict {
    let agreed = r.agreed.unwrap_or_default();
    let lost = u64::from(r.retransmissions) + u64::from(r.gaps);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "two digits are shown"
    )]
    let rate = (r.bytes as f64 / r.elapsed.as_secs_f64().max(1e-6)) as u64;
    let head = format!("{} in {:.3} s ({}/s)", time::bytes(r.bytes), r.elapsed.as_secs_f64(), time::bytes(rate));
    let mut reasons = Vec::new();
    if lost > 0 {
        reasons.push(format!(
            "{lost} times packets were lost: look at cabling, duplex and the server's receive buffer (`stoker doctor`)"
        ));
    }
    if wish.blksize.is_some() && agreed.blksize() < wish.blksize.unwrap_or(0).min(1024) {
        reasons.push(format!("the server only grants blocks of {} bytes", agreed.blksize()));
    }
    let lockstep = wish.windowsize.is_some() && agreed.windowsize() == 1;
    if lockstep && r.first_answer.is_some_and(|d| d > LONG_TRIP) {
        reasons.push("the server grants no windowsize, so each block waits for a round trip".to_owned());
    }
    if reasons.is_empty() {
        let text = format!("{head}, blksize {}, windowsize {}, nothing lost", agreed.blksize(), agreed.windowsize());
        return Verdict { word: "good", text };
    }
    Verdict { word: "slow", text: format!("{head}, because {}", reasons.join("; and ")) }
}

fn refusal_remedy(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NOT_FOUND => "compare the name with what the server publishes, letter by letter (case counts)",
        ErrorCode::OPTIONS => "try --no-options: the server cannot deal with options",
        _ => "look at the server's log",
    }
}

fn fault_words(fault: Fault) -> String {
    match fault {
        Fault::Option(name) => format!("it grants {name}, which was not asked for so"),
        Fault::LongBlock => "a block is longer than agreed".to_owned(),
        Fault::Length => "the file is not as long as it said".to_owned(),
        Fault::Malformed(_) => "it sent something that is no TFTP packet".to_owned(),
        Fault::LongRequest => "the request does not fit in 512 bytes: the name is too long".to_owned(),
    }
}

/// Where the bytes go.
enum Target {
    Nowhere,
    Stdout(std::io::Stdout),
    /// Written beside, then renamed: a file of that name is always whole.
    File {
        part: tempfile::NamedTempFile,
        path: PathBuf,
    },
}

impl Target {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            None => Ok(Self::Nowhere),
            Some(path) if path == Path::new("-") => Ok(Self::Stdout(std::io::stdout())),
            Some(path) => {
                let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let part = tempfile::NamedTempFile::new_in(dir)
                    .map_err(|e| Failure::Usage(format!("cannot write to {}: {e}", dir.display())))?;
                Ok(Self::File { part, path: path.to_owned() })
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout(out) => out.write_all(bytes),
            Self::File { part, .. } => part.write_all(bytes),
        }
    }

    fn close(self, whole: bool) -> Result<(), Failure> {
        match self {
            Self::File { part, path } if whole => part.persist(path).map(drop).map_err(Failure::from_error),
            Self::Stdout(mut out) => out.flush().map_err(Failure::from_error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish = Wish { blksize: Some(1468), windowsize: Some(16), give_up: Duration::from_secs(2) };

    /// A server of one file that answers as RFC 1350 alone demands, dropping the answers listed.
    fn old_server(file: Vec<u8>, drop_answers: &'static [usize]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let at = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            let mut answers = 0;
            while let Ok((_, client)) = socket.recv_from(&mut packet) {
                let last = if packet[1] == 1 { 0 } else { usize::from(packet[2]) * 256 + usize::from(packet[3]) };
                if last > file.len() / 512 {
                    return;
                }
                let block = u16::try_from(last + 1).unwrap();
                let part = &file[last * 512..file.len().min((last + 1) * 512)];
                if !drop_answers.contains(&answers) {
                    socket.send_to(&[&[0, 3], &block.to_be_bytes()[..], part].concat(), client).unwrap();
                }
                answers += 1;
            }
        });
        at
    }

    fn get(server: SocketAddr, wish: &Wish) -> (Got, Vec<u8>) {
        let mut bytes = Vec::new();
        let got = fetch(server, "x", wish, &mut |b| bytes.write_all(b)).unwrap();
        (got, bytes)
    }

    #[test]
    fn a_file_comes_whole_from_a_server_without_options() {
        let file: Vec<u8> = (0..20_000_u32).map(|i| i as u8).collect();
        let (got, bytes) = get(old_server(file.clone(), &[]), &WISH);
        assert_eq!(bytes, file);
        let v = verdict(&got.report, &WISH, got.port_closed);
        assert!(v.word == "slow" && v.text.contains("512"), "{v:?}");
        let none = Wish { blksize: None, windowsize: None, ..WISH };
        assert_eq!(verdict(&got.report, &none, false).word, "good");
    }

    #[test]
    fn a_loss_is_repaired_and_named() {
        let file = vec![7; 3000];
        let (got, bytes) = get(
            old_server(file.clone(), &[2]),
            &Wish { blksize: None, windowsize: None, give_up: Duration::from_secs(9) },
        );
        assert_eq!(bytes, file);
        let v = verdict(&got.report, &WISH, false);
        assert!(v.word == "slow" && v.text.contains("lost"), "{v:?}");
    }

    #[test]
    fn a_closed_port_is_told_from_silence() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (got, _) = get(free, &Wish { give_up: Duration::from_secs(8), ..WISH });
        assert!(got.port_closed);
        assert!(verdict(&got.report, &WISH, true).text.contains("nothing listens"));

        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (got, _) = get(silent.local_addr().unwrap(), &WISH);
        let v = verdict(&got.report, &WISH, got.port_closed);
        assert!(!got.port_closed && v.word == "failed" && v.text.contains("firewall"), "{v:?}");
    }

    #[test]
    fn a_refusal_keeps_the_servers_words() {
        let report =
            Report { end: Some(End::Refused(ErrorCode::NOT_FOUND)), text: "no such file".into(), ..Report::default() };
        let v = verdict(&report, &WISH, false);
        assert!(v.text.contains("no such file") && v.text.contains("letter by letter"), "{v:?}");
    }

    #[test]
    fn an_output_file_appears_only_when_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for whole in [false, true] {
            let mut target = Target::open(Some(&path)).unwrap();
            target.write(b"abc").unwrap();
            target.close(whole).unwrap();
            assert_eq!(path.exists(), whole);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no half file stays");
    }
}
