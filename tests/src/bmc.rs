//! A BMC that speaks IPMI 2.0 (suites 3 and 17) and has the faults of real ones.
//!
//! One thread and one UDP socket on loopback. What it switches is a
//! [`Machine`]: a pair of flags for tests of the client, a virtual machine for
//! tests of the whole.

use protocol::ipmi::Suite;
use protocol::ipmi::crypto::Keys;
use protocol::ipmi::wire::{self, Message, payload};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the BMC switches.
pub trait Machine: Send {
    /// Whether it is on.
    fn is_on(&mut self) -> bool;
    /// Switches it. Must return at once: clients repeat a command after a second.
    fn switch(&mut self, on: bool);
    /// Hard reset.
    fn reset(&mut self);
    /// The boot flags have changed: from where, and whether for the next boot alone.
    fn boot_from(&mut self, device: u8, once: bool);
}

/// What is wrong with it. All off by default.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// Takes packets and never answers.
    pub silent: bool,
    /// Drops the first so many packets.
    pub drop_first: u32,
    /// Answers so much later.
    pub delay: Duration,
    /// Says that power commands went well, and does nothing.
    pub ignores_power: bool,
    /// Says that the boot flags were taken, and keeps the old ones.
    pub ignores_boot: bool,
    /// Says that the machine is off, whatever it is.
    pub says_off: bool,
    /// Does not know Get Channel Cipher Suites.
    pub hides_suites: bool,
}

/// What it was asked, and what it has.
#[derive(Default)]
pub struct State {
    /// What is wrong with it; may be changed while it runs.
    pub faults: Faults,
    /// Every command of an open session: network function, command, data.
    pub commands: Vec<(u8, u8, Vec<u8>)>,
    /// Sessions open now.
    pub open: usize,
    /// The boot flags, as parameter 5 has them.
    pub boot: [u8; 5],
}

/// The BMC; ends when dropped.
pub struct Bmc {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The one user.
pub const USER: &str = "admin";
/// Its password.
pub const PASSWORD: &str = "s3cret";

impl Bmc {
    /// Starts one on a free loopback port with these suites and so many sessions.
    ///
    /// # Panics
    /// Where loopback has no free port.
    pub fn start(suites: &[Suite], sessions: usize, machine: impl Machine + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let address = socket.local_addr().expect("a bound socket has an address");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a read timeout");
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = Server {
            socket,
            state: state.clone(),
            suites: suites.to_vec(),
            limit: sessions,
            sessions: HashMap::new(),
            next_id: 0x100,
            late: Vec::new(),
            machine: Box::new(machine),
        };
        let ended = stop.clone();
        let thread = std::thread::spawn(move || server.run(&ended));
        Self { address, state, stop, thread: Some(thread) }
    }

    /// Its state, to look at or to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is wrong with it.
    pub fn faults(&self, faults: Faults) {
        self.state().faults = faults;
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A machine that is only a flag, with a record of what was done to it.
#[derive(Clone, Default)]
pub struct Switch {
    /// On, and what was done, in order.
    pub log: Arc<Mutex<(bool, Vec<String>)>>,
}

impl Switch {
    /// What was done.
    pub fn done(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl Machine for Switch {
    fn is_on(&mut self) -> bool {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).0
    }
    fn switch(&mut self, on: bool) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.0 = on;
        log.1.push(if on { "on".into() } else { "off".into() });
    }
    fn reset(&mut self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).1.push("reset".into());
    }
    fn boot_from(&mut self, device: u8, once: bool) {
        let lasting = if once { "once" } else { "always" };
        self.log.lock().unwrap_or_else(PoisonError::into_inner).1.push(format!("boot {device} {lasting}"));
    }
}

struct Server {
    socket: UdpSocket,
    state: Arc<Mutex<State>>,
    suites: Vec<Suite>,
    limit: usize,
    /// By our id.
    sessions: HashMap<u32, Session>,
    next_id: u32,
    late: Vec<(Instant, SocketAddr, Vec<u8>)>,
    machine: Box<dyn Machine>,
}

struct Session {
    suite: Suite,
    console: u32,
    random: [u8; 16],
    keys: Option<Keys>,
    sequence: u32,
    /// The last answer, for repetitions of the same request.
    last: Option<(u8, u8, Vec<u8>)>,
    role: Vec<u8>,
    console_random: [u8; 16],
    open: bool,
}

const GUID: [u8; 16] = *b"stoker-bmc-guid!";

impl Server {
    fn run(&mut self, stop: &AtomicBool) {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = self.late.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>();
            for (_, peer, packet) in due {
                let _ = self.socket.send_to(&packet, peer);
            }
            let Ok((n, peer)) = self.socket.recv_from(&mut buffer) else { continue };
            let faults = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.faults.drop_first > 0 {
                    state.faults.drop_first -= 1;
                    continue;
                }
                state.faults.clone()
            };
            if faults.silent {
                continue;
            }
            let Some(answer) = self.answer(&buffer[..n], &faults) else { continue };
            if faults.delay.is_zero() {
                let _ = self.socket.send_to(&answer, peer);
            } else {
                self.late.push((Instant::now() + faults.delay, peer, answer));
            }
        }
    }

