//! A BMC by the tables of the specification, with the ways of real ones.

use super::*;
use protocol::report::Hidden;

/// One user of it.
#[derive(Clone, Default, Debug)]
struct User {
    name: Vec<u8>,
    password: Vec<u8>,
    enabled: bool,
    rights: u8,
}

/// The BMC.
struct Fake {
    users: Vec<User>,
    fixed: u8,
    /// By channel: medium, address, access mode.
    channels: Vec<(u8, u8, [u8; 4], u8)>,
    port: u16,
    /// Takes 16-byte passwords only.
    old: bool,
    /// Cannot compare passwords.
    no_test: bool,
    /// Keeps no name that it is given.
    forgets_name: bool,
    /// Puts off so many commands.
    busy: u32,
    /// Answers nothing after so many commands.
    dies_after: usize,
    changes: Vec<(u8, Vec<u8>)>,
    pauses: u32,
    sent: usize,
}

fn fake() -> Fake {
    let user = |name: &str, enabled| User { name: name.into(), enabled, ..User::default() };
    Fake {
        users: vec![user("", true), user("ADMIN", true), user("", false), user("", false)],
        fixed: 1,
        channels: vec![(1, 4, [10, 0, 0, 9], 2)],
        port: 623,
        old: false,
        no_test: false,
        forgets_name: false,
        busy: 0,
        dies_after: usize::MAX,
        changes: Vec::new(),
        pauses: 0,
        sent: 0,
    }
}

impl Fake {
    fn answer(&mut self, command: &Command) -> Vec<u8> {
        let data = &command.data;
        let channel = |number: u8| self.channels.iter().find(|c| c.0 == number & 0x0f).copied();
        let ok = |data: &[u8]| [&[0], data].concat();
        match (command.netfn, command.number) {
            (6, 0x42) => channel(data[0]).map_or(vec![0xcc], |c| ok(&[c.0, c.1, 1, 0, 0, 0, 0, 0, 0])),
            (6, 0x41) => channel(data[0]).map_or(vec![0xcc], |c| ok(&[c.3, 4])),
            (0x0c, 2) => match (data[1], channel(data[0])) {
                (3, Some(c)) => ok(&[&[0x11], &c.2[..]].concat()),
                (8, Some(_)) if self.port == 0 => vec![0x80],
                (8, Some(_)) => ok(&[&[0x11], &self.port.to_le_bytes()[..]].concat()),
                _ => vec![0xcc],
            },
            (6, 0x44) => {
                let Some(user) = self.users.get(usize::from(data[1]) - 1) else { return vec![0xcc] };
                let status = if user.enabled { 0x40 } else { 0x80 };
                ok(&[self.users.len() as u8, status | 1, self.fixed, user.rights])
            }
            (6, 0x46) => match &self.users[usize::from(data[0]) - 1].name {
                name if name.is_empty() => vec![0xcc],
                name => ok(&[&name[..], &vec![0; 16 - name.len()]].concat()),
            },
            _ => self.change(command),
        }
    }

    fn change(&mut self, command: &Command) -> Vec<u8> {
        let data = command.data.clone();
        self.changes.push((command.number, data.clone()));
        let user = &mut self.users[usize::from(if command.number == 0x43 { data[1] } else { data[0] } & 0x3f) - 1];
        match (command.number, data.get(1)) {
            (0x45, _) if self.forgets_name => {}
            (0x45, _) => user.name = data[1..].split(|b| *b == 0).next().unwrap().to_vec(),
            (0x43, _) => user.rights = data[2],
            (0x47, Some(1)) => user.enabled = true,
            (0x47, Some(_)) if self.old && data.len() != 18 => return vec![0xc7],
            (0x47, Some(2)) => user.password = data[2..].to_vec(),
            (0x47, Some(3)) if self.no_test => return vec![0xcc],
            (0x47, Some(3)) => return vec![if user.password == data[2..] { 0 } else { 0x80 }],
            _ => return vec![0xc1],
        }
        vec![0]
    }
}

