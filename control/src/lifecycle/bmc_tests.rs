//! A machine whose BMC nobody has declared: its agent sets it up, control
//! tries the login, and nothing is lost whatever dies in between.

use super::tests::{Dying, Kernel, START, UUID, facts};
use super::*;
use crate::objects::embedded::Embedded;
use crate::resource::{BmcSetupState, EffectKind, Meta, Object, Phase, ServerSpec, ServerStatus, marks};
use crate::store::Store;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use protocol::report::{BmcFound, Facts, Hello, Level, Order, OrderKind, Status};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A BMC, as its machine's agent and as control see it.
#[derive(Clone)]
struct World {
    /// What the agent has set.
    password: Arc<Mutex<String>>,
    /// Logins that are refused before one goes well.
    slow: usize,
    /// Control can reach it.
    reachable: bool,
    logins: Arc<AtomicUsize>,
    store: Embedded,
}

impl Hands for World {
    fn act<'a>(&'a self, _: &'a Server, _: bool, _: EffectKind) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn is_on<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move {
            let before = self.logins.fetch_add(1, Ordering::SeqCst);
            let bmc = server.spec.bmc.as_ref().ok_or("no BMC")?;
            if !self.reachable || before < self.slow {
                return Err(format!("BMC {}: silent", bmc.endpoint));
            }
            let secret = read_secret(&self.store).await.ok_or("no Secret")?;
            let key = bmc.pass_from.as_ref().and_then(|f| f.secret_key_ref.as_ref()).ok_or("no reference")?;
            assert_eq!((key.namespace.as_str(), key.name.as_str()), (marks::NAMESPACE, secret.metadata.name.as_str()));
            if text(&secret, "pass") == *self.password.lock().unwrap() { Ok(true) } else { Err("wrong".into()) }
        })
    }
}

async fn read_secret(store: &Embedded) -> Option<Object> {
    store.get(Kind::Secret, marks::NAMESPACE, &format!("{UUID}-bmc")).await.ok()
}

fn text(secret: &Object, key: &str) -> String {
    String::from_utf8(STANDARD.decode(secret.data[key].as_str().unwrap()).unwrap()).unwrap()
}

struct Story {
    _folder: tempfile::TempDir,
    store: Embedded,
    raw: Arc<Store>,
    world: World,
    clock: Arc<AtomicU64>,
    left: Arc<AtomicUsize>,
    spent: Arc<AtomicUsize>,
    on: bool,
    /// What the agent found and how it ended; nothing: it hangs.
    ends: Option<(Level, Option<BmcFound>)>,
    boot: u64,
    life: Lifecycle<Dying>,
}

fn found(address: &str) -> BmcFound {
    BmcFound { address: address.into(), port: 623, channel: 1, user_id: 3 }
}

fn with_bmc() -> Facts {
    Facts { bmc_present: true, ..facts() }
}

impl Story {
    async fn begin(slow: usize, reachable: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let raw = Arc::new(Store::open(&folder.path().join("s.redb")).unwrap());
        let store = Embedded::open(raw.clone()).await.unwrap();
        let server = Server {
            metadata: Meta { name: UUID.into(), ..Meta::default() },
            spec: ServerSpec::default(),
            status: ServerStatus::default(),
        };
        store.create(server.to_object()).await.unwrap();
        let world = World { password: Arc::default(), slow, reachable, logins: Arc::default(), store: store.clone() };
        let (clock, left) = (Arc::new(AtomicU64::new(START)), Arc::new(AtomicUsize::new(usize::MAX)));
        let spent = Arc::new(AtomicUsize::new(0));
        let life = control(&store, &raw, &world, &clock, &left, &spent, true).await;
        let ends = Some((Level::Done, Some(found("10.0.0.9"))));
        Self { _folder: folder, store, raw, world, clock, left, spent, on: true, ends, boot: 1, life }
    }

    async fn restart(&mut self) {
        self.left.store(usize::MAX, Ordering::SeqCst);
        self.life = control(&self.store, &self.raw, &self.world, &self.clock, &self.left, &self.spent, self.on).await;
    }

    async fn server(&self) -> Server {
        Server::from_object(&self.store.get(Kind::Server, "", UUID).await.unwrap()).unwrap()
    }

    async fn accept(&self) {
        let mut server = self.server().await;
        server.spec.accepted = true;
        self.store.replace(server.to_object()).await.unwrap();
    }

    fn hello(&self) -> Hello {
        Hello {
            version: 1,
            agent: "0".into(),
            boot_id: self.boot.to_string(),
            attempt: None,
            boot_mac: None,
            uptime_s: 1.0,
            facts: with_bmc(),
        }
    }

    fn says(&self, order: &Order, level: Level, bmc: Option<BmcFound>) {
        let status = Status {
            version: 1,
            boot_id: self.boot.to_string(),
            attempt: None,
            uuid: UUID.parse().ok(),
            boot_mac: None,
            order: order.id,
            level,
            detail: "words".into(),
            progress: None,
            disks: Vec::new(),
            bmc,
        };
        self.life.status(UUID, &status, true);
    }