    fn answer(&mut self, packet: &[u8], faults: &Faults) -> Option<Vec<u8>> {
        if let Some(m) = wire::read_sessionless(packet).and_then(wire::read_message) {
            let data = self.before_session(&m, faults)?;
            return Some(wire::sessionless(&wire::response(m.netfn | 1, m.rq_seq, m.command, &data)));
        }
        if let Some((kind, body)) = wire::read_setup(packet) {
            let body = match kind {
                payload::OPEN_SESSION => self.open(body)?,
                payload::RAKP1 => self.rakp1(body)?,
                payload::RAKP3 => self.rakp3(body)?,
                _ => return None,
            };
            return Some(wire::setup_packet(kind + 1, &body));
        }
        let id = u32::from_le_bytes(*packet.get(6..)?.first_chunk()?);
        let session = self.sessions.get(&id)?;
        let (_, message) = wire::unseal(session.keys.as_ref()?, id, packet)?;
        let m = wire::read_message(&message)?;
        // A client that heard nothing sends the same request again: it must not be done twice.
        let repeated = session.last.clone().filter(|(seq, command, _)| (*seq, *command) == (m.rq_seq, m.command));
        let data = match repeated {
            Some((_, _, data)) => data,
            None => self.command(&m, faults),
        };
        let session = self.sessions.get_mut(&id)?;
        session.last = Some((m.rq_seq, m.command, data.clone()));
        session.sequence += 1;
        let iv = noise(u64::from(session.sequence));
        let answer = wire::response(m.netfn | 1, m.rq_seq, m.command, &data);
        let packet = wire::seal(session.keys.as_ref()?, session.console, session.sequence, iv, &answer);
        if (m.netfn, m.command) == (6, 0x3c) {
            self.sessions.remove(&id);
            self.count();
        }
        Some(packet)
    }

    /// Get Channel Cipher Suites, Get Channel Authentication Capabilities.
    fn before_session(&self, m: &Message<'_>, faults: &Faults) -> Option<Vec<u8>> {
        match (m.netfn, m.command) {
            (6, 0x54) if faults.hides_suites => Some(vec![0xc1]),
            (6, 0x54) => {
                let records: Vec<u8> = self
                    .suites
                    .iter()
                    .flat_map(|s| {
                        let (auth, integrity, privacy) = s.algorithms();
                        [0xc0, s.number(), auth, 0x40 | integrity, 0x80 | privacy]
                    })
                    .collect();
                let from = usize::from(m.data.get(2)? & 0x3f) * 16;
                let part = records.get(from..).unwrap_or_default();
                Some([&[0, 1], &part[..part.len().min(16)]].concat())
            }
            // Channel 1, RMCP+ only, non-null users, IPMI 2.0.
            (6, 0x38) => Some(vec![0, 1, 0x80, 0x04, 0x02, 0, 0, 0, 0]),
            _ => Some(vec![0xd4]),
        }
    }

