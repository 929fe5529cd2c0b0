//! Server mode, as a story per rule of RFC 2131.

use super::*;
use crate::dhcp::book::{Entry, State};
use protocol::dhcp::{COOKIE, HEADER};
use protocol::id::Mac;

const RACK: &str = r#"{"mode":"server","server":{"subnets":[
    {"network":"10.77.0.0/24","pools":["10.77.0.100-10.77.0.103"],"router":"10.77.0.254","dns":["10.77.0.1","10.77.0.2"],
     "domain":"rack.example","ntp":["10.77.0.3"],"lease_seconds":3600},
    {"network":"10.9.0.0/16","pools":["10.9.1.1-10.9.1.9"]}],
  "reservations":[{"mac":"52:54:00:00:00:77","address":"10.77.0.7","hostname":"node-7"}]}}"#;

/// A client as the tables need it.
struct Client {
    mac: u8,
    kind: u8,
    options: Vec<u8>,
    ciaddr: [u8; 4],
    giaddr: [u8; 4],
}

fn client(mac: u8, kind: MessageType) -> Client {
    Client { mac, kind: kind as u8, options: Vec::new(), ciaddr: [0; 4], giaddr: [0; 4] }
}

impl Client {
    fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.options.extend_from_slice(&[code, u8::try_from(value.len()).unwrap()]);
        self.options.extend_from_slice(value);
        self
    }
    fn requests(self, last: u8) -> Self {
        self.option(50, &[10, 77, 0, last])
    }
    fn of_us(self) -> Self {
        self.option(54, &US.octets())
    }
    fn has(mut self, last: u8) -> Self {
        self.ciaddr = [10, 77, 0, last];
        self
    }
    fn read(&self) -> Request {
        let mut p = vec![0; HEADER];
        p[..3].copy_from_slice(&[1, 1, 6]);
        p[4..8].copy_from_slice(&[9, 9, 9, 9]);
        p[12..16].copy_from_slice(&self.ciaddr);
        p[24..28].copy_from_slice(&self.giaddr);
        p[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, self.mac]);
        p[236..240].copy_from_slice(&COOKIE);
        p.extend_from_slice(&[53, 1, self.kind]);
        p.extend_from_slice(&self.options);
        p.push(255);
        Request::read(&p).unwrap()
    }
}

impl World {
    /// Decides and applies, as the loop does; probes find nobody.
    fn step(&mut self, request: &Request) -> Answer {
        loop {
            let decision = self.plan(request);
            for change in decision.changes {
                self.book.apply(change);
            }
            let Answer::Probe { address, key } = decision.answer else { return decision.answer };
            let until = self.now + u64::from(self.rules.server.offer_seconds);
            self.book
                .apply(Change::Set(address, Entry { key: key.0, mac: request.mac(), state: State::Offered, until }));
        }
    }

    fn give(&mut self, c: &Client) -> Reply {
        match self.step(&c.read()) {
            Answer::Reply(reply) => *reply,
            other => panic!("{other:?}"),
        }
    }

