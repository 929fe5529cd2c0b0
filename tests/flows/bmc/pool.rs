//! One queue for each BMC, sessions that are used again, logins that are counted, and what becomes
//! of answers that are lost.

use super::target;
use control::limits;
use control::power::ask::{Ask, Told};
use control::power::pool::{Pool, Refusal};
use control::power::target::{Target, Way};
use control::power::{Error, Power, Trouble};
use control::rack::bmc::{Bmc, Faults, Switch};
use protocol::ipmi::Suite;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

const BOTH: [Suite; 2] = [Suite::S3, Suite::S17];

async fn ask(pool: &Pool, target: &Target, ask: Ask) -> Result<Told, Refusal> {
    pool.with(target, async |turn| ask.of(turn, true).await).await
}

async fn is_on(pool: &Pool, target: &Target) -> Result<bool, Refusal> {
    match ask(pool, target, Ask::Status).await? {
        Told::Status { chassis, .. } => Ok(chassis.on),
        other => panic!("{other:?}"),
    }
}

/// A simulator that speaks Redfish alone.
pub fn redfish(sessions: usize, machine: &Switch) -> (Bmc, SocketAddr) {
    let mut bmc = Bmc::new(control::rack::bmc::USER, control::rack::bmc::PASSWORD, machine.clone());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = bmc.serve_redfish(listener, sessions).unwrap();
    (bmc, address)
}

#[tokio::test]
async fn a_session_serves_many_turns_and_is_given_back() {
    let bmc = Bmc::start(&BOTH, 1, Switch::default());
    let (pool, target) = (Pool::default(), target(Way::Ipmi, bmc.address));
    for _ in 0..20 {
        assert!(!is_on(&pool, &target).await.unwrap());
    }
    let (logins, open) = {
        let state = bmc.state();
        (state.logins, state.open)
    };
    assert_eq!((logins, open), (1, 1));
    pool.close().await;
    assert_eq!(bmc.state().open, 0, "its one session is free for others");
}

#[tokio::test]
async fn callers_wait_for_their_turn_and_share_one_session() {
    let bmc = Bmc::start(&BOTH, 1, Switch::default());
    let pool = Pool::default();
    let turns = (0..limits::BMC_WAITING).map(|_| {
        let (pool, target) = (pool.clone(), target(Way::Ipmi, bmc.address));
        tokio::spawn(async move { is_on(&pool, &target).await })
    });
    for turn in turns.collect::<Vec<_>>() {
        assert!(!turn.await.unwrap().unwrap());
    }
    assert_eq!(bmc.state().logins, 1);
}

#[tokio::test]
async fn a_bmc_that_has_forgotten_its_sessions_is_logged_in_to_again() {
    let bmc = Bmc::start(&BOTH, 4, Switch::default());
    let (pool, target) = (Pool::default(), target(Way::Ipmi, bmc.address));
    is_on(&pool, &target).await.unwrap();
    let address = bmc.address;
    drop(bmc);
    let mut restarted = Bmc::new(control::rack::bmc::USER, control::rack::bmc::PASSWORD, Switch::default());
    restarted.serve_ipmi(UdpSocket::bind(address).unwrap(), &BOTH, 4).unwrap();
    tokio::time::sleep(limits::BMC_FRESH).await;
    assert!(!is_on(&pool, &target).await.unwrap());
    assert_eq!(restarted.state().logins, 1);
}

#[tokio::test]
async fn f21_wrong_credentials_are_tried_three_times_and_others_at_once() {
    let bmc = Bmc::start(&BOTH, 4, Switch::default());
    let (http, address) = redfish(4, &Switch::default());
    for (sim, way, address) in [(&bmc, Way::Ipmi, bmc.address), (&http, Way::RedfishHttp, address)] {
        let pool = Pool::default();
        let right = target(way, address);
        let wrong = Target { password: "guess".into(), ..right.clone() };
        for i in 0..6 {
            let refused = is_on(&pool, &wrong).await.unwrap_err();
            match refused {
                Refusal::Bmc(e) if i < limits::BMC_LOGINS => assert_eq!(e.trouble(), Trouble::Login, "{e}"),
                Refusal::Locked(_) if i >= limits::BMC_LOGINS => {}
                other => panic!("try {i}: {other}"),
            }
        }
        assert_eq!(sim.state().logins, limits::BMC_LOGINS as u64, "{right:?}");
        let known = pool.known(&right.key()).unwrap();
        assert!(known.auth_failed && known.reachable == Some(true) && !known.why.contains("guess"), "{known:?}");
        is_on(&pool, &right).await.expect("the corrected password is tried at once");
        assert!(!pool.known(&right.key()).unwrap().auth_failed);
    }
}

