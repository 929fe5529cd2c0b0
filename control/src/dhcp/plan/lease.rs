//! Server mode: addresses (RFC 2131 section 4.3).

use super::{Answer, Decision, Reply, View, Why, add_boot, bare, boot, echo};
use crate::dhcp::book::{Change, Entry, State};
use crate::dhcp::settings::{Reservation, Subnet};
use protocol::dhcp::options::code;
use protocol::dhcp::{ClientKey, MessageType, Request};
use std::net::Ipv4Addr;

/// A lease that was written down this recently is confirmed from memory: the
/// answer to a repeated DHCPREQUEST must not cost another write.
const REPEAT_SECONDS: u64 = 30;
/// An address is set aside this long for a probe, which takes 2 s at most.
const PROBE_SECONDS: u64 = 4;

pub(super) fn serve(request: &Request, view: &View<'_>) -> Decision {
    let home = if request.giaddr.is_unspecified() { view.place.address } else { request.giaddr };
    let subnets = &view.settings.server.subnets;
    let Some((index, subnet)) = subnets.iter().enumerate().find(|(_, s)| s.network.contains(&home)) else {
        let text = format!("no subnet of dhcp.server.subnets holds {home}");
        return Decision::ignore(Why::loud("no_subnet", text));
    };
    let client =
        Client { request, view, index, subnet, key: request.key(), reserved: reservation(request, view, subnet) };
    match request.kind {
        MessageType::Discover => client.discover(),
        MessageType::Request => client.request(),
        MessageType::Decline => client.decline(),
        MessageType::Release => client.release(),
        MessageType::Inform => client.inform(),
        other => Decision::ignore(Why::quiet("not_ours", format!("{other} is no client's message"))),
    }
}

fn reservation<'a>(request: &Request, view: &View<'a>, subnet: &Subnet) -> Option<&'a Reservation> {
    view.settings.reservation(request.mac()?).filter(|r| subnet.network.contains(&r.address))
}

struct Client<'a> {
    request: &'a Request,
    view: &'a View<'a>,
    index: usize,
    subnet: &'a Subnet,
    key: ClientKey,
    reserved: Option<&'a Reservation>,
}

/// An address for a client, and whether it is certain that nobody else uses it.
struct Choice {
    address: Ipv4Addr,
    certain: bool,
}

