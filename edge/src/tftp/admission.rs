//! Who may begin a transfer. A request is one datagram with a source that
//! anybody can write: until the first ACK has come, we may be talking to the
//! victim of an attack, or to another server (CVE-2024-2169).

use crate::limits;
use protocol::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Sources that never ask and must never be answered: two servers could answer
/// each other for ever. Clients use ephemeral ports (old ROMs 2070), never one below 1024.
pub fn is_reserved(port: u16) -> bool {
    port < 1024
}

/// An address that can be a client's.
pub fn is_unicast(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast()),
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast()),
    }
}

/// A bucket of tokens that fills up again with time.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Thousandths of a token.
    milli: u64,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn full(burst: u32, now: Instant) -> Self {
        Self { milli: u64::from(burst) * 1000, filled_at: now }
    }

    /// Takes one token of a bucket that holds `burst` and fills up by `rate` a second.
    pub fn take(&mut self, burst: u32, rate: u32, now: Instant) -> bool {
        let passed = u64::try_from((now - self.filled_at).as_millis()).unwrap_or(u64::MAX);
        if passed > 0 {
            self.milli = self.milli.saturating_add(passed.saturating_mul(rate.into())).min(u64::from(burst) * 1000);
            self.filled_at = now;
        }
        let enough = self.milli >= 1000;
        if enough {
            self.milli -= 1000;
        }
        enough
    }
}

/// What is known about one source address.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// Transfers that have not been acknowledged yet.
    unproven: usize,
    /// All transfers.
    running: usize,
    bucket: Bucket,
}

/// Why a request is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// This source, or all together, ask too often.
    Rate,
    /// This source has too many transfers.
    PerClient,
}

/// The books on all sources.
pub struct Admission {
    unproven_per_client: usize,
    running_per_client: usize,
    sources: HashMap<IpAddr, Source>,
    all: Bucket,
    swept: Instant,
}

impl Admission {
    /// Empty books.
    pub fn new(unproven_per_client: usize, running_per_client: usize) -> Self {
        let sources = HashMap::with_capacity(limits::TFTP_SOURCES);
        let all = Bucket::full(limits::TFTP_REQUESTS_BURST, Instant::ZERO);
        Self { unproven_per_client, running_per_client, sources, all, swept: Instant::ZERO }
    }

