//! Which transfer belongs to which peer: looked up for every packet.
//!
//! A keyed hash, since anybody can write source addresses, but a light one: two
//! multiplications for an address and port, where SipHash takes several times
//! as long. The key is drawn from the system when the process starts.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;

/// Peer to slot.
pub type Peers = HashMap<SocketAddr, usize, Keyed>;

/// An empty map with room for so many.
pub fn with_capacity(size: usize) -> Peers {
    HashMap::with_capacity_and_hasher(size, Keyed::new())
}

/// Makes hashers with one secret key.
#[derive(Clone, Copy)]
pub struct Keyed {
    start: u64,
    factor: u64,
}

impl Keyed {
    fn new() -> Self {
        let system = RandomState::new();
        // Odd, so that no bit of what is hashed is lost.
        Self { start: system.hash_one(1), factor: system.hash_one(2) | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;
    fn build_hasher(&self) -> Folding {
        Folding { state: self.start, factor: self.factor }
    }
}

/// Folds each word in by a 64 x 64 bit multiplication.
pub struct Folding {
    state: u64,
    factor: u64,
}

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn write_u16(&mut self, n: u16) {
        self.fold(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.fold(n.into());
    }

    // Lengths and kinds of address: told apart by what follows, but they must count.
    fn write_usize(&mut self, n: usize) {
        self.state = self.state.rotate_left(5) ^ n as u64;
    }

    fn write_isize(&mut self, n: isize) {
        self.state = self.state.rotate_left(5) ^ n as u64;
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The most peers in one of 4096 buckets, by the bits that the map uses (low for the place, high for the tag).
    fn fullest(peers: impl Iterator<Item = SocketAddr>, shift: u32) -> usize {
        let keyed = Keyed::new();
        let mut buckets = vec![0; 4096];
        for peer in peers {
            buckets[(keyed.hash_one(peer) >> shift) as usize % 4096] += 1;
        }
        buckets.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn peers_of_every_pattern_are_spread_evenly() {
        for shift in [0, 52] {
            let ports = (0..4096).map(|i| SocketAddr::from((Ipv4Addr::LOCALHOST, 1024 + i)));
            let hosts = (0..4096).map(|i| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + i), 2070)));
            let far = (0..4096_u32).map(|i| SocketAddr::from((Ipv4Addr::from(i << 20 | 7), 2070)));
            let six = (0..4096_u128).map(|i| SocketAddr::from((Ipv6Addr::from(0xfd77 << 112 | i), 2070)));
            for most in [fullest(ports, shift), fullest(hosts, shift), fullest(far, shift), fullest(six, shift)] {
                assert!(most < 16, "{most} of 4096 in one of 4096 buckets");
            }
        }
    }

    #[test]
    fn each_process_hashes_otherwise() {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 2070));
        assert_ne!(Keyed::new().hash_one(peer), Keyed::new().hash_one(peer));
    }
}
