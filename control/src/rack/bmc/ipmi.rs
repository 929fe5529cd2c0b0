//! The BMC's IPMI 2.0 side: RMCP+ over UDP, suites 3 and 17 (IPMI 2.0 section 13), and the
//! commands that power needs.

use super::{Action, Boot, Device, Faults, State, lock, records};
use protocol::ipmi::Suite;
use protocol::ipmi::crypto::Keys;
use protocol::ipmi::wire::{self, Message, payload};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the server looks whether it is to end, and for answers that are due.
const TICK: Duration = Duration::from_millis(20);
/// A session that is silent for so long is closed (IPMI 2.0 section 6.12.15: 60 s, 3 s more or less): its client may
/// have died.
const IDLE: Duration = Duration::from_secs(60);

/// The server behind one socket.
pub(super) struct Server {
    socket: UdpSocket,
    engine: Engine,
    late: Vec<(Instant, SocketAddr, Vec<u8>)>,
}

/// Datagrams in, datagrams out.
pub(super) struct Engine {
    state: Arc<Mutex<State>>,
    suites: Vec<Suite>,
    limit: usize,
    /// By our id.
    sessions: HashMap<u32, Session>,
    next_id: u32,
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
    /// When it was last used.
    used: Instant,
}

const GUID: [u8; 16] = *b"stoker-bmc-guid!";

impl Server {
    pub(super) fn new(socket: UdpSocket, state: Arc<Mutex<State>>, suites: &[Suite], limit: usize) -> io::Result<Self> {
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self { socket, engine: Engine::new(state, suites, limit), late: Vec::new() })
    }

    /// Answers until told to stop.
    pub(super) fn run(&mut self, stop: &AtomicBool) {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = self.late.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>();
            for (_, peer, packet) in due {
                let _ = self.socket.send_to(&packet, peer);
            }
            let Ok((n, peer)) = self.socket.recv_from(&mut buffer) else { continue };
            let Some((answer, delay)) = self.engine.receive(&buffer[..n]) else { continue };
            if delay.is_zero() {
                let _ = self.socket.send_to(&answer, peer);
            } else {
                self.late.push((Instant::now() + delay, peer, answer));
            }
        }
    }
}

impl Engine {
    pub(super) fn new(state: Arc<Mutex<State>>, suites: &[Suite], limit: usize) -> Self {
        Self { state, suites: suites.to_vec(), limit, sessions: HashMap::new(), next_id: 0x100 }
    }

    /// The answer to a datagram, and how much later it is to be sent.
    pub(super) fn receive(&mut self, packet: &[u8]) -> Option<(Vec<u8>, Duration)> {
        let faults = {
            let mut state = lock(&self.state);
            if state.faults.drop_first > 0 {
                state.faults.drop_first -= 1;
                return None;
            }
            state.faults.clone()
        };
        if faults.silent {
            return None;
        }
        Some((self.answer(packet, &faults)?, faults.delay))
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
            None => self.command(&m),
        };
        let session = self.sessions.get_mut(&id)?;
        session.last = Some((m.rq_seq, m.command, data.clone()));
        session.used = Instant::now();
        session.sequence += 1;
        let iv = noise(u64::from(session.sequence));
        let answer = wire::response(m.netfn | 1, m.rq_seq, m.command, &data);
        let packet = wire::seal(session.keys.as_ref()?, session.console, session.sequence, iv, &answer);
        if (m.netfn, m.command) == (6, 0x3c) {
            self.sessions.remove(&id);
            self.count();
        }
        let power = (m.netfn, m.command) == (0, 0x02);
        (!power || !faults.loses_power_reply).then_some(packet)
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
        self.sessions.retain(|_, s| (s.open || s.console != console) && s.used.elapsed() < IDLE);
        self.count();
        if lock(&self.state).faults.no_sessions || self.sessions.values().filter(|s| s.open).count() >= self.limit {
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
            used: Instant::now(),
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
        let (known, password) = {
            let mut state = lock(&self.state);
            state.logins += 1;
            (user == state.user.as_bytes(), state.password.clone())
        };
        if !known {
            return Some(vec![tag, 0x0d, 0, 0, 0, 0, 0, 0]);
        }
        let (console, id) = (session.console.to_le_bytes(), id.to_le_bytes());
        let parts: [&[u8]; 6] = [&console, &id, &session.console_random, &session.random, &GUID, &session.role];
        let proof = session.suite.hmac(password.as_bytes(), &parts);
        Some([&[tag, 0, 0, 0], &console[..], &session.random, &GUID, &proof].concat())
    }

