//! Properties of the plan: whatever is on record, declared and seen, in any
//! combination (most of them could never come about), the rules hold.

use super::*;
use crate::resource::{
    EffectState, InstallRecord, Meta, ObjectReference, ServerBindingSpec, ServerBindingStatus, ServerSpec,
};
use proptest::prelude::*;
use proptest::sample::select;
use protocol::id::Mac;
use protocol::report::{Disk, DiskState, DiskTarget, Interface, System, Target, WipeOrder};

const NOW: u64 = 1_795_392_000_500;
const UID: &str = "b1";

/// A world that a decision is made about.
#[derive(Clone, Debug)]
struct Case {
    server: Server,
    binding: Option<ServerBinding>,
    install: Install,
    facts: Option<Facts>,
    managed: bool,
    paused: bool,
    conflict: bool,
    seen: Seen,
}

impl Case {
    fn decide(&self) -> Decision {
        let view = View {
            server: &self.server,
            binding: self.binding.as_ref(),
            class: None,
            install: &self.install,
            facts: self.facts.as_ref(),
            managed: self.managed,
            paused: self.paused,
            set_up_bmc: true,
            conflict: self.conflict.then_some("another machine claims this UUID too"),
        };
        server(&view, &self.seen, NOW)
    }

    fn deleted(&self) -> bool {
        self.binding.as_ref().is_some_and(|b| b.metadata.deletion_timestamp.is_some())
    }

    fn note(&self, mark: &str) -> Option<&str> {
        self.server.metadata.annotations.get(mark).map(String::as_str)
    }
}

fn facts() -> Facts {
    let disk = |name: &str, change: fn(&mut Disk)| {
        let mut disk = Disk { name: name.into(), size: 1 << 30, serial_number: name.into(), ..Disk::default() };
        change(&mut disk);
        disk
    };
    Facts {
        system: System { serial_number: "S1".into(), ..System::default() },
        network: vec![Interface { mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..Interface::default() }],
        storage: vec![
            disk("sda", |_| ()),
            disk("sdb", |d| d.removable = true),
            disk("sdc", |d| d.transport = "usb".into()),
            disk("sdd", |d| d.transport = "iscsi".into()),
            disk("sde", |d| d.read_only = true),
            disk("sdf", |d| d.transport = "fc".into()),
        ],
        ..Facts::default()
    }
}

/// A time around now, as it is written.
fn stamp() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just(String::new()),
        8 => (0_u64..30_000).prop_map(|s| rfc3339(NOW - s * 1000)),
        1 => Just(rfc3339(NOW)),
        1 => Just("not a time".to_owned()),
    ]
}

/// A time around now, in milliseconds.
fn around() -> impl Strategy<Value = u64> {
    (0_u64..30_000_000, any::<bool>()).prop_map(|(ago, soon)| if soon { NOW - ago % 5000 } else { NOW - ago })
}

fn phase() -> impl Strategy<Value = Phase> {
    select(Phase::ALL.to_vec())
}

fn wipe_kind() -> OrderKind {
    OrderKind::Wipe(WipeOrder { disks: vec![disk_target(&facts().storage[0])], ..WipeOrder::default() })
}

fn image() -> ImageOrder {
    ImageOrder { target: Target::default(), disk: DiskTarget::default(), ..ImageOrder::default() }
}

fn order() -> impl Strategy<Value = OrderRecord> {
    let kinds = vec![
        wipe_kind(),
        wipe_kind(),
        OrderKind::PowerOff,
        OrderKind::Reboot,
        OrderKind::WriteImage(image()),
        OrderKind::Unknown,
    ];
    let states =
        vec![OrderState::Pending, OrderState::Running, OrderState::Erasing, OrderState::Done, OrderState::Failed];
    (1_u64..50, select(kinds), select(states), stamp(), stamp(), any::<bool>()).prop_map(
        |(id, order, state, created, heard, clean)| OrderRecord {
            id,
            order,
            state,
            reason: "Accepted".into(),
            requested_by: String::new(),
            created,
            expires: String::new(),
            disks: if clean { clean_disks() } else { Vec::new() },
            counter: 3,
            heard,
            message: String::new(),
        },
    )
}

fn clean_disks() -> Vec<DiskResult> {
    let disk = disk_target(&facts().storage[0]);
    vec![DiskResult { disk, state: DiskState::Clean, ..DiskResult::default() }]
}

fn effect() -> impl Strategy<Value = EffectRecord> {
    let kinds = vec![EffectKind::NetworkBoot, EffectKind::DiskBoot, EffectKind::PowerOff, EffectKind::PowerOn];
    let states = vec![EffectState::Intended, EffectState::Done, EffectState::Failed];
    (1_u64..50, select(kinds), select(states), stamp()).prop_map(|(id, kind, state, at)| EffectRecord {
        id,
        kind,
        state,
        at,
        attempts: 1,
        why: String::new(),
    })
}

