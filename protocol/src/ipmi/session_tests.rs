//! The session against a small BMC of the tests' own, in virtual time.

use super::*;
use std::vec;

/// A foretellable source of bytes: tests replay.
struct Counter(u8);

impl Random for Counter {
    fn fill(&mut self, buffer: &mut [u8]) {
        for b in buffer {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            *b = self.0;
        }
    }
}

/// The other end: answers as the specification says, with the faults asked for.
struct Bmc {
    password: Vec<u8>,
    suites: Vec<u8>,
    /// Answers suite `.0` with the algorithms of suite `.1`.
    downgrade: bool,
    answers_suites: bool,
    drop_first: usize,
    keys: Option<Keys>,
    console: u32,
    randoms: ([u8; 16], Vec<u8>),
    sequence: u32,
    commands: Vec<(u8, u8)>,
    privilege_code: u8,
}

const BMC_ID: u32 = 0x0506_0708;
const GUID: [u8; 16] = [7; 16];
const BMC_RANDOM: [u8; 16] = [8; 16];

impl Bmc {
    fn new() -> Self {
        Self {
            password: b"s3cret".to_vec(),
            suites: vec![0xc0, 3, 0x01, 0x41, 0x81, 0xc0, 17, 0x03, 0x44, 0x81],
            downgrade: false,
            answers_suites: true,
            drop_first: 0,
            keys: None,
            console: 0,
            randoms: ([0; 16], vec![]),
            sequence: 1,
            commands: vec![],
            privilege_code: 0,
        }
    }

    fn answer(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        if self.drop_first > 0 {
            self.drop_first -= 1;
            return vec![];
        }
        if let Some(m) = wire::read_sessionless(packet).and_then(wire::read_message) {
            if !self.answers_suites {
                return vec![];
            }
            let from = usize::from(m.data[2] & 0x3f) * 16;
            let part = self.suites.get(from..).unwrap_or_default();
            let part = &part[..part.len().min(16)];
            return vec![wire::sessionless(&wire::response(7, m.rq_seq, m.command, &[&[0, 1], part].concat()))];
        }
        if let Some((kind, body)) = wire::read_setup(packet) {
            return vec![wire::setup_packet(kind + 1, &self.setup(kind, body))];
        }
        let keys = self.keys.clone().expect("a sealed packet before the handshake");
        let (_, message) = wire::unseal(&keys, BMC_ID, packet).expect("the client's seal is right");
        let m = wire::read_message(&message).expect("the client's message is right");
        self.commands.push((m.netfn, m.command));
        let data = match (m.netfn, m.command) {
            (6, 0x3b) => vec![self.privilege_code, 4],
            (0, 1) => vec![0, 0x21, 0x10, 0x40],
            _ => vec![0],
        };
        vec![self.sealed(&wire::response(m.netfn + 1, m.rq_seq, m.command, &data))]
    }

    fn sealed(&mut self, message: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        wire::seal(self.keys.as_ref().unwrap(), self.console, self.sequence, [1; 16], message)
    }

    fn setup(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let id = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        match kind {
            payload::OPEN_SESSION => {
                self.console = id(4);
                let suite = if body[12] == 3 { Suite::S17 } else { Suite::S3 };
                let (a, i, c) = if self.downgrade { (0, 0, 0) } else { suite.algorithms() };
                let mut out = vec![body[0], 0, 4, 0];
                out.extend(self.console.to_le_bytes());
                out.extend(BMC_ID.to_le_bytes());
                for (t, x) in [(0, a), (1, i), (2, c)] {
                    out.extend([t, 0, 0, 8, x, 0, 0, 0]);
                }
                self.randoms.1 = vec![suite.number()];
                out
            }
            payload::RAKP1 => {
                let suite = Suite::from_number(self.randoms.1[0]).unwrap();
                let random: [u8; 16] = body[8..24].try_into().unwrap();
                let role_user = [&[body[24], body[27]], &body[28..]].concat();
                if &body[28..] != b"admin" {
                    return vec![body[0], 0x0d, 0, 0, 0, 0, 0, 0];
                }
                let proof = suite.hmac(
                    &self.password,
                    &[&self.console.to_le_bytes(), &BMC_ID.to_le_bytes(), &random, &BMC_RANDOM, &GUID, &role_user],
                );
                self.keys = Some(Keys::derive(suite, &self.password, &random, &BMC_RANDOM, &role_user));
                self.randoms.0 = random;
                [&[body[0], 0, 0, 0], &self.console.to_le_bytes()[..], &BMC_RANDOM, &GUID, &proof].concat()
            }
            _ => {
                let keys = self.keys.as_ref().unwrap();
                let mut icv = keys.suite().hmac(&keys.sik, &[&self.randoms.0, &BMC_ID.to_le_bytes(), &GUID]);
                icv.truncate(keys.suite().icv_len());
                [&[body[0], 0, 0, 0], &self.console.to_le_bytes()[..], &icv].concat()
            }
        }
    }
}

