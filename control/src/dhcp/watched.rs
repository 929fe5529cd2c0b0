//! Machines that were seen booting. Bounded: two generations, the older one is forgotten.

use crate::limits;
use protocol::id::Mac;
use std::collections::HashSet;

/// The set.
#[derive(Debug, Default)]
pub struct Watched {
    young: HashSet<Mac>,
    old: HashSet<Mac>,
}

impl Watched {
    /// Remembers a machine.
    pub fn add(&mut self, mac: Mac) {
        if self.young.len() >= limits::DHCP_WATCHED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(mac);
    }

    /// Whether it was seen booting not too long ago.
    pub fn has(&self, mac: Mac) -> bool {
        self.young.contains(&mac) || self.old.contains(&mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_machines_is_forgotten_and_those_that_return_are_not() {
        let mut watched = Watched::default();
        let mac = |i: u32| {
            let [a, b, c, d] = i.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        };
        for i in 0..100_000 {
            watched.add(mac(i));
            watched.add(mac(0));
        }
        assert!(watched.has(mac(0)) && watched.has(mac(99_999)) && !watched.has(mac(1)));
        assert!(watched.young.len() + watched.old.len() <= limits::DHCP_WATCHED);
    }
}