impl Client<'_> {
    fn discover(&self) -> Decision {
        let now = self.view.now;
        let choice = match self.choose() {
            Ok(choice) => choice,
            Err(decision) => return decision,
        };
        let address = choice.address;
        if self
            .view
            .book
            .get(address)
            .is_some_and(|e| e.key == self.key.0 && e.state == State::Probing && e.until > now)
        {
            return Decision::ignore(Why::quiet("probing", "looking whether the address is free"));
        }
        let hold = now + u64::from(self.view.settings.server.offer_seconds);
        if !choice.certain && self.view.settings.server.probe_ms > 0 {
            let entry = self.entry(State::Probing, now + PROBE_SECONDS);
            let answer = Answer::Probe { address, key: self.key.clone() };
            return decide(answer, vec![Change::Set(address, entry)]);
        }
        // A lease that still runs is not shortened to an offer.
        let running =
            self.view.book.get(address).is_some_and(|e| self.owns(e) && e.state == State::Leased && e.until > now);
        let changes = if running { Vec::new() } else { vec![Change::Set(address, self.entry(State::Offered, hold))] };
        decide(Answer::Reply(Box::new(self.grant(MessageType::Offer, address, self.lease()))), changes)
    }

    /// DHCPREQUEST in its four meanings (RFC 2131 table 4).
    fn request(&self) -> Decision {
        let (us, ciaddr) = (self.view.place.address, self.request.ciaddr);
        match (self.request.server_id(), self.request.requested_address()) {
            (Some(server), _) if server != us => self.chose_another(server),
            (Some(_), Some(address)) => self.confirm(address),
            // Some clients leave option 50 out and name their address in ciaddr.
            (Some(_), None) if !ciaddr.is_unspecified() => self.confirm(ciaddr),
            (Some(_), None) => Decision::ignore(Why::quiet("no_address", "it requests no address (no option 50)")),
            // INIT-REBOOT
            (None, Some(address)) if ciaddr.is_unspecified() => self.reboot(address),
            // RENEWING and REBINDING
            (None, _) if !ciaddr.is_unspecified() => self.renew(ciaddr),
            (None, _) => {
                Decision::ignore(Why::quiet("no_address", "it requests no address (neither option 50 nor ciaddr)"))
            }
        }
    }

    fn chose_another(&self, server: Ipv4Addr) -> Decision {
        let now = self.view.now;
        let offered = self.view.book.of(&self.key).find(|(_, e)| e.state == State::Offered && e.until > now);
        let changes = offered.map(|(address, _)| Change::Forget(address)).into_iter().collect();
        let why = Why::quiet("other_server", format!("it takes its address from {server}"));
        decide(Answer::Ignore(why), changes)
    }

    fn reboot(&self, address: Ipv4Addr) -> Decision {
        if !self.subnet.network.contains(&address) {
            return self.nak(format!("{address} does not belong to {}", self.subnet.network));
        }
        let now = self.view.now;
        let leases = || {
            self.view.book.of(&self.key).filter(|(a, e)| e.state == State::Leased && self.subnet.network.contains(a))
        };
        if let Some((other, _)) = leases().find(|(a, e)| *a != address && e.until > now) {
            return self.nak(format!("its address is {other}, not {address}"));
        }
        if leases().next().is_some() || self.reserved.is_some() || self.view.settings.server.authoritative {
            return self.confirm(address);
        }
        Decision::ignore(Why::quiet(
            "unknown_lease",
            "we know no lease of this client, and another server may (RFC 2131 section 4.3.2)",
        ))
    }

    fn renew(&self, address: Ipv4Addr) -> Decision {
        if !self.subnet.network.contains(&address) {
            return self.nak(format!("{address} does not belong to {}", self.subnet.network));
        }
        let ours = self.view.book.get(address).is_some_and(|e| self.owns(e) && e.state == State::Leased)
            || self.reserved.is_some_and(|r| r.address == address);
        if ours || self.view.settings.server.authoritative {
            return self.confirm(address);
        }
        if self.view.book.get(address).is_some_and(|e| e.state == State::Leased && e.until > self.view.now) {
            return self.nak(format!("{address} is leased to another client"));
        }
        Decision::ignore(Why::quiet(
            "unknown_lease",
            "we know no lease of this client; dhcp.server.authoritative would refuse it",
        ))
    }

    /// ACK if this client may have this address, else NAK.
    fn confirm(&self, address: Ipv4Addr) -> Decision {
        if let Err(why) = self.may_have(address) {
            return self.nak(why);
        }
        let (now, lease) = (self.view.now, u64::from(self.lease()));
        if let Some(entry) = self.view.book.get(address)
            && self.owns(entry)
            && entry.key == self.key.0
            && entry.state == State::Leased
            && entry.until + REPEAT_SECONDS.min(lease / 10) >= now + lease
            && entry.until <= now + lease
            && self.view.book.is_saved(address)
        {
            let rest = u32::try_from(entry.until - now).unwrap_or(self.lease());
            return Decision::reply(self.grant(MessageType::Ack, address, rest));
        }
        let mut changes = vec![Change::Set(address, self.entry(State::Leased, now + lease))];
        // A client that moved within the subnet gives its former address back.
        for (old, entry) in self.view.book.of(&self.key) {
            if old != address && self.subnet.network.contains(&old) && entry.state != State::Quarantined {
                changes.push(match entry.state {
                    State::Probing | State::Offered => Change::Forget(old),
                    _ => Change::Set(old, Entry { state: State::Released, until: now, ..entry.clone() }),
                });
            }
        }
        decide(Answer::Reply(Box::new(self.grant(MessageType::Ack, address, self.lease()))), changes)
    }

    fn decline(&self) -> Decision {
        let Some(address) = self.request.requested_address() else {
            return Decision::ignore(Why::quiet("no_address", "it declines no address (no option 50)"));
        };
        // Only the client that we gave an address to can decline it, or anybody could empty the pool.
        if !self.view.book.get(address).is_some_and(|e| self.owns(e) && e.state != State::Quarantined) {
            return Decision::ignore(Why::quiet(
                "not_ours",
                format!("it declines {address}, which it does not have from us"),
            ));
        }
        let until = self.view.now + u64::from(self.view.settings.server.quarantine_seconds);
        let entry = Entry { key: Vec::new(), mac: None, state: State::Quarantined, until };
        let why = Why::loud(
            "declined",
            format!("it declined {address}: somebody else uses it; set aside for {} s", until - self.view.now),
        );
        decide(Answer::Ignore(why), vec![Change::Set(address, entry)])
    }

    fn release(&self) -> Decision {
        let address = self.request.ciaddr;
        let Some(entry) = self.view.book.get(address).filter(|e| self.owns(e) && e.state == State::Leased) else {
            return Decision::ignore(Why::quiet(
                "not_ours",
                format!("it releases {address}, which it does not have from us"),
            ));
        };
        let entry = Entry { state: State::Released, until: self.view.now, ..entry.clone() };
        let why = Why::quiet("released", format!("it gave {address} back"));
        decide(Answer::Ignore(why), vec![Change::Set(address, entry)])
    }

    /// Options without an address (RFC 2131 section 4.3.5).
    fn inform(&self) -> Decision {
        if self.request.ciaddr.is_unspecified() {
            return Decision::ignore(Why::quiet("no_address", "a DHCPINFORM without ciaddr cannot be answered"));
        }
        let mut reply = bare(self.request, self.view, MessageType::Ack);
        self.network_options(&mut reply);
        self.finish(&mut reply, Ipv4Addr::UNSPECIFIED);
        Decision::reply(reply)
    }

    /// An OFFER or ACK of an address, with the boot file where the client is booting.
    fn grant(&self, kind: MessageType, address: Ipv4Addr, seconds: u32) -> Reply {
        let mut reply = bare(self.request, self.view, kind);
        reply.yiaddr = address;
        reply.options.push((code::LEASE_TIME, seconds.to_be_bytes().to_vec()));
        self.network_options(&mut reply);
        reply.options.push((code::RENEWAL_TIME, (seconds / 2).to_be_bytes().to_vec()));
        reply.options.push((code::REBINDING_TIME, (seconds / 8 * 7).to_be_bytes().to_vec()));
        self.finish(&mut reply, address);
        reply
    }

    fn finish(&self, reply: &mut Reply, yiaddr: Ipv4Addr) {
        // No boot file is no reason to refuse an address; it is said where the boot is watched.
        if self.request.firmware.is_boot()
            && let Ok(boot) = boot::find(self.request, self.view)
        {
            add_boot(reply, self.request, boot);
        }
        echo(reply, self.request);
        reply.destination = self.request.destination(reply.kind, yiaddr);
    }

    fn network_options(&self, reply: &mut Reply) {
        let subnet = self.subnet;
        reply.options.push((code::SUBNET_MASK, subnet.mask().octets().to_vec()));
        let mut add = |code: u8, value: Vec<u8>| {
            if !value.is_empty() && self.request.wants(code) {
                reply.options.push((code, value));
            }
        };
        let addresses = |list: &[Ipv4Addr]| list.iter().flat_map(|a| a.octets()).collect::<Vec<u8>>();
        add(code::ROUTER, subnet.router.map(|r| r.octets().to_vec()).unwrap_or_default());
        add(code::DNS, addresses(&subnet.dns));
        add(code::DOMAIN_NAME, subnet.domain.clone().unwrap_or_default().into_bytes());
        add(code::HOST_NAME, self.reserved.and_then(|r| r.hostname.clone()).unwrap_or_default().into_bytes());
        add(code::NTP, addresses(&subnet.ntp));
        add(code::BROADCAST, subnet.network.broadcast().octets().to_vec());
    }

    fn nak(&self, why: String) -> Decision {
        let mut reply = bare(self.request, self.view, MessageType::Nak);
        reply.ciaddr = Ipv4Addr::UNSPECIFIED;
        reply.options.push((code::MESSAGE, why.into_bytes()));
        echo(&mut reply, self.request);
        // Table 3 of RFC 2131: a refusal carries nothing else.
        reply
            .options
            .retain(|(c, _)| matches!(*c, code::SERVER_ID | code::MESSAGE | code::CLIENT_ID | code::RELAY_AGENT));
        reply.destination = self.request.destination(MessageType::Nak, Ipv4Addr::UNSPECIFIED);
        Decision::reply(reply)
    }

    /// Picks the address for a DHCPDISCOVER (RFC 2131 section 4.3.1): the
    /// reserved one, the one it has or had, the one it asks for, a free one.
    fn choose(&self) -> Result<Choice, Decision> {
        let (book, now) = (self.view.book, self.view.now);
        if let Some(reserved) = self.reserved {
            if let Some(entry) = book.get(reserved.address)
                && entry.until > now
                && !self.owns(entry)
            {
                let text = format!("its reserved address {} is in use by another machine", reserved.address);
                return Err(Decision::ignore(Why::loud("in_use", text)));
            }
            return Ok(Choice { address: reserved.address, certain: true });
        }
        let mine = book.of(&self.key).filter(|(a, e)| e.state != State::Quarantined && self.in_pool(*a));
        if let Some((address, entry)) = mine.max_by_key(|(_, e)| (e.state == State::Leased, e.until)) {
            // Known to be this client's: it answered for it not long ago, or it was probed for this offer.
            let certain = match entry.state {
                State::Leased | State::Released => entry.until + u64::from(self.lease()) > now,
                State::Offered => entry.until > now,
                State::Probing | State::Quarantined => false,
            };
            return Ok(Choice { address, certain });
        }
        if let Some(address) = self.request.requested_address()
            && self.may_have(address).is_ok()
        {
            return Ok(Choice { address, certain: false });
        }
        if book.full_until(self.index).is_some_and(|until| until > now) {
            return Err(Decision::ignore(self.exhausted()));
        }
        self.free_address().map(|address| Choice { address, certain: false })
    }

    /// A free address of the pools. Begins at a place that depends on the
    /// client, so that it is offered the same one again even if we forgot it;
    /// takes one that nobody had before the one that has been free longest.
    fn free_address(&self) -> Result<Ipv4Addr, Decision> {
        let total: u32 = self.subnet.pools.iter().map(|p| p.len()).sum();
        let (mut longest_free, mut next_free): (Option<(u64, Ipv4Addr)>, Option<u64>) = (None, None);
        let start = if total == 0 { 0 } else { hash(&self.key.0) % total };
        for step in 0..total {
            let Some(address) = self.nth((start + step) % total) else { continue };
            if self.foreign(address) {
                continue;
            }
            match self.view.book.get(address) {
                None => return Ok(address),
                Some(entry) if entry.until <= self.view.now => {
                    if longest_free.is_none_or(|(until, _)| entry.until < until) {
                        longest_free = Some((entry.until, address));
                    }
                }
                Some(entry) => next_free = Some(next_free.map_or(entry.until, |n| n.min(entry.until))),
            }
        }
        match longest_free {
            Some((_, address)) => Ok(address),
            None => {
                let until = next_free.unwrap_or(self.view.now + REPEAT_SECONDS);
                Err(decide(Answer::Ignore(self.exhausted()), vec![Change::Full(self.index, until)]))
            }
        }
    }

    fn exhausted(&self) -> Why {
        let total: u32 = self.subnet.pools.iter().map(|p| p.len()).sum();
        let text = if total == 0 {
            format!("{} has no pool and this machine has no reservation", self.subnet.network)
        } else {
            format!(
                "all {total} addresses of the pools of {} are in use; widen dhcp.server.subnets.pools or shorten lease_seconds",
                self.subnet.network
            )
        };
        Why::loud("exhausted", text)
    }

    fn nth(&self, mut n: u32) -> Option<Ipv4Addr> {
        for pool in &self.subnet.pools {
            if n < pool.len() {
                return Some(Ipv4Addr::from(u32::from(pool.first) + n));
            }
            n -= pool.len();
        }
        None
    }

    /// Whether this client may be given this address now.
    fn may_have(&self, address: Ipv4Addr) -> Result<(), String> {
        if let Some(reserved) = self.reserved {
            if reserved.address != address {
                return Err(format!("{} is reserved for this machine, not {address}", reserved.address));
            }
        } else if !self.in_pool(address) {
            return Err(format!("{address} is in no pool of {}", self.subnet.network));
        }
        match self.view.book.get(address) {
            Some(entry) if entry.until > self.view.now && entry.state == State::Quarantined => {
                Err(format!("{address} is used by a machine that we do not know"))
            }
            Some(entry) if entry.until > self.view.now && !self.owns(entry) => {
                Err(format!("{address} is leased to another client"))
            }
            _ => Ok(()),
        }
    }

    fn in_pool(&self, address: Ipv4Addr) -> bool {
        self.subnet.pools_hold(address) && !self.foreign(address)
    }

    /// An address that cannot be given to this client whoever has it: our own, the router's, another's reservation.
    fn foreign(&self, address: Ipv4Addr) -> bool {
        address == self.view.place.address
            || self.subnet.router == Some(address)
            || self.view.settings.reserved_for(address).is_some_and(|mac| Some(mac) != self.request.mac())
    }

    /// A reserved address belongs to its machine under every client id: its
    /// firmware, its iPXE and its system do not agree on one.
    fn owns(&self, entry: &Entry) -> bool {
        entry.key == self.key.0 || (self.reserved.is_some() && entry.mac.is_some() && entry.mac == self.request.mac())
    }

    fn entry(&self, state: State, until: u64) -> Entry {
        Entry { key: self.key.0.clone(), mac: self.request.mac(), state, until }
    }

    const fn lease(&self) -> u32 {
        self.subnet.lease_seconds
    }
}

const fn decide(answer: Answer, changes: Vec<Change>) -> Decision {
    Decision { answer, changes, no_boot: None }
}

/// FNV-1a: the same client begins at the same place of a pool, today and after a restart.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