fn config() -> Config {
    Config {
        user: b"admin".to_vec(),
        password: b"s3cret".to_vec(),
        kg: None,
        privilege: Privilege::Operator,
        suite: None,
        allow_suite_3: true,
    }
}

/// Runs until the session has nothing more to say; returns what it reported, and when it is then.
fn run(session: &mut Session<Counter>, bmc: &mut Bmc, mut now: Instant) -> (Vec<Output>, Instant) {
    let mut told = vec![];
    for _ in 0..200 {
        if let Some(output) = session.poll_output() {
            match output {
                Output::Send(packet) => {
                    for answer in bmc.answer(&packet) {
                        session.handle(&answer, now);
                    }
                }
                other => told.push(other),
            }
        } else if let Some(deadline) = session.deadline() {
            now = deadline;
            session.tick(now);
        } else {
            return (told, now);
        }
    }
    panic!("the session never settles: {told:?}");
}

fn opened(bmc: &mut Bmc, config: Config) -> (Session<Counter>, Vec<Output>) {
    let mut session = Session::start(config, Counter(1), Instant::ZERO);
    let (told, _) = run(&mut session, bmc, Instant::ZERO);
    (session, told)
}

#[test]
fn prefers_suite_17_and_asks_for_its_privilege() {
    let mut bmc = Bmc::new();
    let (session, told) = opened(&mut bmc, config());
    assert_eq!(told, [Output::Opened(Suite::S17)]);
    assert!(session.is_ready());
    assert_eq!(bmc.commands, [(6, 0x3b)]);
}

#[test]
fn takes_suite_3_where_there_is_no_other_and_policy_allows_it() {
    let mut bmc = Bmc { suites: vec![0xc0, 3, 1, 0x41, 0x81], ..Bmc::new() };
    assert_eq!(opened(&mut bmc, config()).1, [Output::Opened(Suite::S3)]);
    let strict = Config { allow_suite_3: false, ..config() };
    assert_eq!(opened(&mut bmc, strict).1, [Output::Ended(Some(Error::NoSuite))]);
    let mut only_zero = Bmc { suites: vec![0xc0, 0, 0, 0x40, 0x80], ..Bmc::new() };
    assert_eq!(opened(&mut only_zero, config()).1, [Output::Ended(Some(Error::NoSuite))]);
}

#[test]
fn reads_a_list_of_suites_that_takes_several_answers() {
    let mut list: Vec<u8> = (0..3).flat_map(|n| [0xc0, n, 0, 0x40, 0x80]).collect();
    list.extend([0xc1, 9, 1, 2, 3, 0x03, 0x44, 0x81, 0xc0, 17, 3, 0x44, 0x81]);
    assert_eq!(opened(&mut Bmc { suites: list, ..Bmc::new() }, config()).1, [Output::Opened(Suite::S17)]);
}

#[test]
fn a_bmc_without_the_suite_question_is_tried_with_suite_3() {
    let mut bmc = Bmc { answers_suites: false, ..Bmc::new() };
    assert_eq!(opened(&mut bmc, config()).1, [Output::Opened(Suite::S3)]);
}

