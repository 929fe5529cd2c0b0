//! Machines that live through it all, in a world with a clock turned by hand;
//! and control dying at every write and around every effect.

use super::*;
use crate::objects::embedded::Embedded;
use crate::objects::{Error, Listed, Preconditions, Revision};
use crate::plan::server::{Destination, Install, Report};
use crate::resource::{
    Bmc, EffectKind, Meta, Object, ObjectReference, Phase, ServerBinding, ServerBindingSpec, ServerBindingStatus,
    ServerSpec, ServerStatus, marks,
};
use crate::store::Store;
use futures_util::future::BoxFuture;
use protocol::id::Mac;
use protocol::report::{
    Disk, DiskResult, DiskState, Facts, Hello, ImageOrder, Interface, Level, OrderKind, Progress, Status, System,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(super) const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";
pub(super) const START: u64 = 1_795_392_000_000;

/// What is on the machine's disk.
#[derive(Clone, PartialEq, Debug)]
enum OnDisk {
    Stranger,
    Nothing,
    /// The system of this allocation.
    System(String),
}

#[derive(Clone, PartialEq, Debug)]
enum Runs {
    Firmware,
    Agent { boot: u64, done: Option<u64> },
    System(String),
}

/// One machine with its BMC.
struct Machine {
    on: bool,
    /// The BMC's boot flag, for the next start.
    network: bool,
    runs: Runs,
    disk: OnDisk,
    boots: u64,
    wipes: Vec<u64>,
    acts: Vec<(EffectKind, u64)>,
    /// The binding that was there, by uid, when its system was installed; for the invariant.
    errors: Vec<String>,
}

/// The world: what outlives control.
#[derive(Clone)]
struct World {
    machine: Arc<Mutex<Machine>>,
    clock: Arc<AtomicU64>,
    /// Acts and writes that are left before control dies.
    acts_left: Arc<AtomicUsize>,
    writes_left: Arc<AtomicUsize>,
    /// Control dies before (false) or after (true) the fatal act is done.
    after: bool,
    /// Installed by an image that the agent writes; else by an installer.
    image: bool,
}

impl World {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }
    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }
    fn spend(left: &AtomicUsize) -> bool {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

impl Hands for World {
    fn act<'a>(&'a self, _: &'a Server, _: bool, kind: EffectKind) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let lives = World::spend(&self.acts_left);
            if lives || self.after {
                let now = self.now();
                let mut m = self.machine();
                m.acts.push((kind, now));
                if kind != EffectKind::PowerOff {
                    // Its self-test.
                    self.clock.fetch_add(2000, Ordering::SeqCst);
                }
                match kind {
                    EffectKind::PowerOff => (m.on, m.runs) = (false, Runs::Firmware),
                    EffectKind::NetworkBoot => (m.on, m.network, m.runs) = (true, true, Runs::Firmware),
                    EffectKind::DiskBoot | EffectKind::PowerOn => (m.on, m.runs) = (true, Runs::Firmware),
                }
            }
            if !lives {
                // This process never hears of it.
                self.writes_left.store(0, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }

    fn is_on<'a>(&'a self, _: &'a Server) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move { Ok(self.machine().on) })
    }
}

/// A store whose process dies at the nth write.
#[derive(Clone)]
pub(super) struct Dying {
    pub(super) store: Embedded,
    pub(super) left: Arc<AtomicUsize>,
    pub(super) spent: Arc<AtomicUsize>,
}

impl Dying {
    fn write(&self) -> Result<(), Error> {
        if World::spend(&self.left) {
            self.spent.fetch_add(1, Ordering::SeqCst);
            Ok(())
        } else {
            Err(Error::Store("dead".into()))
        }
    }
}

impl Objects for Dying {
    type Watch = <Embedded as Objects>::Watch;
    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Object, Error> {
        self.store.get(kind, namespace, name).await
    }
    async fn list(&self, kind: Kind) -> Result<Listed, Error> {
        self.store.list(kind).await
    }
    async fn watch(&self, kind: Kind, from: Revision) -> Result<Self::Watch, Error> {
        self.store.watch(kind, from).await
    }
    async fn create(&self, object: Object) -> Result<Object, Error> {
        self.write()?;
        self.store.create(object).await
    }
    async fn replace(&self, object: Object) -> Result<Object, Error> {
        self.write()?;
        self.store.replace(object).await
    }
    async fn replace_status(&self, object: Object) -> Result<Object, Error> {
        self.write()?;
        self.store.replace_status(object).await
    }
    async fn delete(&self, kind: Kind, namespace: &str, name: &str, only: Preconditions) -> Result<(), Error> {
        self.write()?;
        self.store.delete(kind, namespace, name, only).await
    }
}

pub(super) struct Kernel;

impl Installs for Kernel {
    fn install(&self, wanted: &Wanted<'_>) -> Install {
        Install::Kernel { environment: wanted.name.to_owned(), reports: true }
    }
}

/// What machines are installed from.
struct From {
    image: bool,
}

impl Installs for From {
    fn install(&self, wanted: &Wanted<'_>) -> Install {
        let environment = wanted.name.to_owned();
        let (true, Some(facts)) = (self.image, wanted.facts) else {
            return Install::Kernel { environment, reports: true };
        };
        let order = ImageOrder {
            target: crate::plan::server::target(facts),
            disk: crate::plan::server::disk_target(&facts.storage[0]),
            instance_id: wanted.binding.metadata.uid.clone(),
            ..ImageOrder::default()
        };
        Install::Image { environment, order: Box::new(order) }
    }
}

struct Story {
    store: Embedded,
    raw: Arc<Store>,
    world: World,
    life: Lifecycle<Dying>,
    spent: Arc<AtomicUsize>,
    managed: bool,
    deaths: usize,
}

pub(super) fn facts() -> Facts {
    let disk = Disk { name: "sda".into(), size: 1 << 30, serial_number: "D1".into(), ..Disk::default() };
    let stick = Disk { name: "sdb".into(), size: 1 << 30, removable: true, ..Disk::default() };
    Facts {
        system: System { uuid: UUID.parse().ok(), serial_number: "S1".into(), ..System::default() },
        network: vec![Interface { mac: Some(Mac([0x52, 0x54, 0, 0, 0, 1])), ..Interface::default() }],
        storage: vec![disk, stick],
        ..Facts::default()
    }
}

impl Story {
    async fn begin(managed: bool, image: bool) -> Self {
        let raw = Arc::new(Store::in_memory().unwrap());
        let store = Embedded::open(raw.clone()).await.unwrap();
        let machine = Machine {
            on: true,
            network: true,
            runs: Runs::Firmware,
            disk: OnDisk::Stranger,
            boots: 0,
            wipes: Vec::new(),
            acts: Vec::new(),
            errors: Vec::new(),
        };
        let world = World {
            machine: Arc::new(Mutex::new(machine)),
            clock: Arc::new(AtomicU64::new(START)),
            acts_left: Arc::new(AtomicUsize::new(usize::MAX)),
            writes_left: Arc::new(AtomicUsize::new(usize::MAX)),
            after: false,
            image,
        };
        let bmc = Bmc { endpoint: "10.0.0.9".into(), ..Bmc::default() };
        let server = Server {
            metadata: Meta { name: UUID.into(), ..Meta::default() },
            spec: ServerSpec { bmc: managed.then_some(bmc), ..ServerSpec::default() },
            status: ServerStatus::default(),
        };
        store.create(server.to_object()).await.unwrap();
        let spent = Arc::new(AtomicUsize::new(0));
        let life = Self::control(&store, &raw, &world, &spent).await;
        Self { store, raw, world, life, spent, managed, deaths: 0 }
    }

    /// A control process, new to everything that is not on disk.
    async fn control(store: &Embedded, raw: &Arc<Store>, world: &World, spent: &Arc<AtomicUsize>) -> Lifecycle<Dying> {
        let objects = Dying { store: store.clone(), left: world.writes_left.clone(), spent: spent.clone() };
        let machines = Arc::new(Machines::open(raw.clone()).unwrap());
        let inventory = Inventory::open(objects.clone(), machines.clone()).await.unwrap();
        let clock = world.clock.clone();
        let hands: Arc<dyn Hands> = Arc::new(world.clone());
        Lifecycle::new(
            objects,
            machines,
            inventory,
            hands,
            Box::new(From { image: world.image }),
            Signer::fresh().unwrap(),
        )
        .with_clock(move || clock.load(Ordering::SeqCst))
    }

    async fn server(&self) -> Server {
        Server::from_object(&self.store.get(Kind::Server, "", UUID).await.unwrap()).unwrap()
    }

    async fn phase(&self) -> Phase {
        self.server().await.status.phase.unwrap_or(Phase::Discovered)
    }

    async fn change(&self, change: impl Fn(&mut Server)) {
        let mut server = self.server().await;
        change(&mut server);
        self.store.replace(server.to_object()).await.unwrap();
        self.life.wake(UUID);
    }

    /// Lets control and machine go on for a while, until it holds.
    async fn until(&mut self, what: &str, mut holds: impl AsyncFnMut(&Story) -> bool) {
        for _ in 0..2000 {
            if holds(self).await {
                return;
            }
            self.turn().await;
        }
        let (server, m) = (self.server().await, self.world.machine());
        panic!("never: {what}; {:#?} {:?} {:?} {:?}", server.status, m.runs, m.disk, m.acts);
    }

    /// Control looks, the machine takes a step, five seconds pass.
    async fn turn(&mut self) {
        self.life.wake(UUID);
        if self.life.reconcile(UUID).await.is_err() {
            return self.die().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
            if self.life.board().seen(UUID).running.is_none() {
                break;
            }
        }
        if self.world.writes_left.load(Ordering::SeqCst) == 0 {
            return self.die().await;
        }
        if self.step().await.is_err() {
            return self.die().await;
        }
        self.world.clock.fetch_add(5000, Ordering::SeqCst);
    }

    async fn die(&mut self) {
        self.deaths += 1;
        self.world.writes_left.store(usize::MAX, Ordering::SeqCst);
        self.world.acts_left.store(usize::MAX, Ordering::SeqCst);
        self.life = Self::control(&self.store, &self.raw, &self.world, &self.spent).await;
    }

    fn hello(boot: u64) -> Hello {
        Hello {
            version: 1,
            agent: "0".into(),
            boot_id: boot.to_string(),
            attempt: None,
            boot_mac: None,
            uptime_s: 1.0,
            facts: facts(),
        }
    }

    /// The agent's first words, as the HTTP handler takes them.
    async fn hail(&self, boot: u64) {
        self.life.inner.machines.hello(Self::hello(boot), None, self.world.now()).await.unwrap();
        self.life.hello(UUID, &Self::hello(boot), true);
    }

    /// The machine's next step.
    async fn step(&mut self) -> Result<(), Error> {
        let (on, runs) = {
            let m = self.world.machine();
            (m.on, m.runs.clone())
        };
        match (on, runs) {
            (false, _) => {}
            (true, Runs::Firmware) => self.boot().await?,
            (true, Runs::Agent { boot, done }) => self.agent(boot, done).await?,
            (true, Runs::System(uid)) => self.life.reported(UUID, &uid, Report::Running).await?,
        }
        Ok(())
    }

    async fn boot(&mut self) -> Result<(), Error> {
        let network = std::mem::take(&mut self.world.machine().network) || !self.managed;
        let own = match &self.world.machine().disk {
            OnDisk::System(uid) => Some(uid.clone()),
            _ => None,
        };
        if let (false, Some(uid)) = (network, &own) {
            self.world.machine().runs = Runs::System(uid.clone());
            return Ok(());
        }
        match self.life.goal(UUID, true).await? {
            None | Some(Goal::Agent) => {
                self.life.sent(UUID, Destination::Agent);
                let boot = {
                    let mut m = self.world.machine();
                    m.boots += 1;
                    m.runs = Runs::Agent { boot: m.boots, done: None };
                    m.boots
                };
                self.hail(boot).await;
            }
            Some(Goal::Installer { binding, .. }) => {
                self.life.sent(UUID, Destination::Installer(binding.clone()));
                self.life.fetched(UUID, &binding).await?;
                self.world.machine().disk = OnDisk::System(binding.clone());
                self.life.reported(UUID, &binding, Report::Installed).await?;
            }
            Some(Goal::Disk(_)) => {
                self.life.sent(UUID, Destination::Disk);
                if let Some(uid) = own {
                    self.world.machine().runs = Runs::System(uid);
                }
            }
        }
        Ok(())
    }

    async fn agent(&mut self, boot: u64, done: Option<u64>) -> Result<(), Error> {
        if !self.life.knows(UUID, &boot.to_string()) {
            self.hail(boot).await;
        }
        let disks = |order: &protocol::report::Order| match &order.kind {
            OrderKind::Wipe(w) => w
                .disks
                .iter()
                .map(|d| DiskResult { disk: d.clone(), state: DiskState::Clean, ..DiskResult::default() })
                .collect(),
            _ => Vec::new(),
        };
        let order = self.life.order(UUID, true).await;
        let status = Status {
            version: 1,
            boot_id: boot.to_string(),
            attempt: None,
            uuid: UUID.parse().ok(),
            boot_mac: None,
            order: order.id,
            level: if done == Some(order.id) { Level::Done } else { Level::Running },
            detail: String::new(),
            progress: Some(Progress { counter: self.world.now(), ..Progress::default() }),
            disks: if done == Some(order.id) { disks(&order) } else { Vec::new() },
            bmc: None,
        };
        match &order.kind {
            OrderKind::Wipe(w) => {
                assert_eq!(w.disks.len(), 1, "W7: the stick is not in the order");
                self.life.status(UUID, &status, true);
                if done != Some(order.id) && self.life.confirm(UUID, &status, true).await.go {
                    let bound = self.store.get(Kind::ServerBinding, "", UUID).await.is_ok();
                    let mut m = self.world.machine();
                    if bound {
                        m.errors.push("wiped while somebody has it".into());
                    }
                    m.wipes.push(order.id);
                    m.disk = OnDisk::Nothing;
                    m.runs = Runs::Agent { boot, done: Some(order.id) };
                }
            }
            OrderKind::WriteImage(image) => {
                self.life.status(UUID, &status, true);
                if done != Some(order.id) && self.life.confirm(UUID, &status, true).await.go {
                    let bound = self.store.get(Kind::ServerBinding, "", UUID).await.map(|b| b.metadata.uid);
                    let mut m = self.world.machine();
                    if bound.ok().as_ref() != Some(&image.instance_id) {
                        m.errors.push("written over in the name of nobody".into());
                    }
                    m.disk = OnDisk::System(image.instance_id.clone());
                    m.runs = Runs::Agent { boot, done: Some(order.id) };
                }
            }
            OrderKind::PowerOff => {
                let mut m = self.world.machine();
                (m.on, m.runs) = (false, Runs::Firmware);
            }
            OrderKind::Reboot => {
                let mut m = self.world.machine();
                (m.runs, m.network) = (Runs::Firmware, true);
            }
            _ => self.life.status(UUID, &Status { order: 0, level: Level::Holding, ..status }, true),
        }
        Ok(())
    }

    async fn bind(&self) {
        let binding = ServerBinding {
            metadata: Meta { name: UUID.into(), finalizers: vec![marks::RELEASE_FINALIZER.into()], ..Meta::default() },
            spec: ServerBindingSpec {
                metal_machine_ref: ObjectReference { name: "web-1".into(), ..ObjectReference::default() },
                ..ServerBindingSpec::default()
            },
            status: ServerBindingStatus::default(),
        };
        self.store.create(binding.to_object()).await.unwrap();
    }

    /// All sixteen steps.
    async fn whole_life(&mut self) {
        let managed = self.managed;
        self.until("it reports", async |s| s.life.board().facts(UUID).is_some()).await;
        assert!(self.world.machine().acts.is_empty(), "W11: a machine that is not accepted is left alone");
        assert_eq!(self.world.machine().disk, OnDisk::Stranger);
        self.change(|s| s.spec.accepted = true).await;
        self.until("clean and free", async |s| {
            s.phase().await == Phase::Available && (!managed || !s.world.machine().on)
        })
        .await;
        assert_eq!(self.world.machine().disk, OnDisk::Nothing);
        let record = self.server().await.status.wiped.unwrap();
        assert!(record::holds(&record) && !record.disks.is_empty());
        self.bind().await;
        self.until("it runs", async |s| s.phase().await == Phase::Running).await;
        let uid = self.store.get(Kind::ServerBinding, "", UUID).await.unwrap().metadata.uid;
        self.until("its system runs", async |s| s.world.machine().runs == Runs::System(uid.clone())).await;
        for _ in 0..20 {
            self.world.clock.fetch_add(360_000, Ordering::SeqCst);
            self.turn().await;
        }
        assert_eq!(self.phase().await, Phase::Running);

        self.store.delete(Kind::ServerBinding, "", UUID, Preconditions::default()).await.unwrap();
        if !managed {
            self.until("it is told to leave", async |s| s.phase().await == Phase::Releasing).await;
            // By hand, some time later.
            self.world.clock.fetch_add(2000, Ordering::SeqCst);
            let mut m = self.world.machine();
            (m.runs, m.network) = (Runs::Firmware, true);
        }
        self.until("clean and free again", async |s| {
            let gone = s.store.get(Kind::ServerBinding, "", UUID).await.is_err();
            s.phase().await == Phase::Available && gone && (!managed || !s.world.machine().on)
        })
        .await;
        let m = self.world.machine();
        assert_eq!(m.disk, OnDisk::Nothing);
        assert!(m.errors.is_empty(), "{:?}", m.errors);
    }

    /// No machine is cycled twice within a minute (F23).
    fn rests(&self) {
        let m = self.world.machine();
        let boots: Vec<u64> = m.acts.iter().filter(|(k, _)| *k == EffectKind::NetworkBoot).map(|(_, at)| *at).collect();
        for pair in boots.windows(2) {
            let rest = u64::try_from(limits::EFFECT_REST.as_millis()).unwrap();
            // Boots for different reasons may follow each other: between them the machine did something.
            assert!(pair[1] - pair[0] >= rest || m.boots > 1, "cycled twice within a minute: {:?}", m.acts);
        }
    }
}

/// With a BMC and without, by an installer and by an image.
const WAYS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

#[tokio::test]
async fn a_machine_with_a_bmc_lives_through_it_all() {
    for image in [false, true] {
        let mut story = Story::begin(true, image).await;
        story.whole_life().await;
        let acts: Vec<_> = story.world.machine().acts.iter().map(|(k, _)| *k).collect();
        use EffectKind::NetworkBoot;
        assert_eq!(acts, [NetworkBoot, NetworkBoot], "into its installer, and out of its cluster: no more");
        assert_eq!(story.world.machine().wipes.len(), 2, "one for each order");
    }
}

#[tokio::test]
async fn a_machine_without_a_bmc_lives_through_it_all() {
    for image in [false, true] {
        let mut story = Story::begin(false, image).await;
        story.whole_life().await;
        assert!(story.world.machine().acts.is_empty());
    }
}

#[tokio::test]
async fn f30_a_death_at_every_write_leads_to_the_same_end() {
    for (managed, image) in WAYS {
        let mut clean = Story::begin(managed, image).await;
        clean.whole_life().await;
        let writes = clean.spent.load(Ordering::SeqCst);
        assert!(writes >= 12, "{writes} writes");
        for n in 0..writes {
            let what = format!("write {n} of {writes}, managed {managed}, image {image}");
            let mut story = Story::begin(managed, image).await;
            story.world.writes_left.store(n, Ordering::SeqCst);
            story.whole_life().await;
            assert!(story.deaths >= 1, "{what}");
            story.rests();
            let (boots, clean_boots) = (story.world.machine().acts.len(), clean.world.machine().acts.len());
            assert!(boots <= clean_boots + 1, "{what}: {:?}", story.world.machine().acts);
            let wipes = story.world.machine().wipes.clone();
            assert_eq!(wipes.iter().collect::<BTreeSet<_>>().len(), 2, "{what}: two orders, {wipes:?}");
        }
    }
}

#[tokio::test]
async fn f23_a_death_around_every_effect_does_none_twice() {
    for image in [false, true] {
        let mut clean = Story::begin(true, image).await;
        clean.whole_life().await;
        let acts = clean.world.machine().acts.clone();
        for n in 0..acts.len() {
            for after in [false, true] {
                let mut story = Story::begin(true, image).await;
                story.world.after = after;
                story.world.acts_left.store(n, Ordering::SeqCst);
                story.life = Story::control(&story.store, &story.raw, &story.world, &story.spent).await;
                story.whole_life().await;
                assert!(story.deaths >= 1, "effect {n}");
                story.rests();
                let done = story.world.machine().acts.clone();
                assert_eq!(done.len(), acts.len(), "effect {n}, after {after}, image {image}: {done:?}");
            }
        }
    }
}

#[tokio::test]
async fn f29_r6_a_machine_whose_claim_is_gone_is_left_alone_at_every_step_and_after_every_death() {
    for writes in [usize::MAX, 0, 1] {
        for phase in [Phase::Allocated, Phase::Installing, Phase::Running, Phase::Releasing] {
            let mut story = Story::begin(true, false).await;
            story.until("it reports", async |s| s.life.board().facts(UUID).is_some()).await;
            story.change(|s| s.spec.accepted = true).await;
            story.until("free", async |s| s.phase().await == Phase::Available && !s.world.machine().on).await;
            story.bind().await;
            let wanted = if phase == Phase::Releasing { Phase::Running } else { phase };
            story.until("there", async |s| s.phase().await >= wanted).await;
            if phase == Phase::Releasing {
                story.store.delete(Kind::ServerBinding, "", UUID, Preconditions::default()).await.unwrap();
                story.life.reconcile(UUID).await.unwrap();
            }
            // Somebody strips the finalizer (a broken move, a hand).
            let mut binding = story.store.get(Kind::ServerBinding, "", UUID).await.unwrap();
            binding.metadata.finalizers.clear();
            let _ = story.store.replace(binding).await;
            let _ = story.store.delete(Kind::ServerBinding, "", UUID, Preconditions::default()).await;
            let (disk, wipes, acts) = {
                let m = story.world.machine();
                (m.disk.clone(), m.wipes.clone(), m.acts.len())
            };
            story.world.writes_left.store(writes, Ordering::SeqCst);
            for _ in 0..15 {
                story.turn().await;
            }
            assert_eq!(story.phase().await, Phase::Quarantined, "{phase}, death at write {writes}");
            {
                let m = story.world.machine();
                assert_eq!((&m.wipes, m.acts.len()), (&wipes, acts), "{phase}: nothing is done to it");
                assert!(m.disk == disk || phase < Phase::Running, "{phase}: {:?}", m.disk);
            }
            // A human explains.
            story.world.writes_left.store(usize::MAX, Ordering::SeqCst);
            story.change(|s| drop(s.metadata.annotations.insert(marks::LIFT.into(), "wipe".into()))).await;
            story.until("free again", async |s| s.phase().await == Phase::Available).await;
            assert_eq!(story.world.machine().disk, OnDisk::Nothing);
        }
    }
}
