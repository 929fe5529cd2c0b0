//! A thousand BMCs on one site, one in twenty of which freezes: the others must not notice.

use super::target;
use control::power::pool::{Pool, Refusal};
use control::power::target::Way;
use control::rack::bmc::Faults;
use control::rack::bmc::fleet::Fleet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const BMCS: usize = 1000;
/// One in so many freezes.
const FROZEN: usize = 20;
/// All are asked once within this time: as when every power state of a site is read.
const ROUND: Duration = Duration::from_secs(10);
/// No round may take longer; only a hang does.
const LIMIT: Duration = Duration::from_secs(300);

fn frozen(which: usize) -> bool {
    which.is_multiple_of(FROZEN)
}

/// Asks every BMC once, spread evenly over [`ROUND`]. The times of those that are never frozen, sorted; and
/// how many failed.
async fn round(pool: &Pool, fleet: &Fleet) -> (Vec<Duration>, usize) {
    let mut asked = JoinSet::new();
    let begun = Instant::now();
    for (which, address) in fleet.addresses.iter().enumerate() {
        let due = ROUND * u32::try_from(which).unwrap() / u32::try_from(BMCS).unwrap();
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        let (pool, target) = (pool.clone(), target(Way::Ipmi, *address));
        asked.spawn(async move {
            let begun = Instant::now();
            let done: Result<_, Refusal> = pool.with(&target, async |turn| turn.session().status().await).await;
            (which, begun.elapsed(), done.is_ok())
        });
    }
    let all = tokio::time::timeout(LIMIT, asked.join_all()).await.expect("every question has an end");
    let failed = all.iter().filter(|(_, _, done)| !done).count();
    let mut times: Vec<_> = all.iter().filter(|(which, ..)| !frozen(*which)).map(|(_, time, _)| *time).collect();
    times.sort();
    (times, failed)
}

fn at(times: &[Duration], percent: usize) -> Duration {
    times[times.len() * percent / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_a_thousand_bmcs_do_not_notice_fifty_that_freeze() {
    // Two sockets for each: ours and the simulator's.
    let (_, hard) = {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        (limit.current, limit.maximum)
    };
    let wanted = rustix::process::Rlimit { current: hard, maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).expect("as many files as are allowed");
    let fleet = Fleet::start(BMCS).expect("a thousand sockets");
    let pool = Pool::default();

    let (first, failed) = round(&pool, &fleet).await;
    assert_eq!(failed, 0, "all answer, and are logged in to");
    let (well, failed) = round(&pool, &fleet).await;
    assert_eq!(failed, 0);
    for which in (0..BMCS).filter(|which| frozen(*which)) {
        fleet.faults(which, Faults { silent: true, ..Faults::default() });
    }
    let (with, failed) = round(&pool, &fleet).await;
    assert_eq!(failed, BMCS / FROZEN, "those that are frozen, and no other");

    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    for (what, times) in [("first round (logins)", &first), ("none frozen", &well), ("50 of 1000 frozen", &with)] {
        let (p50, p99, most) = (ms(at(times, 50)), ms(at(times, 99)), ms(times[times.len() - 1]));
        println!("{what:<22} p50 {p50:.1} ms, p99 {p99:.1} ms, max {most:.1} ms");
    }
    let ratio = at(&with, 99).as_secs_f64() / at(&well, 99).as_secs_f64();
    println!("p99 with frozen BMCs / without: {ratio:.2}");
    // A frozen BMC takes seconds of its own to be given up. Were the others to wait for even one of them,
    // they would show it; what remains is the noise of the host.
    let noise = Duration::from_millis(250);
    assert!(at(&with, 99) < at(&well, 99) * 3 + noise, "the others wait for those that are frozen: {ratio:.2}");
    pool.close().await;
}