    /// Control looks, the agent polls and does what it is told, five seconds pass. The order it was given.
    async fn turn(&mut self) -> Order {
        if !self.life.knows(UUID, &self.boot.to_string()) {
            self.life.hello(UUID, &self.hello(), true);
        }
        if self.life.reconcile(UUID).await.is_err() {
            self.restart().await;
        }
        let order = self.life.order(UUID, true).await;
        if let OrderKind::SetUpBmc(bmc) = &order.kind {
            let secret = read_secret(&self.store).await.expect("the Secret comes before the order");
            let known = text(&secret, "pass");
            assert_eq!((text(&secret, "user").as_str(), &known), (bmc.user.as_str(), &bmc.password.0));
            match self.ends.clone() {
                Some((level, bmc_found)) => {
                    *self.world.password.lock().unwrap() = bmc.password.0.clone();
                    self.says(&order, level, bmc_found);
                }
                None => self.says(&order, Level::Running, None),
            }
        }
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        self.clock.fetch_add(5000, Ordering::SeqCst);
        order
    }

    /// Whether the wipe's turn comes within so many turns; all of them are taken.
    async fn comes_to_the_wipe(&mut self, turns: usize) -> bool {
        let mut wiped = false;
        for _ in 0..turns {
            wiped |= matches!(self.turn().await.kind, OrderKind::Wipe(_));
        }
        wiped
    }

    /// Nothing of the password is where people and other programs look.
    async fn keeps_its_secret(&self) {
        let secret = read_secret(&self.store).await.unwrap();
        let status = self.store.get(Kind::Server, "", UUID).await.unwrap();
        assert!(!serde_json::to_string(&status).unwrap().contains(&text(&secret, "pass")));
    }
}

async fn control(
    store: &Embedded,
    raw: &Arc<Store>,
    world: &World,
    clock: &Arc<AtomicU64>,
    left: &Arc<AtomicUsize>,
    spent: &Arc<AtomicUsize>,
    on: bool,
) -> Lifecycle<Dying> {
    let objects = Dying { store: store.clone(), left: left.clone(), spent: spent.clone() };
    let machines = Arc::new(Machines::open(raw.clone()).unwrap());
    let inventory = Inventory::open(objects.clone(), machines.clone()).await.unwrap();
    let (hands, clock): (Arc<dyn Hands>, _) = (Arc::new(world.clone()), clock.clone());
    Lifecycle::new(objects, machines, inventory, hands, Box::new(Kernel), Signer::fresh().unwrap())
        .with_clock(move || clock.load(Ordering::SeqCst))
        .with_bmc_setup(on)
}

