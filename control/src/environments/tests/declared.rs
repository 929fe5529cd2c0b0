//! Environment objects: from `apply` to Ready, and what becomes of the version before.

use super::*;
use crate::objects::{Objects as _, Preconditions};
use crate::resource::{AssetCondition, Environment, Kind, Object, Typed as _};
use sha2::Sha512;

pub(super) struct World {
    /// Files at their source, and the store.
    dir: tempfile::TempDir,
    /// The state directory.
    state: std::path::PathBuf,
    store: Arc<Store>,
    objects: Embedded,
    running: Running,
}

/// Control's part, with this in the configuration file.
async fn world(configured: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    World::of(dir, &state, configured).await
}

async fn begin(dir: &Path, configured: &str, store: &Arc<Store>, objects: &Embedded) -> Running {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::fs::write(dir.join("stoker.yaml"), format!("interface: lo\naddress: 127.0.0.1\n{configured}")).unwrap();
    let settings = crate::config::load(Some(&dir.join("stoker.yaml")), &Overrides::default()).unwrap();
    let publisher = Arc::new(Publisher::open(dir).unwrap());
    let environments = Arc::new(Environments::new(&settings, publisher.clone(), store.clone()));
    environments.read(objects).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(environments.clone().run(objects.clone(), stop.clone()));
    Running { environments, publisher, stop, task }
}

impl World {
    /// One whose state lies there.
    pub async fn on(state: &Path, configured: &str) -> Self {
        Self::of(tempfile::tempdir().unwrap(), state, configured).await
    }

    async fn of(dir: tempfile::TempDir, state: &Path, configured: &str) -> Self {
        let store = Arc::new(Store::open(&dir.path().join("s.redb")).unwrap());
        let objects = Embedded::open(store.clone()).await.unwrap();
        let running = begin(state, configured, &store, &objects).await;
        Self { dir, state: state.to_owned(), store, objects, running }
    }

    pub async fn end(self) {
        self.running.end().await;
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        format!("file://{}", path.display())
    }

    pub async fn apply(&self, name: &str, spec: serde_json::Value) {
        let document = serde_json::json!({
            "apiVersion": "metal.sidero.dev/v1alpha2", "kind": "Environment", "metadata": {"name": name}, "spec": spec,
        });
        let object = Object::read(document).unwrap();
        match self.objects.get(Kind::Environment, "", name).await {
            Ok(old) => self.objects.replace(Object { spec: object.spec, ..old }).await.unwrap(),
            Err(_) => self.objects.create(object).await.unwrap(),
        };
    }

    async fn conditions(&self, name: &str) -> Vec<AssetCondition> {
        let object = self.objects.get(Kind::Environment, "", name).await.unwrap();
        let generation = object.metadata.generation;
        let conditions = Environment::from_object(&object).unwrap().status.conditions;
        // What was said of an older spec says nothing of this one.
        conditions.into_iter().filter(|c| c.observed_generation == generation).collect()
    }