#[tokio::test]
async fn f20_a_bmc_that_never_answers_is_left_alone_after_three_times() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (pool, target) = (Pool::default(), target(Way::RedfishHttp, nobody));
    for i in 0..5 {
        let refused = is_on(&pool, &target).await.unwrap_err();
        match refused {
            Refusal::Bmc(e) if i < limits::BMC_FAILURES => assert_eq!(e.trouble(), Trouble::Unreachable, "{e}"),
            Refusal::LeftAlone { failures, .. } if i >= limits::BMC_FAILURES => {
                assert_eq!(failures, limits::BMC_FAILURES);
            }
            other => panic!("try {i}: {other}"),
        }
    }
    let known = pool.known(&target.key()).unwrap();
    assert!(known.reachable == Some(false) && !known.why.is_empty(), "{known:?}");
}

#[tokio::test]
async fn a_bmc_without_a_free_session_is_waited_for() {
    for _ in 0..2 {
        let bmc = Bmc::start(&BOTH, 1, Switch::default());
        let (mine, theirs) = (Pool::default(), Pool::default());
        let target = target(Way::Ipmi, bmc.address);
        is_on(&theirs, &target).await.unwrap();
        let (waiting, other) = (target.clone(), mine.clone());
        let waits = tokio::spawn(async move { is_on(&other, &waiting).await });
        tokio::time::sleep(limits::BMC_NO_SESSION_PAUSE / 2).await;
        theirs.close().await;
        assert!(!waits.await.unwrap().expect("the session became free meanwhile"));
    }
}

#[tokio::test]
async fn a_bmc_that_refuses_every_command_is_there_all_the_same() {
    let bmc = Bmc::start(&BOTH, 4, Switch::default());
    let (http, address) = redfish(4, &Switch::default());
    let pool = Pool::default();
    bmc.faults(Faults { code: 0xc0, ..Faults::default() });
    http.faults(Faults { code: 0xc0, ..Faults::default() });
    let by_ipmi = target(Way::Ipmi, bmc.address);
    let by_http = target(Way::RedfishHttp, address);
    for _ in 0..2 * limits::BMC_FAILURES {
        let refused = is_on(&pool, &by_ipmi).await.unwrap_err();
        assert!(matches!(refused, Refusal::Bmc(Error::Completion { code: 0xc0, .. })), "{refused}");
        let refused = is_on(&pool, &by_http).await.unwrap_err().to_string();
        assert!(refused.contains("HTTP 500: something went wrong"), "{refused}");
    }
    assert_eq!(pool.known(&by_ipmi.key()).unwrap().reachable, Some(true));
    bmc.faults(Faults::default());
    is_on(&pool, &by_ipmi).await.expect("it was never left alone");
}

async fn loses_the_reply(bmc: &Bmc, machine: &Switch, target: Target) {
    let pool = Pool::default();
    ask(&pool, &target, Ask::Power { action: Power::On }).await.unwrap();
    bmc.faults(Faults { loses_power_reply: true, ..Faults::default() });
    let cycle = Ask::Power { action: Power::Cycle };
    let lost = ask(&pool, &target, cycle).await.unwrap_err();
    assert!(matches!(&lost, Refusal::Bmc(e) if e.trouble() == Trouble::Unreachable), "{lost}");
    bmc.faults(Faults::default());
    for _ in 0..3 {
        let again = ask(&pool, &target, cycle).await.unwrap_err();
        assert!(matches!(again, Refusal::Bmc(Error::JustCycled(_))), "{again}");
    }
    assert_eq!(machine.done(), ["on", "cycle"], "{target:?}: once asked, once done");
    // What is off may be switched on: that is no second cycle.
    ask(&pool, &target, Ask::Power { action: Power::Off }).await.unwrap();
    ask(&pool, &target, cycle).await.unwrap();
    assert_eq!(machine.done(), ["on", "cycle", "off", "on"]);
}

#[tokio::test]
async fn f23_after_a_lost_reply_ipmi_cycles_no_machine_twice() {
    let machine = Switch::default();
    let bmc = Bmc::start(&BOTH, 4, machine.clone());
    loses_the_reply(&bmc, &machine, target(Way::Ipmi, bmc.address)).await;
}

#[tokio::test]
async fn f23_after_a_lost_reply_redfish_cycles_no_machine_twice() {
    let machine = Switch::default();
    let (bmc, address) = redfish(4, &machine);
    loses_the_reply(&bmc, &machine, target(Way::RedfishHttp, address)).await;
}