    fn nothing(&mut self, c: &Client) -> Why {
        match self.step(&c.read()) {
            Answer::Ignore(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// DISCOVER and REQUEST; the address.
    fn lease(&mut self, mac: u8) -> Ipv4Addr {
        let offer = self.give(&client(mac, MessageType::Discover));
        let ack = self.give(&client(mac, MessageType::Request).option(50, &offer.yiaddr.octets()).of_us());
        assert_eq!((ack.kind, ack.yiaddr), (MessageType::Ack, offer.yiaddr));
        ack.yiaddr
    }
}

fn last(address: Ipv4Addr) -> u8 {
    address.octets()[3]
}

#[test]
fn d20_d21_one_client_one_address_however_often_it_asks() {
    let mut w = World::new(RACK);
    let first = w.give(&client(1, MessageType::Discover));
    assert_eq!(w.give(&client(1, MessageType::Discover)), first);
    let address = w.lease(1);
    assert_eq!(address, first.yiaddr);
    assert_eq!(w.lease(1), address);
    // Its firmware, its iPXE (client id 01 + MAC) and its system are one client.
    let ipxe = client(1, MessageType::Discover).option(61, &[1, 0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(w.give(&ipxe).yiaddr, address);
    // Another client id is another client.
    assert_ne!(w.give(&client(1, MessageType::Discover).option(61, &[255, 1, 2, 3])).yiaddr, address);
}

#[test]
fn d21_a_client_that_we_forgot_is_offered_the_same_address_again() {
    let (mut before, mut after) = (World::new(RACK), World::new(RACK));
    for mac in 1..30 {
        before.book = Book::default();
        after.book = Book::default();
        assert_eq!(before.lease(mac), after.lease(mac));
    }
}

#[test]
fn a_lease_carries_everything_that_a_machine_needs() {
    let mut w = World::new(RACK);
    let reply = w.give(&client(1, MessageType::Discover));
    for (code, value) in [
        (1, &[255, 255, 255, 0][..]),
        (3, &[10, 77, 0, 254]),
        (6, &[10, 77, 0, 1, 10, 77, 0, 2]),
        (15, b"rack.example"),
        (28, &[10, 77, 0, 255]),
        (42, &[10, 77, 0, 3]),
        (51, &[0, 0, 14, 16]),
        (54, &[10, 77, 0, 1]),
        (58, &[0, 0, 7, 8]),
        (59, &[0, 0, 12, 78]),
    ] {
        assert_eq!(reply.option(code), Some(value), "option {code}");
    }
    for code in [12, 43, 60, 66, 67, 175] {
        assert_eq!(reply.option(code), None, "option {code}: it does not boot");
    }
    let few = w.give(&client(2, MessageType::Discover).option(55, &[1, 3]));
    assert!(few.option(3).is_some() && few.option(6).is_none() && few.option(51).is_some());
}

#[test]
fn d24_a_booting_machine_gets_address_and_boot_file_in_one_offer() {
    let mut w = World::new(RACK);
    for (packet, class) in [
        (fixture("ovmf-pxe-discover"), "PXEClient"),
        (fixture("ovmf-http-discover"), "HTTPClient"),
        (fixture("ipxe2019-bios-rom-discover"), "PXEClient"),
    ] {
        let request = Request::read(packet).unwrap();
        let Answer::Reply(reply) = w.step(&request) else { panic!() };
        assert!(w.rules.server.subnets[0].pools_hold(reply.yiaddr));
        assert_eq!(reply.option(60), Some(class.as_bytes()));
        assert!(!reply.boot.is_empty() && reply.option(51).is_some());
        let bytes = encode(&request, &reply).unwrap();
        let decoded = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!((decoded.yiaddr(), decoded.opts().msg_type()), (reply.yiaddr, Some(v4::MessageType::Offer)));
    }
}

#[test]
fn d26_a_machine_without_a_boot_file_still_gets_its_address_and_the_operator_a_reason() {
    let w = World::new(RACK);
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    let at = packet.windows(4).position(|x| x == [93, 2, 0, 7]).unwrap();
    packet[at + 3] = 6;
    let request = Request::read(&packet).unwrap();
    let mut w2 = World { book: Book::default(), ..w };
    let Answer::Probe { address, key } = w2.plan(&request).answer else { panic!() };
    w2.book.apply(Change::Set(address, Entry { key: key.0, mac: None, state: State::Offered, until: w2.now + 60 }));
    let decision = w2.plan(&request);
    assert!(matches!(&decision.answer, Answer::Reply(r) if r.boot.is_empty() && r.option(60).is_none()));
    assert!(decision.no_boot.unwrap().text.contains("uefi_ia32"));
}

#[test]
fn a_reservation_is_given_without_a_probe_and_to_nobody_else() {
    let mut w = World::new(RACK);
    let decision = w.plan(&client(0x77, MessageType::Discover).read());
    let Answer::Reply(reply) = decision.answer else { panic!("{decision:?}") };
    assert_eq!((reply.yiaddr, reply.option(12)), (Ipv4Addr::new(10, 77, 0, 7), Some(&b"node-7"[..])));
    // Under any client id.
    let other_id = client(0x77, MessageType::Discover).option(61, &[255, 4, 4]);
    assert_eq!(last(w.lease(0x77)), 7);
    assert_eq!(last(w.give(&other_id).yiaddr), 7);
    let nak = w.give(&client(1, MessageType::Request).requests(7).of_us());
    assert_eq!(nak.kind, MessageType::Nak);
    let nak = w.give(&client(0x77, MessageType::Request).requests(101).of_us());
    assert_eq!(nak.kind, MessageType::Nak);
}

#[test]
fn an_unknown_address_is_probed_and_a_known_one_is_not() {
    let mut w = World::new(RACK);
    assert!(matches!(w.plan(&client(1, MessageType::Discover).read()).answer, Answer::Probe { .. }));
    let address = w.lease(1);
    assert!(matches!(w.plan(&client(1, MessageType::Discover).read()).answer, Answer::Reply(_)), "it has it");
    w.now += 3600 + 60;
    assert!(
        matches!(w.plan(&client(1, MessageType::Discover).read()).answer, Answer::Reply(_)),
        "it had it until a moment ago"
    );
    w.now += 3600;
    assert!(
        matches!(w.plan(&client(1, MessageType::Discover).read()).answer, Answer::Probe { address: a, .. } if a == address),
        "long ago"
    );
    let off = World::new(&RACK.replace("\"subnets\"", "\"probe_ms\":0,\"subnets\""));
    assert!(matches!(off.plan(&client(1, MessageType::Discover).read()).answer, Answer::Reply(_)));
}

#[test]
fn d21_a_second_discover_during_the_probe_waits_for_it() {
    let mut w = World::new(RACK);
    let request = client(1, MessageType::Discover).read();
    let decision = w.plan(&request);
    decision.changes.into_iter().for_each(|c| w.book.apply(c));
    let again = w.plan(&request);
    assert!(matches!(&again.answer, Answer::Ignore(why) if why.label == "probing"), "{again:?}");
    w.now += 5;
    assert!(matches!(w.plan(&request).answer, Answer::Probe { .. }), "a probe that was lost is repeated");
}

#[test]
fn the_requested_address_is_given_where_it_is_free() {
    let mut w = World::new(RACK);
    for wanted in [100, 101, 102, 103] {
        let offer = w.give(&client(wanted, MessageType::Discover).requests(wanted));
        assert_eq!(last(offer.yiaddr), wanted);
    }
    let mut w = World::new(RACK);
    let given = w.give(&client(1, MessageType::Discover).requests(9)).yiaddr;
    assert!(w.rules.server.subnets[0].pools_hold(given), "9 is not in a pool");
}

#[test]
fn an_exhausted_pool_says_so_once_it_is_full_and_recovers() {
    let mut w = World::new(RACK);
    let given: std::collections::BTreeSet<_> = (1..=4).map(|mac| w.lease(mac)).collect();
    assert_eq!(given.len(), 4);
    let why = w.nothing(&client(5, MessageType::Discover));
    assert_eq!((why.label, why.loud), ("exhausted", true));
    assert!(why.text.contains("all 4 addresses") && why.text.contains("widen"), "{}", why.text);
    assert_eq!(w.book.full_until(0), Some(w.now + 3600));
    assert_eq!(w.nothing(&client(6, MessageType::Discover)).label, "exhausted");
    assert_eq!(w.give(&client(1, MessageType::Discover)).kind, MessageType::Offer, "those who have one are served");
    let freed = *given.iter().next().unwrap();
    let owner = (1..=4).find(|m| w.book.get(freed).unwrap().mac == Some(Mac([0x52, 0x54, 0, 0, 0, *m]))).unwrap();
    let mut release = client(owner, MessageType::Release).of_us();
    release.ciaddr = freed.octets();
    assert_eq!(w.nothing(&release).label, "released");
    assert_eq!(w.lease(5), freed);
    w.now += 3601;
    let given = w.lease(6);
    assert!(w.rules.server.subnets[0].pools_hold(given), "expired leases are given again");
}

#[test]
fn the_address_that_has_been_free_longest_is_given_again_first() {
    let mut w = World::new(RACK);
    let first = w.lease(1);
    for mac in 2..=4 {
        w.now += 10;
        w.lease(mac);
    }
    w.now += 4000;
    assert_eq!(w.lease(9), first);
}

#[test]
fn d41_init_reboot_of_an_unknown_client_is_silence_unless_authoritative() {
    let mut w = World::new(RACK);
    assert_eq!(w.nothing(&client(1, MessageType::Request).requests(101)).label, "unknown_lease");
    let mut w = World::new(&RACK.replace("\"subnets\"", "\"authoritative\":true,\"subnets\""));
    assert_eq!(w.give(&client(1, MessageType::Request).requests(101)).kind, MessageType::Ack);
    assert_eq!(w.give(&client(2, MessageType::Request).requests(101)).kind, MessageType::Nak);
    assert_eq!(w.give(&client(2, MessageType::Request).requests(9)).kind, MessageType::Nak);
}

#[test]
fn d41_init_reboot_with_the_right_address_is_confirmed_and_with_a_wrong_one_refused() {
    let mut w = World::new(RACK);
    let address = w.lease(1);
    assert_eq!(w.give(&client(1, MessageType::Request).requests(last(address))).kind, MessageType::Ack);
    let other = if last(address) == 100 { 101 } else { 100 };
    let nak = w.give(&client(1, MessageType::Request).requests(other));
    assert_eq!(
        (nak.kind, nak.destination, nak.yiaddr),
        (MessageType::Nak, Destination::Broadcast, Ipv4Addr::UNSPECIFIED)
    );
    assert!(
        nak.option(51).is_none() && nak.option(1).is_none() && nak.option(54).is_some() && nak.option(56).is_some()
    );
}

#[test]
fn d41_an_address_of_another_network_is_refused() {
    let mut w = World::new(RACK);
    assert_eq!(w.give(&client(1, MessageType::Request).option(50, &[192, 168, 1, 5])).kind, MessageType::Nak);
    let mut renew = client(1, MessageType::Request);
    renew.ciaddr = [192, 168, 1, 5];
    assert_eq!(w.give(&renew).kind, MessageType::Nak);
}

#[test]
fn renewing_prolongs_the_lease_and_is_answered_by_unicast() {
    let mut w = World::new(RACK);
    let address = w.lease(1);
    w.now += 1800;
    let ack = w.give(&client(1, MessageType::Request).has(last(address)));
    assert_eq!((ack.kind, ack.destination, ack.ciaddr), (MessageType::Ack, Destination::Client(address), address));
    assert_eq!(w.book.get(address).unwrap().until, w.now + 3600);
    assert_eq!(w.give(&client(2, MessageType::Request).has(last(address))).kind, MessageType::Nak, "somebody else's");
    let free = (100..=103).find(|l| *l != last(address)).unwrap();
    assert_eq!(w.nothing(&client(2, MessageType::Request).has(free)).label, "unknown_lease");
}

#[test]
fn d21_a_repeated_request_is_confirmed_without_another_write() {
    let mut w = World::new(RACK);
    let address = w.lease(1);
    let again = client(1, MessageType::Request).requests(last(address)).of_us().read();
    w.now += 3;
    let decision = w.plan(&again);
    assert_eq!(decision.changes, []);
    let Answer::Reply(ack) = decision.answer else { panic!() };
    assert_eq!(ack.option(51), Some(&3597u32.to_be_bytes()[..]), "what is left of the lease");
    w.book.saving(address);
    assert_eq!(w.plan(&again).changes.len(), 1, "not while the first write is under way");
    w.book.saved(address);
    w.now += 60;
    assert_eq!(w.plan(&again).changes.len(), 1);
}

#[test]
fn d37_who_takes_another_servers_offer_gives_ours_back() {
    let mut w = World::new(RACK);
    let offer = w.give(&client(1, MessageType::Discover));
    assert!(w.book.get(offer.yiaddr).is_some());
    assert_eq!(
        w.nothing(&client(1, MessageType::Request).requests(100).option(54, &[10, 77, 0, 2])).label,
        "other_server"
    );
    assert!(w.book.get(offer.yiaddr).is_none());
}

#[test]
fn d42_a_declined_address_is_set_aside_and_only_its_client_can_decline_it() {
    let mut w = World::new(RACK);
    let address = w.lease(1);
    assert_eq!(w.nothing(&client(2, MessageType::Decline).requests(last(address)).of_us()).label, "not_ours");
    assert_eq!(w.nothing(&client(1, MessageType::Decline).requests(last(address)).of_us()).label, "declined");
    assert_eq!(w.book.get(address).unwrap().state, State::Quarantined);
    assert_eq!(w.nothing(&client(1, MessageType::Decline).requests(last(address)).of_us()).label, "not_ours", "once");
    for mac in 1..=3 {
        assert_ne!(w.lease(mac), address);
    }
    assert_eq!(w.nothing(&client(9, MessageType::Discover)).label, "exhausted");
    w.now += 3601;
    w.book = Book::load(w.book.iter().map(|(a, e)| (a, e.clone())).collect::<Vec<_>>());
    assert_eq!(w.lease(9), address, "after the quarantine");
}

#[test]
fn d42_release_frees_only_the_clients_own_lease() {
    let mut w = World::new(RACK);
    let address = w.lease(1);
    assert_eq!(w.nothing(&client(2, MessageType::Release).has(last(address))).label, "not_ours");
    assert_eq!(w.nothing(&client(1, MessageType::Release).has(last(address))).label, "released");
    assert_eq!(w.book.leased(w.now), 0);
    assert_eq!(w.lease(1), address, "it is remembered");
}

#[test]
fn d22_inform_is_answered_without_address_or_lease() {
    let mut w = World::new(RACK);
    let ack = w.give(&client(1, MessageType::Inform).has(200));
    assert_eq!(
        (ack.kind, ack.yiaddr, ack.destination),
        (MessageType::Ack, Ipv4Addr::UNSPECIFIED, Destination::Client([10, 77, 0, 200].into()))
    );
    assert!(ack.option(51).is_none() && ack.option(3).is_some() && ack.option(6).is_some());
    assert_eq!(w.nothing(&client(1, MessageType::Inform)).label, "no_address");
}

#[test]
fn d14_a_relayed_client_gets_an_address_of_the_relays_network() {
    let mut w = World::new(RACK);
    let mut discover = client(1, MessageType::Discover);
    discover.giaddr = [10, 9, 0, 1];
    let offer = w.give(&discover);
    assert_eq!(offer.destination, Destination::Relay([10, 9, 0, 1].into()));
    assert!(w.rules.server.subnets[1].pools_hold(offer.yiaddr));
    discover.giaddr = [172, 16, 0, 1];
    assert_eq!(w.nothing(&discover).label, "relay");
    assert_ne!(w.lease(1), offer.yiaddr, "the same machine at home has another");
    let mut nak = client(1, MessageType::Request).requests(101).of_us();
    nak.giaddr = [10, 9, 0, 1];
    let request = nak.read();
    let Answer::Reply(reply) = w.step(&request) else { panic!() };
    let bytes = encode(&request, &reply).unwrap();
    assert_eq!((reply.kind, reply.destination), (MessageType::Nak, Destination::Relay([10, 9, 0, 1].into())));
    assert_eq!(bytes[10] & 0x80, 0x80, "the relay must broadcast it");
}

#[test]
fn d16_d17_without_the_broadcast_flag_the_reply_is_for_the_hardware_address() {
    let mut w = World::new(RACK);
    let offer = w.give(&client(1, MessageType::Discover));
    assert_eq!(offer.destination, Destination::Hardware(offer.yiaddr));
}

#[test]
fn requests_without_an_address_and_places_without_a_subnet_are_left_alone() {
    let mut w = World::new(RACK);
    assert_eq!(w.nothing(&client(1, MessageType::Request).of_us()).label, "no_address");
    assert_eq!(w.nothing(&client(1, MessageType::Request)).label, "no_address");
    assert_eq!(w.nothing(&client(1, MessageType::Decline)).label, "no_address");
    w.place.address = [172, 16, 0, 1].into();
    let why = w.nothing(&client(1, MessageType::Discover));
    assert_eq!((why.label, why.loud), ("no_subnet", true));
}

#[test]
fn an_address_in_use_is_never_given_to_two_clients() {
    // Every order of a thousand steps of forty clients on four addresses.
    let mut w = World::new(RACK);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut holder: std::collections::BTreeMap<Ipv4Addr, (u8, u64)> = std::collections::BTreeMap::new();
    for _ in 0..5000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let (mac, what, wanted) = ((seed % 40) as u8 + 1, (seed >> 8) % 5, 100 + ((seed >> 16) % 4) as u8);
        w.now += (seed >> 24) % 200;
        let step = match what {
            0 => client(mac, MessageType::Discover),
            1 => client(mac, MessageType::Request).requests(wanted).of_us(),
            2 => client(mac, MessageType::Request).has(wanted),
            3 => client(mac, MessageType::Request).requests(wanted),
            _ => client(mac, MessageType::Release).has(wanted),
        };
        let answer = w.step(&step.read());
        match answer {
            Answer::Reply(reply) if reply.kind == MessageType::Ack => {
                if let Some((other, until)) = holder.get(&reply.yiaddr) {
                    assert!(*other == mac || *until <= w.now, "{} given to {mac} and {other}", reply.yiaddr);
                }
                holder.retain(|_, (m, _)| *m != mac);
                holder.insert(reply.yiaddr, (mac, w.now + 3600));
            }
            Answer::Ignore(why) if why.label == "released" => {
                holder.remove(&Ipv4Addr::from([10, 77, 0, wanted]));
            }
            _ => {}
        }
    }
    assert!(!holder.is_empty());
}