    pub async fn until(&self, name: &str, fits: impl Fn(&[AssetCondition]) -> bool) -> Vec<AssetCondition> {
        for _ in 0..3000 {
            let now = self.conditions(name).await;
            if fits(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} never fitted: {:#?}", self.conditions(name).await);
    }

    pub async fn until_ready(&self, name: &str) -> Vec<AssetCondition> {
        self.until(name, |all| !all.is_empty() && all.iter().all(|c| c.status == "True")).await
    }

    pub fn served(&self, name: &str) -> Option<ObjectId> {
        let manifest = Manifest::parse(&std::fs::read(self.state.join("publish/manifest.json")).ok()?).ok()?;
        manifest.entries.get(name).map(|e| e.object)
    }

    async fn restart(self, configured: &str) -> Self {
        let Self { dir, state, store, objects, running } = self;
        running.end().await;
        let running = begin(&state, configured, &store, &objects).await;
        Self { dir, state, store, objects, running }
    }
}

fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn an_object_is_fetched_published_by_sideros_names_and_its_status_tells() {
    let w = world("").await;
    let (kernel, initrd) = (serve(body(), Mood::CutAt(1000)), serve(b"initrd", Mood::Good));
    let url = |server: &Server| format!("http://{}/file", server.address);
    w.apply(
        "talos",
        serde_json::json!({
            "kernel": {"url": url(&kernel), "sha512": sha512(body()).to_uppercase(), "args": ["console=tty0", "talos.platform=metal"]},
            "initrd": {"url": url(&initrd), "sha512": sha512(b"initrd")},
        }),
    )
    .await;
    let conditions = w.until_ready("talos").await;
    let said: Vec<_> = conditions.iter().map(|c| (c.r#type.as_str(), c.url.clone(), c.sha512.clone())).collect();
    assert_eq!(said, [("Ready", url(&kernel), sha512(body())), ("Ready", url(&initrd), sha512(b"initrd"))]);
    assert!(conditions[0].message.contains("300000 bytes"), "{conditions:?}");
    assert_eq!(w.served("env/talos/vmlinuz"), Some(ObjectId::of(body())));
    assert_eq!(w.served("env/talos/initramfs.xz"), Some(ObjectId::of(b"initrd")));
    let Readiness::Ready(files) = w.running.environments.files("talos", Arch::Arm64) else { panic!("not ready") };
    assert_eq!(files.args, ["console=tty0", "talos.platform=metal"], "Sidero's form is for every architecture");
    assert_eq!(w.running.environments.known("talos"), Known::Ready);

    w.objects.delete(Kind::Environment, "", "talos", Preconditions::default()).await.unwrap();
    for _ in 0..3000 {
        if w.served("env/talos/vmlinuz").is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(w.served("env/talos/vmlinuz"), None, "what is not declared any more is not served");
    assert_eq!(w.running.environments.known("talos"), Known::No);
    w.running.end().await;
}

#[tokio::test]
async fn f16_a_wrong_digest_is_a_condition_and_nothing_is_served() {
    let w = world("").await;
    let (k, i) = (w.file("k", b"kernel"), w.file("i", b"initrd"));
    let spec = |digest: String| serde_json::json!({"kernel": {"url": k, "sha512": digest}, "initrd": {"url": i}});
    w.apply("e", spec("0".repeat(128))).await;
    let conditions = w.until("e", |all| all.first().is_some_and(|c| c.reason == "Failed")).await;
    assert_eq!(
        (conditions[0].status.as_str(), conditions[0].url.as_str()),
        ("False", k.as_str()),
        "first what is wrong"
    );
    assert!(conditions[0].message.contains(&sha512(b"kernel")), "it says what the file is: {conditions:?}");
    assert_eq!((w.served("env/e/vmlinuz"), w.served("env/e/initramfs.xz")), (None, None), "half a set is not served");
    let Readiness::NotReady(why) = w.running.environments.files("e", Arch::X86_64) else { panic!("ready") };
    assert!(why.contains("not the one that was asked for"), "{why}");

    w.apply("e", spec(sha512(b"kernel"))).await;
    w.until_ready("e").await;
    assert_eq!(w.served("env/e/vmlinuz"), Some(ObjectId::of(b"kernel")));
    w.running.end().await;
}

#[tokio::test]
async fn f16_a_version_stays_served_whole_until_the_next_one_is_whole_over_a_restart_too() {
    let w = world("").await;
    let spec =
        |k: &str, i: &str, arg: &str| serde_json::json!({"kernel": {"url": k, "args": [arg]}, "initrd": {"url": i}});
    let (k1, i1) = (w.file("k1", b"kernel one"), w.file("i1", b"initrd one"));
    w.apply("e", spec(&k1, &i1, "v=1")).await;
    w.until_ready("e").await;
    let (k2, absent) = (w.file("k2", b"kernel two"), format!("file://{}/i2", w.dir.path().display()));
    w.apply("e", spec(&k2, &absent, "v=2")).await;
    let half =
        |all: &[AssetCondition]| all.iter().any(|c| c.reason == "Failed") && all.iter().any(|c| c.status == "True");
    let conditions = w.until("e", half).await;
    assert!(conditions[0].message.contains("the version before stays served"), "{conditions:?}");
    let old = |w: &World| {
        assert_eq!(w.served("env/e/vmlinuz"), Some(ObjectId::of(b"kernel one")));
        assert_eq!(w.served("env/e/x86_64/initramfs.xz"), Some(ObjectId::of(b"initrd one")));
        let Readiness::Ready(files) = w.running.environments.files("e", Arch::X86_64) else { panic!("not served") };
        assert_eq!(files.args, ["v=1"], "the arguments of the version that is served");
    };
    old(&w);
    let status = &w.running.environments.list(&[]).environments[0];
    assert!(!status.ready && status.notes[0].contains("stays served"), "{status:?}");

    let w = w.restart("").await;
    // From the first moment on: whoever was loading goes on.
    assert!(w.served("env/e/vmlinuz").is_some() && w.served("env/e/initramfs.xz").is_some());
    for _ in 0..3000 {
        if !matches!(w.running.environments.files("e", Arch::X86_64), Readiness::NotReady(_)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    old(&w);
    w.file("i2", b"initrd two");
    w.running.environments.refetch("e");
    w.until_ready("e").await;
    assert_eq!(w.served("env/e/vmlinuz"), Some(ObjectId::of(b"kernel two")));
    assert_eq!(w.served("env/e/initramfs.xz"), Some(ObjectId::of(b"initrd two")));
    w.running.end().await;
}

#[tokio::test]
async fn an_object_takes_the_place_of_the_configured_one_while_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("k"), "configured").unwrap();
    let k = format!("file://{}/k", dir.path().display());
    let w = world(&format!("environments:\n  both: {{kernel: '{k}', initrd: '{k}'}}\n")).await;
    let wait = async |bytes: &[u8]| {
        for _ in 0..3000 {
            if w.served("env/both/vmlinuz") == Some(ObjectId::of(bytes)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never served: {:?}", w.running.environments.list(&[]));
    };
    wait(b"configured").await;
    let own = w.file("own", b"declared");
    w.apply("both", serde_json::json!({"kernel": {"url": own}, "initrd": {"url": own}})).await;
    wait(b"declared").await;
    let list = w.running.environments.list(&[]).environments;
    assert_eq!((list.len(), list[0].source.as_str()), (1, "object"));
    assert!(list[0].notes[0].contains("takes the place"), "{list:?}");
    w.objects.delete(Kind::Environment, "", "both", Preconditions::default()).await.unwrap();
    wait(b"configured").await;
    w.running.end().await;
}

#[tokio::test]
async fn variants_images_and_what_is_incomplete() {
    let w = world("").await;
    let (k, d) = (w.file("k64", b"arm kernel"), w.file("disk.raw.zst", b"an image"));
    w.apply("arm", serde_json::json!({"arm64": {"kernel": {"url": k}, "initrd": {"url": k}}})).await;
    w.until_ready("arm").await;
    assert_eq!(w.served("env/arm/arm64/vmlinuz"), Some(ObjectId::of(b"arm kernel")));
    assert_eq!(w.running.environments.files("arm", Arch::X86_64), Readiness::NoArch(vec![Arch::Arm64]));

    w.apply("disk", serde_json::json!({"image": {"url": d, "sha512": sha512(b"an image")}})).await;
    w.until_ready("disk").await;
    assert_eq!(w.served("env/disk/x86_64/disk.img.zst"), Some(ObjectId::of(b"an image")));
    assert!(
        matches!(w.running.environments.files("disk", Arch::X86_64), Readiness::NotReady(why) if why.contains("disk image"))
    );

    w.apply("half", serde_json::json!({"kernel": {"url": k}})).await;
    let conditions = w.until("half", |all| all.len() == 2).await;
    assert_eq!(
        (conditions[0].reason.as_str(), conditions[0].message.as_str()),
        ("Incomplete", "initrd.url is missing (x86_64)")
    );
    assert!(matches!(w.running.environments.known("half"), Known::NotReady(why) if why.contains("names no initrd")));
    let just = w.objects.get(Kind::Environment, "", "arm").await.unwrap();
    let mut newer = just.clone();
    newer.metadata.generation += 1;
    let list = w.running.environments.list(&[newer]).environments;
    assert!(!list[0].ready && list[0].notes[0].contains("just been applied"), "{:?}", list[0]);
    assert!(w.running.environments.list(&[just]).environments[0].ready);
    w.running.end().await;
}

#[test]
fn who_has_a_place_keeps_it_and_the_rest_wait() {
    let w: Object = serde_json::from_value(serde_json::json!({
        "apiVersion": "metal.sidero.dev/v1alpha2", "kind": "Environment", "metadata": {"name": "z"}, "spec": {},
    }))
    .unwrap();
    let named = |name: String| {
        let mut object = w.clone();
        object.metadata.name = name;
        object
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("stoker.yaml"), "interface: lo\naddress: 127.0.0.1\n").unwrap();
    let settings = crate::config::load(Some(&dir.path().join("stoker.yaml")), &Overrides::default()).unwrap();
    let publisher = Arc::new(Publisher::open(dir.path()).unwrap());
    let store = Arc::new(Store::open(&dir.path().join("s.redb")).unwrap());
    let all = Environments::new(&settings, publisher, store);
    use crate::objects::follow::News;
    for i in 0..crate::limits::ENVIRONMENTS {
        all.hear(News::Applied(named(format!("n{i:04}"))));
    }
    all.hear(News::Applied(named("a".into())));
    assert!(
        matches!(all.known("a"), Known::NotReady(why) if why.contains("more than")),
        "the last to come is left out"
    );
    assert!(matches!(all.known("n0000"), Known::NotReady(why) if why.contains("names no")));
    all.hear(News::Deleted(named("n0005".into())));
    assert!(matches!(all.known("a"), Known::NotReady(why) if why.contains("names no")), "and gets the next free place");
}