    fn rakp3(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let (tag, status) = (*body.first()?, *body.get(1)?);
        let id = u32::from_le_bytes(*body.get(4..)?.first_chunk()?);
        let session = self.sessions.get_mut(&id)?;
        let console = session.console.to_le_bytes();
        let password = lock(&self.state).password.clone();
        let expected = session.suite.hmac(password.as_bytes(), &[&session.random, &console, &session.role]);
        if status != 0 || body.get(8..)? != expected {
            self.sessions.remove(&id);
            return Some([&[tag, 0x0f, 0, 0], &console[..]].concat());
        }
        let keys =
            Keys::derive(session.suite, password.as_bytes(), &session.console_random, &session.random, &session.role);
        let mut icv = session.suite.hmac(&keys.sik, &[&session.console_random, &id.to_le_bytes(), &GUID]);
        icv.truncate(session.suite.icv_len());
        session.keys = Some(keys);
        session.open = true;
        self.count();
        Some([&[tag, 0, 0, 0], &console[..], &icv].concat())
    }

    /// The commands of an open session: completion code first.
    fn command(&mut self, m: &Message<'_>) -> Vec<u8> {
        let mut state = lock(&self.state);
        state.note(m.netfn, m.command, m.data);
        if state.faults.code != 0 && !matches!((m.netfn, m.command), (6, 0x3b | 0x3c)) {
            return vec![state.faults.code];
        }
        match (m.netfn, m.command, m.data) {
            (6, 0x01, _) => vec![0, 0x20, 1, 2, 0x10, 2, 0x8f, 0x57, 0x01, 0, 0x42, 0],
            (6, 0x3b, [level, ..]) => vec![0, *level],
            (6, 0x3c, _) => vec![0],
            (0, 0x01, _) => vec![0, u8::from(state.is_on()), 0, 0],
            (0, 0x02, [action, ..]) => {
                let action = match action {
                    0 => Action::Off,
                    1 => Action::On,
                    // Not possible in the present state (table 28-4: power cycle needs power).
                    2 | 3 if !state.is_on() => return vec![0xd5],
                    2 => Action::Cycle,
                    3 => Action::Reset,
                    5 => Action::Soft,
                    _ => return vec![0xcc],
                };
                state.power(action);
                vec![0]
            }
            (0, 0x08, [5, flags @ ..]) => match flags.first_chunk().and_then(read_flags) {
                Some(boot) => {
                    state.boot_from(boot);
                    vec![0]
                }
                None => vec![0xcc],
            },
            (0, 0x08, _) => vec![0],
            (0, 0x09, [5, ..]) => [&[0, 1, 5], &flags(state.boot())[..]].concat(),
            (netfn, command, data) => records::command(&mut state, netfn, command, data).unwrap_or_else(|| vec![0xc1]),
        }
    }

    fn count(&self) {
        let open = self.sessions.values().filter(|s| s.open).count();
        lock(&self.state).open = open;
    }
}

/// The boot override in parameter 5 of Set System Boot Options (table 28-14).
fn read_flags(data: &[u8; 5]) -> Option<Boot> {
    let device = match data[1] >> 2 & 0x0f {
        0 => Device::Default,
        1 => Device::Network,
        2 | 3 => Device::Disk,
        5 => Device::Cd,
        6 => Device::Setup,
        _ => return None,
    };
    // Without the valid bit the override is taken away.
    let device = if data[0] & 0x80 == 0 { Device::Default } else { device };
    Some(Boot { device, efi: data[0] & 0x20 != 0, persistent: data[0] & 0x40 != 0 })
}

/// The same the other way.
fn flags(boot: Boot) -> [u8; 5] {
    let device = match boot.device {
        Device::Default => return [0; 5],
        Device::Network => 1,
        Device::Disk => 2,
        Device::Cd => 5,
        Device::Setup => 6,
    };
    [0x80 | u8::from(boot.persistent) << 6 | u8::from(boot.efi) << 5, device << 2, 0, 0, 0]
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