#[tokio::test]
async fn an_accepted_machine_gets_its_bmc_before_it_is_wiped() {
    for slow in [0, 1] {
        let mut story = Story::begin(slow, true).await;
        for _ in 0..5 {
            assert_eq!(story.turn().await.id, 0, "W11: nothing is done to a machine that is not accepted");
        }
        assert!(read_secret(&story.store).await.is_none());
        story.accept().await;
        assert!(story.comes_to_the_wipe(20).await);
        let server = story.server().await;
        let bmc = server.spec.bmc.clone().expect("spec.bmc says how it is reached");
        assert_eq!((bmc.endpoint.as_str(), bmc.port, bmc.pass.as_str()), ("10.0.0.9", 0, ""));
        assert_eq!(server.status.bmc_setup.as_ref().unwrap().state, BmcSetupState::Done);
        let condition = server.status.conditions.iter().find(|c| c.r#type == marks::BMC_SET_UP).unwrap();
        assert_eq!(condition.status, "True");
        assert_eq!(server.status.phase, Some(Phase::Wiping));
        assert_eq!(story.world.logins.load(Ordering::SeqCst), 1 + slow);
        assert_eq!(text(&read_secret(&story.store).await.unwrap(), "pass").len(), 16);
        story.keeps_its_secret().await;
    }
}

#[tokio::test]
async fn f30_a_death_at_every_write_leads_to_the_same_end() {
    let mut clean = Story::begin(1, true).await;
    clean.turn().await;
    let before = clean.spent.load(Ordering::SeqCst);
    clean.accept().await;
    assert!(clean.comes_to_the_wipe(20).await);
    let writes = clean.spent.load(Ordering::SeqCst) - before;
    assert!(writes >= 6, "{writes} writes");
    for n in 0..writes {
        let mut story = Story::begin(1, true).await;
        story.turn().await;
        story.accept().await;
        story.left.store(n, Ordering::SeqCst);
        for _ in 0..40 {
            story.turn().await;
            if story.left.load(Ordering::SeqCst) == 0 {
                story.restart().await;
            }
        }
        let server = story.server().await;
        assert!(server.spec.bmc.is_some(), "write {n}: {:#?}", server.status);
        assert_eq!(server.status.bmc_setup.unwrap().state, BmcSetupState::Done, "write {n}");
        let known = text(&read_secret(&story.store).await.unwrap(), "pass");
        assert_eq!(known, *story.world.password.lock().unwrap(), "write {n}: who set it up can log in");
    }
}

#[tokio::test]
async fn a_bmc_that_cannot_be_used_is_a_condition_and_the_wipe_goes_on() {
    type Case = (&'static str, bool, Option<(Level, Option<BmcFound>)>, &'static str);
    let cases: [Case; 6] = [
        ("the agent fails", true, Some((Level::Failed, None)), "words"),
        ("an old agent", true, Some((Level::Unsupported, None)), "words"),
        ("no address", true, Some((Level::Done, None)), "does not tell where"),
        ("nonsense", true, Some((Level::Done, Some(found("nowhere; rm -rf")))), "does not tell the BMC's address"),
        ("no way to it", false, Some((Level::Done, Some(found("10.0.0.9")))), "cannot log in: BMC 10.0.0.9: silent"),
        ("it hangs", true, None, "within 5 minutes"),
    ];
    for (case, reachable, ends, why) in cases {
        let mut story = Story::begin(0, reachable).await;
        story.ends = ends;
        story.accept().await;
        let turns = usize::try_from(limits::BMC_SETUP_TIME.as_secs() / 5).unwrap() + 20;
        let mut wiped = false;
        for _ in 0..turns {
            wiped |= story.comes_to_the_wipe(1).await;
        }
        assert!(wiped, "{case}");
        let server = story.server().await;
        assert!(server.spec.bmc.is_none(), "{case}: it goes on as a machine without a BMC");
        let setup = server.status.bmc_setup.as_ref().unwrap();
        let condition = server.status.conditions.iter().find(|c| c.r#type == marks::BMC_SET_UP).unwrap();
        assert_eq!((setup.state, condition.status.as_str()), (BmcSetupState::Failed, "False"), "{case}");
        assert!(condition.message.contains(why), "{case}: {}", condition.message);
        assert!(story.world.logins.load(Ordering::SeqCst) <= 2, "{case}: F21: no lock-out");
    }
}

#[tokio::test]
async fn it_is_left_alone_where_it_is_declared_not_wanted_or_not_proven() {
    let mut story = Story::begin(0, true).await;
    story.on = false;
    story.restart().await;
    story.accept().await;
    assert!(story.comes_to_the_wipe(10).await);
    assert!(story.server().await.status.bmc_setup.is_none() && read_secret(&story.store).await.is_none());

    let mut story = Story::begin(0, true).await;
    let mut server = story.server().await;
    (server.spec.accepted, server.spec.bmc) =
        (true, Some(crate::resource::Bmc { endpoint: "10.0.0.1".into(), ..Default::default() }));
    story.store.replace(server.to_object()).await.unwrap();
    assert!(story.comes_to_the_wipe(10).await);
    assert_eq!(story.server().await.spec.bmc.unwrap().endpoint, "10.0.0.1");
    assert!(read_secret(&story.store).await.is_none());

    // An agent that does not prove its boot is given nothing, least of all a password.
    let story = Story::begin(0, true).await;
    story.accept().await;
    story.life.hello(UUID, &story.hello(), false);
    for _ in 0..5 {
        story.life.reconcile(UUID).await.unwrap();
        assert_eq!(story.life.order(UUID, false).await.id, 0);
    }
    assert!(read_secret(&story.store).await.is_none());
}

#[tokio::test]
async fn the_operators_word_goes_before_what_was_found() {
    let mut story = Story::begin(0, true).await;
    story.ends = None;
    story.accept().await;
    for _ in 0..3 {
        story.turn().await;
    }
    let mut server = story.server().await;
    assert_eq!(server.status.bmc_setup.as_ref().unwrap().state, BmcSetupState::Ordered);
    server.spec.bmc = Some(crate::resource::Bmc { endpoint: "10.0.0.1".into(), ..Default::default() });
    story.store.replace(server.to_object()).await.unwrap();
    story.ends = Some((Level::Done, Some(found("10.0.0.9"))));
    assert!(story.comes_to_the_wipe(10).await);
    assert_eq!(story.server().await.spec.bmc.unwrap().endpoint, "10.0.0.1");
}

#[tokio::test]
async fn another_try_is_made_when_it_is_asked_for() {
    let mut story = Story::begin(0, true).await;
    story.ends = Some((Level::Failed, None));
    story.accept().await;
    assert!(story.comes_to_the_wipe(10).await);
    story.ends = Some((Level::Done, Some(found("10.0.0.9"))));
    let mut server = story.server().await;
    server.metadata.annotations.insert(marks::RETRY.into(), "now".into());
    story.store.replace(server.to_object()).await.unwrap();
    for _ in 0..10 {
        story.turn().await;
    }
    assert!(story.server().await.spec.bmc.is_some());
}
