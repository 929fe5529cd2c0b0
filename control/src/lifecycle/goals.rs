//! Where a machine is sent, phase by phase: the table of Sidero's decision, and
//! of ours where Sidero's loops.

use super::agent::{Goal, goal};
use super::reconcile::Whole;
use crate::plan::server::Install;
use crate::resource::{
    BootFromDisk, InstallRecord, Meta, Phase, Server, ServerBinding, ServerClass, ServerSpec, ServerStatus, Typed as _,
};
use protocol::report::ImageOrder;

const NOW: u64 = 1_795_392_000_000;

/// A machine with its binding and class.
struct Case {
    whole: Whole,
    known_card: bool,
}

fn case(phase: Phase) -> Case {
    let meta = |uid: &str| Meta { name: "m".into(), uid: uid.into(), ..Meta::default() };
    let status = ServerStatus {
        phase: Some(phase),
        install: Some(InstallRecord { binding: "b1".into(), environment: "talos".into(), ..InstallRecord::default() }),
        ..ServerStatus::default()
    };
    let server = Server { metadata: meta("s"), spec: ServerSpec { accepted: true, ..ServerSpec::default() }, status };
    let whole = Whole {
        object: server.to_object(),
        binding: Some(ServerBinding { metadata: meta("b1"), spec: Default::default(), status: Default::default() }),
        class: Some(ServerClass { metadata: meta("c"), spec: Default::default(), status: Default::default() }),
        install: Install::Kernel { environment: "talos".into(), reports: true },
        facts: None,
        conflict: None,
        paused: false,
        set_up_bmc: false,
        server,
    };
    Case { whole, known_card: true }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Whole)) -> Self {
        change(&mut self.whole);
        self
    }

    fn free(self) -> Self {
        self.with(|w| (w.binding, w.install, w.server.status.install) = (None, Install::None, None))
    }

    fn installed(self) -> Self {
        self.with(|w| w.server.status.install.get_or_insert_default().installed = crate::objects::rfc3339(NOW - 5000))
    }

    fn says(&self) -> String {
        match goal(&self.whole, self.known_card, NOW) {
            None => "by rules".into(),
            Some(Goal::Agent) => "agent".into(),
            Some(Goal::Disk(None)) => "disk".into(),
            Some(Goal::Disk(Some(method))) => format!("disk {method:?}"),
            Some(Goal::Installer { environment, binding }) => format!("{environment} for {binding}"),
        }
    }
}

#[test]
fn the_table_of_phases() {
    use Phase::{Allocated, Available, Discovered, Installing, Quarantined, Releasing, Running, Wiping};
    let installer = "talos for b1";
    let not_ready = |w: &mut Whole| w.install = Install::NotReady("being fetched".into());
    let image = |w: &mut Whole| {
        w.install = Install::Image { environment: "deb".into(), order: Box::new(ImageOrder::default()) };
    };
    let always = |w: &mut Whole| w.server.spec.pxe_boot_always = true;
    let silent = |w: &mut Whole| {
        w.install = Install::Kernel { environment: "talos".into(), reports: false };
        w.server.status.install.get_or_insert_default().config_fetched = crate::objects::rfc3339(NOW - 60_000);
    };
    let stranger = |mut case: Case| {
        case.known_card = false;
        case
    };
    let leaving = |w: &mut Whole| {
        if let Some(b) = &mut w.binding {
            b.metadata.deletion_timestamp = Some(crate::objects::rfc3339(NOW));
        }
    };
    let table: Vec<(Case, &str)> = vec![
        (case(Discovered).free(), "by rules"),
        (case(Wiping).free(), "agent"),
        (case(Available).free(), "agent"),
        (case(Releasing), "agent"),
        (case(Quarantined).free(), "agent"),
        (case(Quarantined), "disk"),
        // An allocation goes to its installer; in the agent it waits for files.
        (case(Allocated), installer),
        (case(Allocated).with(not_ready), "agent"),
        (case(Allocated).with(image), "agent"),
        (case(Allocated).with(leaving), "agent"),
        (stranger(case(Allocated)), "agent"),
        // In its installer, until it is done: the disk is not tried before.
        (case(Installing), installer),
        (case(Installing).with(not_ready), installer),
        (stranger(case(Installing).with(not_ready)), "agent"),
        (case(Installing).with(image), "agent"),
        (case(Installing).with(silent), "disk"),
        (case(Installing).installed(), "disk"),
        (case(Installing).installed().with(image), "disk"),
        (case(Installing).installed().with(not_ready), "disk"),
        // PXEBooted and pxeBootAlways.
        (case(Running).installed(), "disk"),
        (case(Running).installed().with(not_ready), "disk"),
        (case(Running).installed().with(always), installer),
        (case(Installing).installed().with(always), installer),
        (case(Running).installed().with(always).with(not_ready), installer),
        (case(Running).installed().with(image).with(always), "disk"),
    ];
    for (i, (case, expected)) in table.iter().enumerate() {
        assert_eq!(case.says(), *expected, "row {i}: {:?}", case.whole.server.status.phase);
    }
}

#[test]
fn the_way_to_the_disk_is_the_servers_then_the_classs_then_the_configurations() {
    use BootFromDisk::{Http404, IpxeExit};
    let case = |server: Option<BootFromDisk>, class: Option<BootFromDisk>| {
        case(Phase::Running).installed().with(|w| {
            w.server.spec.boot_from_disk_method = server;
            if let Some(c) = &mut w.class {
                c.spec.boot_from_disk_method = class;
            }
        })
    };
    for (server, class, expected) in
        [(Some(IpxeExit), Some(Http404), "disk IpxeExit"), (None, Some(Http404), "disk Http404"), (None, None, "disk")]
    {
        assert_eq!(case(server, class).says(), expected);
    }
}