fn install_record() -> impl Strategy<Value = InstallRecord> {
    (select(vec![UID, "b0"]), stamp(), stamp(), stamp(), stamp()).prop_map(
        |(binding, started, config_fetched, installed, running)| InstallRecord {
            binding: binding.into(),
            environment: "e".into(),
            started,
            config_fetched,
            installed,
            running,
        },
    )
}

fn status() -> impl Strategy<Value = ServerStatus> {
    (
        prop::option::of(phase()),
        stamp(),
        0_u32..7,
        prop::option::of(order()),
        prop::option::of(effect()),
        prop::option::of(install_record()),
        stamp(),
    )
        .prop_map(|(phase, since, attempts, order, effect, install, deadline)| ServerStatus {
            phase,
            since,
            attempts,
            order,
            effect,
            install,
            deadline,
            last_id: 50,
            ..ServerStatus::default()
        })
}

fn declared() -> impl Strategy<Value = Server> {
    let lift = select(vec![None, Some("wipe"), Some("running"), Some("nonsense")]);
    (status(), any::<bool>(), any::<bool>(), any::<bool>(), lift).prop_map(|(status, accepted, retry, before, lift)| {
        let mut metadata = Meta { name: "s".into(), ..Meta::default() };
        let notes = &mut metadata.annotations;
        if retry {
            notes.insert(marks::RETRY.into(), String::new());
        }
        if before {
            notes.insert(marks::ACCEPTED_AT.into(), rfc3339(NOW));
        }
        if let Some(lift) = lift {
            notes.insert(marks::LIFT.into(), lift.into());
        }
        Server { metadata, spec: ServerSpec { accepted, ..ServerSpec::default() }, status }
    })
}

fn binding() -> impl Strategy<Value = ServerBinding> {
    (any::<bool>(), select(vec![UID, "b0"])).prop_map(|(deleted, uid)| ServerBinding {
        metadata: Meta {
            name: "s".into(),
            uid: uid.into(),
            deletion_timestamp: deleted.then(|| rfc3339(NOW)),
            ..Meta::default()
        },
        spec: ServerBindingSpec {
            metal_machine_ref: ObjectReference { name: "m".into(), ..ObjectReference::default() },
            ..ServerBindingSpec::default()
        },
        status: ServerBindingStatus::default(),
    })
}

fn seen() -> impl Strategy<Value = Seen> {
    let levels = vec![Level::Holding, Level::Running, Level::Done, Level::Failed, Level::Unsupported];
    let agent = (any::<bool>(), around(), around(), 0_u64..50, select(levels), any::<bool>()).prop_map(
        |(verified, since_ms, seen_ms, order, level, clean)| Agent {
            boot_id: "boot".into(),
            verified,
            since_ms: since_ms.min(seen_ms),
            seen_ms,
            order,
            level,
            detail: String::new(),
            progress: Some(Progress { counter: 4, ..Progress::default() }),
            disks: if clean { clean_disks() } else { Vec::new() },
            bmc: None,
        },
    );
    let places = vec![Destination::Agent, Destination::Installer(UID.into()), Destination::Disk];
    let script = (select(places), around()).prop_map(|(to, at_ms)| Script { to, at_ms });
    let fetched = around().prop_map(|at| (UID.to_owned(), at));
    let reports = vec![Report::Installed, Report::Failed("no disk".into()), Report::Running];
    let reported = select(reports).prop_map(|r| (UID.to_owned(), r));
    let ended = (1_u64..51, any::<bool>()).prop_map(|(id, ok)| (id, if ok { Ok(()) } else { Err("no".to_owned()) }));
    (
        prop::option::of(agent),
        prop::option::of(script),
        prop::option::of(fetched),
        prop::option::of(reported),
        prop::option::of((any::<bool>(), around())),
        prop::option::of(1_u64..51),
        prop::option::of(ended),
    )
        .prop_map(|(agent, script, fetched, reported, power, running, ended)| Seen {
            agent,
            script,
            fetched,
            reported,
            power,
            running,
            ended,
            ..Seen::default()
        })
}

fn case() -> impl Strategy<Value = Case> {
    let installs = vec![
        Install::None,
        Install::Kernel { environment: "e".into(), reports: true },
        Install::Kernel { environment: "e".into(), reports: false },
        Install::Image { environment: "e".into(), order: Box::new(image()) },
        Install::NotReady("being fetched".into()),
    ];
    let flag = |weight: u32| prop::bool::weighted(f64::from(weight) / 100.0);
    (declared(), prop::option::of(binding()), select(installs), flag(80), flag(60), flag(10), flag(10), seen())
        .prop_map(|(server, binding, install, known, managed, paused, conflict, seen)| Case {
            server,
            binding,
            install,
            facts: known.then(facts),
            managed,
            paused,
            conflict,
            seen,
        })
}