    /// A request came and would be answered, with an ERROR or a transfer.
    ///
    /// # Errors
    /// See [`Refused`]. Loopback, which nobody can forge, is not limited.
    pub fn request(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Refused> {
        if peer.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        if !self.all.take(limits::TFTP_REQUESTS_BURST, limits::TFTP_REQUESTS_RATE, now) {
            return Err(Refused::Rate);
        }
        let (unproven, running) = (self.unproven_per_client, self.running_per_client);
        let source = self.source(peer.ip(), now).ok_or(Refused::Rate)?;
        if !source.bucket.take(limits::TFTP_CLIENT_BURST, limits::TFTP_CLIENT_RATE, now) {
            Err(Refused::Rate)
        } else if source.unproven >= unproven || source.running >= running {
            Err(Refused::PerClient)
        } else {
            Ok(())
        }
    }

    /// A transfer began.
    pub fn began(&mut self, peer: SocketAddr) {
        if let Some(source) = self.sources.get_mut(&peer.ip()) {
            source.unproven += 1;
            source.running += 1;
        }
    }

    /// Its first ACK came.
    pub fn proven(&mut self, peer: SocketAddr) {
        if let Some(source) = self.sources.get_mut(&peer.ip()) {
            source.unproven = source.unproven.saturating_sub(1);
        }
    }

    /// It ended.
    pub fn ended(&mut self, peer: SocketAddr, proven: bool) {
        if let Some(source) = self.sources.get_mut(&peer.ip()) {
            source.running = source.running.saturating_sub(1);
            source.unproven = source.unproven.saturating_sub(usize::from(!proven));
        }
    }

    fn source(&mut self, ip: IpAddr, now: Instant) -> Option<&mut Source> {
        if self.sources.len() >= limits::TFTP_SOURCES && !self.sources.contains_key(&ip) {
            self.sweep(now);
            if self.sources.len() >= limits::TFTP_SOURCES {
                return None;
            }
        }
        let fresh = Source { unproven: 0, running: 0, bucket: Bucket::full(limits::TFTP_CLIENT_BURST, now) };
        Some(self.sources.entry(ip).or_insert(fresh))
    }

    /// Forgets sources without transfers, once a second at most: going through
    /// the whole book for each forged source would be an attack of its own.
    fn sweep(&mut self, now: Instant) {
        if now - self.swept >= Duration::from_secs(1) {
            self.swept = now;
            self.sources.retain(|_, source| source.running > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(ip: u32) -> SocketAddr {
        (Ipv4Addr::from(0x0a00_0000 + ip), 5000).into()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::full(5, Instant::ZERO);
        let mut taken = |ms: u64| (0..100).filter(|_| bucket.take(5, 10, Instant::from_millis(ms))).count();
        assert_eq!([taken(0), taken(50), taken(100), taken(1000), taken(3_600_000)], [5, 0, 1, 5, 5]);
    }

    #[test]
    fn t62_one_source_may_hold_so_many_unproven_transfers_and_no_more() {
        let mut admission = Admission::new(4, 8);
        for _ in 0..4 {
            assert_eq!(admission.request(peer(1), Instant::ZERO), Ok(()));
            admission.began(peer(1));
        }
        assert_eq!(admission.request(peer(1), Instant::ZERO), Err(Refused::PerClient));
        assert_eq!(admission.request(peer(2), Instant::ZERO), Ok(()), "others do not suffer");
        admission.proven(peer(1));
        assert_eq!(admission.request(peer(1), Instant::ZERO), Ok(()));
        admission.began(peer(1));
        admission.ended(peer(1), false);
        assert_eq!(admission.request(peer(1), Instant::ZERO), Ok(()));
    }

    #[test]
    fn f25_a_node_that_asks_without_end_is_slowed_down() {
        let mut admission = Admission::new(64, 64);
        let asked =
            (0..10_000_u64).filter(|i| admission.request(peer(1), Instant::from_millis(i * 10)).is_ok()).count();
        let expected = limits::TFTP_CLIENT_BURST + 100 * limits::TFTP_CLIENT_RATE;
        assert!(asked <= expected as usize, "{asked} of 10000 in 100 s");
    }

    #[test]
    fn t62_forged_sources_without_end_are_bounded_and_do_not_shut_out_loopback() {
        let mut admission = Admission::new(4, 8);
        let mut granted = 0;
        for ip in 0..1_000_000 {
            granted += u32::from(admission.request(peer(ip), Instant::ZERO).is_ok());
        }
        assert!(granted <= limits::TFTP_REQUESTS_BURST);
        assert_eq!(admission.request("127.0.0.1:5000".parse().unwrap(), Instant::ZERO), Ok(()));
        assert!(admission.sources.len() <= limits::TFTP_SOURCES);
        // A second later the books are open again.
        let later = Instant::from_millis(1001);
        assert_eq!(admission.request(peer(0x00ff_ffff), later), Ok(()));
    }

    #[test]
    fn reserved_ports_and_group_addresses_are_no_clients() {
        for port in [0, 7, 13, 19, 53, 67, 69, 123, 1023] {
            assert!(is_reserved(port), "{port}");
        }
        assert!(!is_reserved(2070) && !is_reserved(49152));
        for ip in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:224.0.0.1"] {
            assert!(!is_unicast(ip.parse().unwrap()), "{ip}");
        }
        assert!(is_unicast("10.0.0.7".parse().unwrap()) && is_unicast("fd00::7".parse().unwrap()));
    }
}
