//! How much memory images may take. What is taken is given back when the last
//! transfer of an old generation ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A limit shared by everything that is charged to it.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// The limit, bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Taken now, bytes.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` if they are left; dropping the lease gives them back.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Lease> {
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Lease { budget: self.clone(), bytes })
    }
}

/// Bytes taken out of a [`Budget`].
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_back_and_never_more_is_lent_than_there_is() {
        let budget = Budget::new(10);
        let six = budget.take(6).unwrap();
        assert!(budget.take(5).is_none() && budget.take(u64::MAX).is_none());
        let four = budget.take(4).unwrap();
        assert_eq!(budget.used(), 10);
        drop(six);
        assert_eq!(budget.used(), 4);
        drop(four);
        assert_eq!(budget.used(), 0);
    }
}