#[test]
fn wrong_names_passwords_and_downgrades_are_told_apart() {
    let wrong = Config { password: b"no".to_vec(), ..config() };
    assert_eq!(opened(&mut Bmc::new(), wrong).1, [Output::Ended(Some(Error::BadPassword))]);
    let unknown = Config { user: b"eve".to_vec(), ..config() };
    assert_eq!(opened(&mut Bmc::new(), unknown).1, [Output::Ended(Some(Error::Refused(Step::Rakp1, 0x0d)))]);
    let mut weak = Bmc { downgrade: true, ..Bmc::new() };
    assert_eq!(opened(&mut weak, config()).1, [Output::Ended(Some(Error::Downgrade))]);
    let mut denied = Bmc { privilege_code: 0x81, ..Bmc::new() };
    assert_eq!(opened(&mut denied, config()).1, [Output::Ended(Some(Error::Privilege(0x81)))]);
    assert_eq!(denied.commands.last(), Some(&(6, 0x3c)), "the BMC's session is closed again");
    let long = Config { password: vec![b'x'; 21], ..config() };
    assert_eq!(opened(&mut Bmc::new(), long).1, [Output::Ended(Some(Error::TooLong))]);
}

#[test]
fn lost_packets_are_sent_again_and_silence_ends_the_session() {
    let mut lossy = Bmc { drop_first: 1, ..Bmc::new() };
    assert_eq!(opened(&mut lossy, config()).1, [Output::Opened(Suite::S17)]);
    let mut dead = Bmc { drop_first: 1000, ..Bmc::new() };
    let mut session = Session::start(config(), Counter(1), Instant::ZERO);
    let (told, end) = run(&mut session, &mut dead, Instant::ZERO);
    assert_eq!(told, [Output::Ended(Some(Error::Silent))]);
    assert!(end < Instant::from_millis(30_000), "gives up in bounded time, not at {end:?}");
}

#[test]
fn a_request_is_answered_and_a_late_answer_is_never_taken_for_the_next() {
    let mut bmc = Bmc::new();
    let (mut session, _) = opened(&mut bmc, config());
    session.request(0, 1, vec![], Instant::ZERO).unwrap();
    assert_eq!(session.request(0, 1, vec![9], Instant::ZERO), Err(vec![9]), "one at a time");
    let Some(Output::Send(first)) = session.poll_output() else { panic!("a packet") };
    let late = bmc.answer(&first).remove(0);
    // The same request is sent again after a while; both answers come, then another command is made.
    let (told, now) = run(&mut session, &mut bmc, Instant::ZERO);
    assert_eq!(told, [Output::Reply(0, vec![0x21, 0x10, 0x40])]);
    session.request(6, 1, vec![], now).unwrap();
    session.handle(&late, now);
    let (told, _) = run(&mut session, &mut bmc, now);
    assert_eq!(told, [Output::Reply(0, vec![])], "the reply of Get Device ID, not the stale chassis status");
}

#[test]
fn closing_tells_the_bmc() {
    let mut bmc = Bmc::new();
    let (mut session, _) = opened(&mut bmc, config());
    session.close(Instant::ZERO);
    assert_eq!(run(&mut session, &mut bmc, Instant::ZERO).0, [Output::Ended(None)]);
    assert_eq!(bmc.commands.last(), Some(&(6, 0x3c)));
    // A BMC that has gone away does not hold up the close for long.
    let (mut session, _) = opened(&mut Bmc::new(), config());
    session.close(Instant::ZERO);
    let (told, end) = run(&mut session, &mut Bmc { drop_first: 99, ..Bmc::new() }, Instant::ZERO);
    assert_eq!(told, [Output::Ended(None)]);
    assert!(end < Instant::from_millis(3000));
}

#[test]
fn a_million_random_and_mutated_packets_change_nothing() {
    let mut seed = 0x1234_5678_9abc_def0u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut bmc = Bmc::new();
    let (mut session, _) = opened(&mut bmc, config());
    session.request(0, 1, vec![], Instant::ZERO).unwrap();
    let Some(Output::Send(request)) = session.poll_output() else { panic!("a packet") };
    let good = bmc.answer(&request).remove(0);
    for round in 0..1_000_000u64 {
        let mut packet = if round % 2 == 0 { good.clone() } else { vec![0; (next() % 80) as usize] };
        for _ in 0..1 + next() % 3 {
            if !packet.is_empty() {
                let at = (next() as usize) % packet.len();
                packet[at] ^= 1 + (next() % 255) as u8;
            }
        }
        // The RMCP header's sequence and reserved bytes are outside of the seal.
        if packet.get(3..) != good.get(3..) {
            session.handle(&packet, Instant::ZERO);
        }
    }
    assert_eq!(session.poll_output(), None);
    session.handle(&good, Instant::ZERO);
    assert_eq!(session.poll_output(), Some(Output::Reply(0, vec![0x21, 0x10, 0x40])));
}