/// Where a phase may lead in one decision. Deciding goes on at once where nothing has to be waited
/// for, so a step may pass through phases.
fn may_follow(from: Phase, to: Phase) -> bool {
    use Phase::*;
    let forth = [Discovered, Available, Allocated, Installing, Running];
    let place = |phase| forth.iter().position(|p| *p == phase);
    from == to
        || to == Quarantined
        || match from {
            Discovered if to == Wiping => true,
            // Wiped, and with whoever has bound it in the meantime.
            Wiping => matches!(to, Available | Allocated | Installing | Running),
            // Released, and in our hands at once.
            Available | Allocated | Installing | Running if matches!(to, Releasing | Wiping) => true,
            Releasing => to == Wiping,
            Quarantined => matches!(to, Running | Releasing | Wiping | Available),
            _ => place(from) < place(to) && place(to).is_some(),
        }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_whatever_is_on_record_and_seen(case in case()) {
        let (old, d) = (&case.server.status, case.decide());
        let new = &d.status;
        let accepted = case.server.spec.accepted;
        let (from, to) = (old.phase, new.phase);

        // Paused: nothing (R1, W13).
        if case.paused {
            prop_assert!(d.effect.is_none() && !d.release && d.heeded.is_empty() && !d.read_power && !d.mark_accepted);
            prop_assert_eq!((to, &new.order, &new.effect, &new.install), (from, &old.order, &old.effect, &old.install));
        } else {
            prop_assert!(to.is_some());
        }

        // Not ours: left as it is (W11).
        if !accepted {
            prop_assert!(d.effect.is_none(), "something is done to a machine that is not accepted");
            let begun = matches!(from, None | Some(Phase::Discovered));
            prop_assert!(!begun || matches!(to, None | Some(Phase::Discovered | Phase::Quarantined)));
        }

        // What is done stands on record first, and one thing at a time (F23).
        if let Some(effect) = &d.effect {
            prop_assert!(case.managed);
            prop_assert_eq!(Some(effect), new.effect.as_ref());
            prop_assert_eq!(effect.state, EffectState::Intended);
            prop_assert_ne!(case.seen.running, Some(effect.id));
            prop_assert_ne!(to, Some(Phase::Quarantined));
            prop_assert!(!matches!(effect.kind, EffectKind::PowerOff) || to == Some(Phase::Available));
        }

        // A wipe is ordered by acceptance, release, or a human (W2), and nothing else makes one.
        let is_wipe = |o: &&OrderRecord| matches!(o.order, OrderKind::Wipe(_));
        let (before, after) = (old.order.as_ref().filter(is_wipe), new.order.as_ref().filter(is_wipe));
        if let Some(order) = after.filter(|o| before.is_none_or(|b| b.id != o.id)) {
            let by_acceptance = accepted && matches!(from, None | Some(Phase::Discovered)) && case.binding.is_none();
            let by_release = case.deleted();
            let by_human = case.note(marks::LIFT) == Some("wipe") && case.binding.is_none() && accepted;
            // Another try, an end of a dry run, or a human after parts were changed.
            let again = accepted && from == Some(Phase::Wiping) && before.is_some();
            prop_assert!(by_acceptance || by_release || by_human || again, "a wipe out of nothing");
            prop_assert!(order.id > old.last_id && order.id <= new.last_id, "an id is never used twice");
            // W1, W7: for this machine, its own disks, none that is removable, foreign or read-only.
            let OrderKind::Wipe(wipe) = &order.order else { unreachable!() };
            let names: Vec<_> = wipe.disks.iter().map(|d| d.name.as_str()).collect();
            prop_assert_eq!(names, ["sda"]);
            prop_assert!(!wipe.target.macs.is_empty() && wipe.target.serial_number == "S1");
            prop_assert!(!order.created.is_empty() && !order.reason.is_empty());
        }

        // R6: whoever runs is wiped only when its binding was deleted.
        if matches!(from, Some(Phase::Allocated | Phase::Installing | Phase::Running)) && to == Some(Phase::Wiping) {
            prop_assert!(case.deleted());
        }
        // The claim ends only after what follows from that is on disk.
        if d.release {
            prop_assert!(case.deleted() && matches!(from, Some(Phase::Wiping | Phase::Available)));
            prop_assert_ne!(to, Some(Phase::Quarantined));
        }
        // Clean means: every disk of a finished order was read back, or a human said so (W6).
        if from == Some(Phase::Wiping) && matches!(to, Some(Phase::Available | Phase::Allocated | Phase::Installing)) {
            let record = new.wiped.as_ref();
            prop_assert!(record.is_some_and(|r| !r.disks.is_empty() && r.disks.iter().all(|d| d.state == DiskState::Clean)));
        }
        prop_assert!(!new.is_clean || matches!(to, Some(Phase::Available | Phase::Allocated)) || case.paused);
        // A quarantine is lifted by a human alone.
        if from == Some(Phase::Quarantined) && to != from {
            prop_assert!(matches!(case.note(marks::LIFT), Some("wipe" | "running")));
        }
        // A machine that another one claims to be is neither accepted nor given away (F33).
        if case.conflict && !case.paused && from == Some(Phase::Discovered) {
            prop_assert_eq!(to, Some(Phase::Discovered));
        }
        if let (Some(from), Some(to)) = (from, to) {
            prop_assert!(may_follow(from, to), "{} became {}", from, to);
        }

        // Times are ahead, ids only rise.
        prop_assert!(d.recheck_ms.is_none_or(|at| at > NOW));
        prop_assert!(new.deadline.is_empty() || parse_rfc3339(&new.deadline).is_some_and(|at| at + 1000 > NOW), "{}", new.deadline);
        prop_assert!(new.last_id >= old.last_id && new.last_id <= old.last_id + 3);
    }

    /// Without news, a decision carried out leads to one that changes nothing, in fewer rounds than
    /// the reconciler makes, and one visit does at most one thing to a machine.
    #[test]
    fn decisions_settle(case in case()) {
        let mut case = case;
        let mut done = 0;
        for round in 0..=limits::RECONCILE_ROUNDS {
            prop_assert!(round < limits::RECONCILE_ROUNDS, "never settles: {:#?}", case.server.status);
            let d = case.decide();
            let same = d.status == case.server.status;
            if same && d.heeded.is_empty() && d.effect.is_none() && !d.release && !d.mark_accepted {
                break;
            }
            case.server.status = d.status;
            if d.mark_accepted {
                case.server.metadata.annotations.insert(marks::ACCEPTED_AT.into(), rfc3339(NOW));
            } else if same && d.heeded.is_empty() && d.effect.is_none() && !d.release {
                break;
            }
            d.heeded.iter().for_each(|mark| drop(case.server.metadata.annotations.remove(*mark)));
            if d.release {
                case.binding = None;
            }
            if let Some(effect) = d.effect {
                done += 1;
                case.seen.running = Some(effect.id);
                case.seen.power = None;
            }
        }
        prop_assert!(done <= 1, "{} things were done in one visit", done);
    }
}