    fn open(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let tag = *body.first()?;
        let console = u32::from_le_bytes(*body.get(4..)?.first_chunk()?);
        let asked = (*body.get(12)? & 0x3f, *body.get(20)? & 0x3f, *body.get(28)? & 0x3f);
        let refuse = |code: u8| Some(vec![tag, code, 0, 0, 0, 0, 0, 0]);
        let Some(suite) = self.suites.iter().copied().find(|s| s.algorithms() == asked) else { return refuse(0x11) };
        // Handshakes that were never finished make room first.
        self.sessions.retain(|_, s| s.open || s.console != console);
        if self.sessions.values().filter(|s| s.open).count() >= self.limit {
            return refuse(0x01);
        }
        self.next_id += 1;
        let id = self.next_id;
        let session = Session {
            suite,
            console,
            random: noise(u64::from(id) << 8),
            keys: None,
            sequence: 0,
            last: None,
            role: Vec::new(),
            console_random: [0; 16],
            open: false,
        };
        self.sessions.insert(id, session);
        let mut out = vec![tag, 0, 4, 0];
        out.extend(console.to_le_bytes());
        out.extend(id.to_le_bytes());
        for (kind, algorithm) in [(0, asked.0), (1, asked.1), (2, asked.2)] {
            out.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        Some(out)
    }

    fn rakp1(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let tag = *body.first()?;
        let id = u32::from_le_bytes(*body.get(4..)?.first_chunk()?);
        let session = self.sessions.get_mut(&id)?;
        session.console_random = *body.get(8..)?.first_chunk()?;
        let user = body.get(28..)?.get(..usize::from(*body.get(27)?))?;
        session.role = [&[*body.get(24)?, *body.get(27)?], user].concat();
        if user != USER.as_bytes() {
            return Some(vec![tag, 0x0d, 0, 0, 0, 0, 0, 0]);
        }
        let (console, id) = (session.console.to_le_bytes(), id.to_le_bytes());
        let parts: [&[u8]; 6] = [&console, &id, &session.console_random, &session.random, &GUID, &session.role];
        let proof = session.suite.hmac(PASSWORD.as_bytes(), &parts);
        Some([&[tag, 0, 0, 0], &console[..], &session.random, &GUID, &proof].concat())
    }

    fn rakp3(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let (tag, status) = (*body.first()?, *body.get(1)?);
        let id = u32::from_le_bytes(*body.get(4..)?.first_chunk()?);
        let session = self.sessions.get_mut(&id)?;
        let console = session.console.to_le_bytes();
        let expected = session.suite.hmac(PASSWORD.as_bytes(), &[&session.random, &console, &session.role]);
        if status != 0 || body.get(8..)? != expected {
            self.sessions.remove(&id);
            return Some([&[tag, 0x0f, 0, 0], &console[..]].concat());
        }
        let keys =
            Keys::derive(session.suite, PASSWORD.as_bytes(), &session.console_random, &session.random, &session.role);
        let mut icv = session.suite.hmac(&keys.sik, &[&session.console_random, &id.to_le_bytes(), &GUID]);
        icv.truncate(session.suite.icv_len());
        session.keys = Some(keys);
        session.open = true;
        self.count();
        Some([&[tag, 0, 0, 0], &console[..], &icv].concat())
    }

    /// The commands of an open session: completion code first.
    fn command(&mut self, m: &Message<'_>, faults: &Faults) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.commands.push((m.netfn, m.command, m.data.to_vec()));
        match (m.netfn, m.command, m.data) {
            (6, 0x01, _) => vec![0, 0x20, 1, 2, 0x10, 2, 0x8d, 0x57, 0x01, 0, 0x42, 0],
            (6, 0x3b, [level, ..]) => vec![0, *level],
            (6, 0x3c, _) => vec![0],
            (0, 0x01, _) => vec![0, u8::from(self.machine.is_on() && !faults.says_off), 0, 0],
            (0, 0x02, [action, ..]) => {
                if !faults.ignores_power {
                    match action {
                        0 | 5 => self.machine.switch(false),
                        1 => self.machine.switch(true),
                        2 if !self.machine.is_on() => return vec![0xd5],
                        2 => {
                            self.machine.switch(false);
                            self.machine.switch(true);
                        }
                        3 => self.machine.reset(),
                        _ => return vec![0xcc],
                    }
                }
                vec![0]
            }
            (0, 0x08, [5, flags @ ..]) if flags.len() == 5 => {
                if !faults.ignores_boot {
                    state.boot.copy_from_slice(flags);
                    drop(state);
                    self.machine.boot_from(flags[1] >> 2 & 0x0f, flags[0] & 0x40 == 0);
                }
                vec![0]
            }
            (0, 0x08, _) => vec![0],
            (0, 0x09, [5, ..]) => [&[0, 1, 5], &state.boot[..]].concat(),
            _ => vec![0xc1],
        }
    }

    fn count(&self) {
        let open = self.sessions.values().filter(|s| s.open).count();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open = open;
    }
}

/// Bytes that differ from one another; a simulator needs no better.
fn noise(seed: u64) -> [u8; 16] {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    })
}
