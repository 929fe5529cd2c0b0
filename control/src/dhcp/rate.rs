//! Token buckets: how many packets a second are looked at, in all and of one machine.

use super::settings::Rate;
use crate::limits;

/// One bucket; a token is 1000 units, so that slow rates refill evenly.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    units: u64,
    at_ms: u64,
}

impl Bucket {
    fn take(&mut self, now_ms: u64, per_second: u32, burst: u32) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(u64::from(per_second));
        self.units = self.units.saturating_add(gained).min(u64::from(burst) * 1000);
        self.at_ms = now_ms;
        let full = self.units >= 1000;
        if full {
            self.units -= 1000;
        }
        full
    }
}

/// Why a packet is not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Excess {
    /// This machine sends too much.
    Machine,
    /// All together send too much.
    Total,
}

/// The buckets. Its size is fixed: two machines that fall into one slot displace each other.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    total: Bucket,
    slots: Vec<([u8; 16], Bucket)>,
}

impl Limiter {
    /// Full buckets.
    pub fn new(rate: Rate) -> Self {
        let total = Bucket { units: u64::from(rate.total) * 1000, at_ms: 0 };
        Self { rate, total, slots: vec![([0; 16], Bucket::default()); limits::DHCP_RATE_SLOTS] }
    }

    /// Whether a packet of this hardware address may be looked at. `now_ms` never goes back.
    ///
    /// # Errors
    /// Which bucket is empty.
    pub fn admit(&mut self, chaddr: &[u8; 16], now_ms: u64) -> Result<(), Excess> {
        let burst = self.rate.per_machine.saturating_mul(4);
        let hash = chaddr.iter().fold(0x811c_9dc5_u32, |sum, b| (sum ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        let at = hash as usize % self.slots.len().max(1);
        if let Some((owner, bucket)) = self.slots.get_mut(at) {
            if owner != chaddr {
                (*owner, *bucket) = (*chaddr, Bucket { units: u64::from(burst) * 1000, at_ms: now_ms });
            }
            if !bucket.take(now_ms, self.rate.per_machine, burst) {
                return Err(Excess::Machine);
            }
        }
        if self.total.take(now_ms, self.rate.total, self.rate.total) { Ok(()) } else { Err(Excess::Total) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d39_one_machine_cannot_take_more_than_its_share() {
        let mut limiter = Limiter::new(Rate { total: 1000, per_machine: 5 });
        let (a, b) = ([1; 16], [2; 16]);
        assert_eq!((0..100).filter(|_| limiter.admit(&a, 0).is_ok()).count(), 20, "a burst");
        assert_eq!(limiter.admit(&a, 0), Err(Excess::Machine));
        assert_eq!(limiter.admit(&b, 0), Ok(()), "others are not held up");
        assert_eq!((0..100).filter(|i| limiter.admit(&a, 1000 + i * 10).is_ok()).count(), 9, "then five a second");
    }

    #[test]
    fn d39_a_flood_of_invented_machines_meets_the_total() {
        let mut limiter = Limiter::new(Rate { total: 100, per_machine: 5 });
        let invented = |i: u32| std::array::from_fn(|n| i.to_be_bytes()[n % 4]);
        let admitted = (0..10_000).filter(|i| limiter.admit(&invented(*i), 0).is_ok()).count();
        assert_eq!(admitted, 100);
        assert_eq!(limiter.admit(&[9; 16], 0), Err(Excess::Total));
        assert_eq!(limiter.admit(&[9; 16], 10), Ok(()));
    }
}