/// A machine that is released seconds after it was installed: the agent that wiped it is still remembered, and is gone.
#[test]
fn an_agent_from_before_the_installation_holds_no_release_up() {
    let uid = UID.to_owned();
    let (status, metadata) = (ServerBindingStatus::default(), Meta { uid: uid.clone(), ..Meta::default() });
    let mut binding = ServerBinding { metadata, spec: ServerBindingSpec::default(), status };
    binding.metadata.deletion_timestamp = Some(rfc3339(NOW));
    let bmc = Some(crate::resource::Bmc { endpoint: "192.0.2.1".into(), ..Default::default() });
    let status = ServerStatus {
        phase: Some(Phase::Running),
        since: rfc3339(NOW - 5000),
        install: Some(InstallRecord { binding: uid, installed: rfc3339(NOW - 9000), ..InstallRecord::default() }),
        ..ServerStatus::default()
    };
    let metadata = Meta { name: "6f0c4e2a-0b1d-4c5e-8f90-123456789abc".into(), ..Meta::default() };
    let server = Server { metadata, spec: ServerSpec { accepted: true, bmc, ..ServerSpec::default() }, status };
    let agent = Agent {
        boot_id: "b".into(),
        verified: true,
        since_ms: NOW - 50_000,
        seen_ms: NOW - 30_000,
        order: 0,
        level: Level::Holding,
        detail: String::new(),
        progress: None,
        disks: Vec::new(),
        bmc: None,
    };
    let mut case = Case {
        server,
        binding: Some(binding),
        install: Install::Kernel { environment: "e".into(), reports: true },
        facts: Some(facts()),
        managed: true,
        paused: false,
        conflict: false,
        seen: Seen { agent: Some(agent), ..Seen::default() },
    };
    let waits = case.decide();
    assert_eq!((waits.status.phase, waits.effect.clone()), (Some(Phase::Releasing), None));
    assert!(
        waits.recheck_ms.is_some_and(|at| at <= NOW + 31_000),
        "an agent that is only remembered is not waited for"
    );
    case.seen.script = Some(Script { to: Destination::Disk, at_ms: NOW - 20_000 });
    let goes = case.decide();
    assert_eq!(
        goes.effect.map(|e| e.kind),
        Some(EffectKind::NetworkBoot),
        "it has asked for a script since: it is gone"
    );
}