impl Bmc for Fake {
    fn send(&mut self, command: &Command) -> io::Result<Vec<u8>> {
        self.sent += 1;
        if self.sent > self.dies_after {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.busy > 0 {
            self.busy -= 1;
            return Ok(vec![0xc0]);
        }
        Ok(self.answer(command))
    }
    fn pause(&mut self, _: Duration) {
        self.pauses += 1;
    }
}

const SECRET: &str = "abcdefghijklmnop";

fn order() -> BmcOrder {
    BmcOrder { user: "stoker".into(), password: Hidden(SECRET.into()), ..BmcOrder::default() }
}

fn run_on(bmc: &mut Fake) -> Result<BmcFound, String> {
    set_up(&order(), bmc, &mut |_| true)
}

#[test]
fn a_free_slot_becomes_ours_and_nobody_elses_is_touched() {
    let mut bmc = fake();
    let found = run_on(&mut bmc).unwrap();
    let expected = BmcFound { address: "10.0.0.9".into(), port: 623, channel: 1, user_id: 3 };
    assert_eq!(found, expected);
    let user = &bmc.users[2];
    let padded = [SECRET.as_bytes(), &[0; 4]].concat();
    assert_eq!((user.name.as_slice(), user.password.as_slice()), (&b"stoker"[..], padded.as_slice()));
    assert!(user.enabled && user.rights == 3, "an operator: {user:?}");
    let touched = |(number, data): &(u8, Vec<u8>)| if *number == 0x43 { data[1] } else { data[0] & 0x3f };
    assert!(bmc.changes.iter().all(|c| touched(c) == 3), "{:?}", bmc.changes);
    assert_eq!((bmc.users[1].name.as_slice(), bmc.users[3].name.as_slice()), (&b"ADMIN"[..], &b""[..]));
}

#[test]
fn the_same_order_again_takes_the_same_slot() {
    let mut bmc = fake();
    bmc.users[3].name = b"stoker".to_vec();
    assert_eq!(run_on(&mut bmc).unwrap().user_id, 4, "our own name goes before a free slot");
    assert_eq!(run_on(&mut bmc).unwrap().user_id, 4);
    assert!(bmc.changes.iter().all(|(number, _)| *number != 0x45), "it has its name already");
}

#[test]
fn a_set_up_that_was_cut_off_anywhere_is_finished_by_the_next() {
    let mut whole = fake();
    run_on(&mut whole).unwrap();
    for n in 0..whole.sent {
        let mut bmc = Fake { dies_after: n, ..fake() };
        assert!(run_on(&mut bmc).is_err());
        bmc.dies_after = usize::MAX;
        assert_eq!(run_on(&mut bmc).unwrap().user_id, 3, "after {n} commands");
        assert_eq!(bmc.users[3].name, b"", "after {n} commands: one slot, not two");
    }
}

#[test]
fn slots_of_others_are_left_alone() {
    // Enabled without a name, names that cannot be changed, none left.
    let mut bmc = fake();
    (bmc.users[2].enabled, bmc.users[2].rights) = (true, 4);
    assert_eq!(run_on(&mut bmc).unwrap().user_id, 4);
    assert_eq!(run_on(&mut Fake { fixed: 3, ..fake() }).unwrap().user_id, 4);
    let mut full = fake();
    full.users.iter_mut().for_each(|u| u.name = b"somebody".to_vec());
    assert!(run_on(&mut full).unwrap_err().contains("none of its 4 user slots is free"));
    assert!(full.changes.is_empty());
}

#[test]
fn slot_1_is_never_taken_even_under_our_name() {
    let mut bmc = fake();
    bmc.users.truncate(2);
    bmc.users[0].name = b"stoker".to_vec();
    assert!(run_on(&mut bmc).is_err());
    assert!(bmc.changes.is_empty());
}

#[test]
fn blanks_are_no_name() {
    let mut bmc = fake();
    bmc.users[2].name = vec![0xff; 16];
    assert_eq!(run_on(&mut bmc).unwrap().user_id, 3);
}

#[test]
fn an_old_bmc_gets_the_older_form_and_never_a_part_of_a_password() {
    let mut bmc = Fake { old: true, ..fake() };
    assert!(run_on(&mut bmc).is_ok());
    assert_eq!(bmc.users[2].password, SECRET.as_bytes());
    let long = BmcOrder { password: Hidden("12345678901234567".into()), ..order() };
    assert!(set_up(&long, &mut fake(), &mut |_| true).is_ok());
    let mut bmc = Fake { old: true, ..fake() };
    assert!(set_up(&long, &mut bmc, &mut |_| true).unwrap_err().contains("more than 16 bytes"));
    assert!(!bmc.users[2].enabled);
}

#[test]
fn what_a_bmc_lacks_is_done_without() {
    let mut bmc = Fake { no_test: true, port: 0, ..fake() };
    assert_eq!(run_on(&mut bmc).unwrap().port, 623);
    let mut second = Fake { channels: vec![(1, 4, [0; 4], 2), (2, 5, [9; 4], 2), (8, 4, [10, 0, 0, 7], 3)], ..fake() };
    let found = run_on(&mut second).unwrap();
    assert_eq!((found.channel, found.address.as_str()), (8, "10.0.0.7"), "the first LAN has no address");
}

#[test]
fn busy_is_waited_for_but_not_for_ever() {
    let mut bmc = Fake { busy: 3, ..fake() };
    assert!(run_on(&mut bmc).is_ok());
    assert_eq!(bmc.pauses, 3);
    let mut bmc = Fake { busy: u32::MAX, ..fake() };
    assert!(run_on(&mut bmc).is_err());
    assert!(bmc.sent < 100, "{} commands", bmc.sent);
}

#[test]
fn each_reason_is_named() {
    let why = |bmc: Fake| {
        let mut bmc = bmc;
        let why = run_on(&mut bmc).unwrap_err();
        assert!(!why.contains(SECRET), "{why}");
        (why, bmc.changes.len())
    };
    assert_eq!(why(Fake { channels: vec![(7, 9, [0; 4], 0)], ..fake() }), ("it has no LAN channel".into(), 0));
    let (text, changes) = why(Fake { channels: vec![(1, 4, [0; 4], 2)], ..fake() });
    assert!(text.contains("channel 1") && text.contains("no IPv4 address") && changes == 0, "{text}");
    let (text, changes) = why(Fake { channels: vec![(1, 4, [10, 0, 0, 9], 0)], ..fake() });
    assert!(text.contains("closed") && changes == 0, "{text}");
    assert!(why(Fake { forgets_name: true, ..fake() }).0.contains("did not keep it"));
    assert!(why(Fake { dies_after: 0, ..fake() }).0.contains("timed out"));
}

#[test]
fn nonsense_in_the_order_touches_nothing() {
    for (user, password) in [
        ("", SECRET),
        ("seventeen-letters", SECRET),
        ("a b", SECRET),
        ("stoker", ""),
        ("stoker", "123456789012345678901"),
    ] {
        let mut bmc = fake();
        let order = BmcOrder { user: user.into(), password: Hidden(password.into()), ..BmcOrder::default() };
        assert!(set_up(&order, &mut bmc, &mut |_| true).is_err(), "{user:?}");
        assert_eq!(bmc.sent, 0);
    }
}

#[test]
fn a_withdrawn_order_changes_nothing_more() {
    let mut bmc = fake();
    let mut steps = 0;
    let withdrawn = set_up(&order(), &mut bmc, &mut |_| {
        steps += 1;
        steps < 3
    });
    assert_eq!(withdrawn, Err("the order was withdrawn".into()));
    assert!(bmc.changes.is_empty());
}

#[test]
fn answers_cut_short_or_empty_are_errors_not_panics() {
    struct Mute(Vec<u8>);
    impl Bmc for Mute {
        fn send(&mut self, _: &Command) -> io::Result<Vec<u8>> {
            Ok(self.0.clone())
        }
        fn pause(&mut self, _: Duration) {}
    }
    for length in 0..8 {
        for byte in [0, 4, 0x40, 0xff] {
            let answer: Vec<u8> = std::iter::once(0).chain(std::iter::repeat_n(byte, 7)).take(length).collect();
            assert!(set_up(&order(), &mut Mute(answer), &mut |_| true).is_err());
        }
    }
}

#[test]
fn a_bmc_that_does_not_tell_who_is_enabled_is_judged_by_rights() {
    let enabled = |answer: &[u8]| commands::as_access(answer).unwrap().enabled;
    assert!(enabled(&[4, 0x41, 1, 0]) && !enabled(&[4, 0x81, 1, 0x14]));
    assert!(enabled(&[4, 1, 1, 0x14]) && !enabled(&[4, 1, 1, 0x04]) && !enabled(&[4, 1, 1, 0x1f]));
    assert!(commands::as_access(&[4, 1]).is_none());
}

#[test]
fn requests_are_those_of_the_specification() {
    let command = commands::password(3, PasswordStep::Set, SECRET, PASSWORD);
    assert_eq!((command.netfn, command.number), (6, 0x47));
    assert_eq!(command.data[..4], [0x83, 2, b'a', b'b']);
    assert_eq!(command.data.len(), 22);
    assert!(!format!("{command:?}").contains("97"), "a password is not printed: {command:?}");
    assert_eq!(commands::password(3, PasswordStep::Test, "x", OLD_PASSWORD).data.len(), 18);
    assert_eq!(commands::set_operator(1, 3).data, [0xb1, 3, 3, 0]);
    assert_eq!(commands::set_name(3, "stoker").data, *b"\x03stoker\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(commands::address(1).data, [1, 3, 0, 0]);
    assert_eq!(commands::channel_access(1).data, [1, 0x40]);
}
