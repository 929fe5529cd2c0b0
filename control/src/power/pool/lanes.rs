//! How many BMCs are talked to at one time, over the whole site, so that those
//! which hang do not hold the others up.
//!
//! BMCs that answer share the quick lane. Whoever has not answered last time
//! (or never yet), and whoever takes long, goes by the slow one.

use crate::limits;
use std::pin::pin;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The site's lanes.
pub struct Lanes {
    quick: Semaphore,
    slow: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { quick: Semaphore::new(limits::BMCS_AT_ONCE), slow: Semaphore::new(limits::BMCS_SLOW) }
    }
}

impl Lanes {
    /// Does the work when it has its turn. `proven`: this BMC answered last time.
    pub async fn run<T>(&self, proven: bool, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // The lanes are never closed: no permit means none is needed.
        if !proven {
            let _permit = self.slow.acquire().await.ok();
            return work.await;
        }
        let permit = self.quick.acquire().await.ok();
        if let Ok(done) = timeout(limits::BMC_QUICK, &mut work).await {
            return done;
        }
        let _slow = tokio::select! {
            biased;
            done = &mut work => return done,
            slow = self.slow.acquire() => slow.ok(),
        };
        drop(permit);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::sleep;

    #[tokio::test]
    async fn f20_those_that_hang_make_room() {
        let lanes = Arc::new(Lanes::default());
        // Enough of them to fill the quick lane at once, and never too many for the slow one.
        for _ in 0..2 * limits::BMCS_AT_ONCE {
            let lanes = lanes.clone();
            tokio::spawn(async move { lanes.run(true, std::future::pending::<()>()).await });
        }
        sleep(Duration::from_millis(20)).await;
        assert_eq!(lanes.quick.available_permits(), 0, "the lane is full");
        sleep(3 * limits::BMC_QUICK).await;
        let all = async {
            for _ in 0..10 * limits::BMCS_AT_ONCE {
                lanes.run(true, async {}).await;
            }
        };
        timeout(Duration::from_secs(60), all).await.expect("nobody waits for those that hang");
        assert_eq!(lanes.quick.available_permits(), limits::BMCS_AT_ONCE);
        assert_eq!(lanes.slow.available_permits(), limits::BMCS_SLOW - 2 * limits::BMCS_AT_ONCE);
    }

    #[tokio::test]
    async fn at_most_so_many_at_one_time() {
        let lanes = Arc::new(Lanes::default());
        let now = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks = (0..500).map(|_| {
            let (lanes, now) = (lanes.clone(), now.clone());
            tokio::spawn(async move {
                let work = async {
                    let inside = now.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    sleep(Duration::from_millis(20)).await;
                    now.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    inside + 1
                };
                lanes.run(true, work).await
            })
        });
        let most = futures_util::future::join_all(tasks).await.into_iter().map(Result::unwrap).max();
        assert!(most.is_some_and(|most| (2..=limits::BMCS_AT_ONCE).contains(&most)), "{most:?}");
    }
}
