//! One machine, its BMC, a running stoker, and the operator.

use control::rack::bmc::{Action, Bmc};
use control::rack::network::{FIRST_BMC, POOL};
use control::rack::{Disk, Firmware, First, Images, Network, Powered, Spec};
use control::resource::{Object, Phase, Server, Typed as _};
use protocol::ipmi::Suite;
use protocol::report::ImageFormat;
use sha2::{Digest as _, Sha512};
use std::net::SocketAddrV4;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use stoker_tests::os::TestOs;
use stoker_tests::stage::{Stage, program};
use stoker_tests::ways;

/// No step takes so long, on a host that is not many times overloaded.
pub const LIMIT: Duration = Duration::from_secs(900);
/// What stands on the disk before stoker has it.
const MARKER: &[u8] = b"somebody's secret data";
/// Where it stands: at both ends and in between.
const PLACES: [u64; 4] = [0, 1 << 20, 77 << 20, DISK - 512];
const DISK: u64 = 128 << 20;
/// The BMC's user and password.
const LOGIN: (&str, &str) = ("admin", "a-BMC-s3cret");
/// The configuration that the machine is to get.
pub const CONFIG: &str = "hostname: node-1\nsecret: for this machine alone\n";

/// What a case is made of.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub firmware: Firmware,
    /// Without one the machine can only be switched by hand.
    pub bmc: bool,
    /// Requests that its disk does in a second; none: as fast as it can.
    pub iops: Option<u32>,
    /// Arguments of the installer beside its usual ones.
    pub args: &'static str,
}

impl Case {
    pub const fn new(name: &'static str, firmware: Firmware) -> Self {
        Self { name, firmware, bmc: true, iops: None, args: "" }
    }
}

pub struct World {
    pub bmc: Option<Bmc>,
    pub machine: Powered,
    pub stage: Stage,
    network: Network,
    case: Case,
    os: TestOs,
    /// When control was killed.
    killed: Vec<Instant>,
    /// Where the configuration is: control reads it whenever it starts.
    _folder: tempfile::TempDir,
}

impl World {
    /// Everything is there, the machine is off, and its disk is full of somebody's data.
    pub fn new(case: Case) -> Self {
        let images = Images::new(ways::bundle().as_deref());
        let accel = ways::accel(&images);
        let os = TestOs::build().unwrap();
        let network = Network::create().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("stoker.yaml");
        std::fs::write(&config, configuration()).unwrap();
        let config = config.to_str().unwrap().to_owned();
        let mut stage = Stage::start(Some(&network), &["--interface", "br0", "--config", &config]);
        stage.ready();

        let first = if case.bmc { First::Disk } else { First::Network };
        let disks = vec![Disk::Virtio(DISK)];
        let spec = Spec { memory_mib: 640, disks, first, iops: case.iops, ..Spec::new(case.name, case.firmware) };
        let machines = stage.state.with_file_name("machines");
        let machine = Powered::new(spec, &network, &images, accel, &machines);
        let bmc = case.bmc.then(|| {
            let socket = network.udp_socket(SocketAddrV4::new(FIRST_BMC, control::power::IPMI_PORT)).unwrap();
            let mut bmc = Bmc::new(LOGIN.0, LOGIN.1, machine.switchboard());
            bmc.serve_ipmi(socket, &[Suite::S3, Suite::S17], 4).unwrap();
            bmc
        });
        let world = Self { bmc, machine, stage, network, case, os, killed: Vec::new(), _folder: folder };
        world.mark_disk();
        world
    }

    /// Ends everything; nothing must be left.
    pub fn end(mut self) {
        drop(self.bmc.take());
        self.machine.stop();
        self.stage.stop();
    }

    // --- the machine ------------------------------------------------------------

    /// The name of its Server.
    pub fn name(&self) -> String {
        self.machine.spec().uuid().to_string()
    }

    fn disk(&self) -> PathBuf {
        self.machine.folder().join("disk0.raw")
    }

    fn mark_disk(&self) {
        std::fs::create_dir_all(self.machine.folder()).unwrap();
        let file = std::fs::File::create(self.disk()).unwrap();
        file.set_len(DISK).unwrap();
        PLACES.iter().for_each(|&at| file.write_all_at(MARKER, at).unwrap());
    }

    /// Whether the marker stands at all places.
    pub fn is_marked(&self) -> bool {
        let file = std::fs::File::open(self.disk()).unwrap();
        let mut found = [0; MARKER.len()];
        PLACES.iter().all(|&at| file.read_exact_at(&mut found, at).is_ok() && found == *MARKER)
    }

    /// The first place of the disk that does not read zero.
    pub fn not_zero(&self) -> Option<u64> {
        const CHUNK: usize = 1 << 20;
        let file = std::fs::File::open(self.disk()).unwrap();
        let (zeroes, mut chunk) = (vec![0; CHUNK], vec![0; CHUNK]);
        (0..DISK).step_by(CHUNK).find(|&at| {
            file.read_exact_at(&mut chunk, at).unwrap();
            chunk != zeroes
        })
    }

    /// How often a text stands on the console, over all starts.
    pub fn console(&self, text: &str) -> usize {
        let bytes = std::fs::read(self.machine.folder().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).matches(text).count()
    }

    /// Waits for a text to have stood so often on the console.
    pub fn until_console(&mut self, text: &str, times: usize) {
        let path = self.machine.folder().join("console.log");
        self.stage.until(&format!("{text:?} ({times} times) on the console"), LIMIT, |_| {
            let bytes = std::fs::read(&path).unwrap_or_default();
            (String::from_utf8_lossy(&bytes).matches(text).count() >= times).then_some(())
        });
    }

    pub fn until_on(&mut self, on: bool) {
        let machine = &self.machine;
        self.stage.until(&format!("machine on: {on}"), LIMIT, |_| (machine.is_on() == on).then_some(()));
    }

    /// The button at its front, pressed by a human.
    pub fn by_hand(&self, action: Action) {
        self.machine.power(action);
    }

    // --- the operator -----------------------------------------------------------

    /// Runs `stoker` with these arguments, which must succeed.
    pub fn stoker(&self, args: &[&str]) -> String {
        let mut command = self.network.command(program("stoker"), "KILL");
        command.args(args).env("STOKER_STATE", &self.stage.state).env("STOKER_BMC_PASSWORD", LOGIN.1);
        let out = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "stoker {args:?}: {}\n{text}", out.status);
        text
    }

    /// `stoker power` at the machine's BMC.
    pub fn power(&self, words: &[&str]) {
        let bmc = FIRST_BMC.to_string();
        let legacy = matches!(words.first(), Some(&"pxe" | &"disk")) && !self.case.firmware.is_uefi();
        let bios: &[&str] = if legacy { &["--bios"] } else { &[] };
        let login: &[&str] = &["power", "--bmc", &bmc, "--user", LOGIN.0];
        self.stoker(&[login, words, bios].concat());
    }

    /// Declares objects, as a file of YAML.
    pub fn apply(&self, yaml: &str) {
        let file = self.stage.state.with_file_name("objects.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.stoker(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// What the operator says of the BMC.
    pub fn declare_bmc(&self) {
        use base64::Engine as _;
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        self.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bmc, namespace: default}}\n\
             data: {{user: {}, pass: {}}}\n---\n\
             apiVersion: metal.sidero.dev/v1alpha2\nkind: Server\nmetadata: {{name: {}}}\nspec:\n  bmc:\n    \
             endpoint: {FIRST_BMC}\n    \
             userFrom: {{secretKeyRef: {{namespace: default, name: bmc, key: user}}}}\n    \
             passFrom: {{secretKeyRef: {{namespace: default, name: bmc, key: pass}}}}\n",
            base64(LOGIN.0),
            base64(LOGIN.1),
            self.name()
        ));
    }

    /// What machines are installed from, and which may be.
    pub fn declare_class(&self) {
        let words: Vec<_> = TestOs::INSTALLER_ARGS.into_iter().chain(self.case.args.split_whitespace()).collect();
        self.apply(&format!(
            "apiVersion: metal.sidero.dev/v1alpha2\nkind: Environment\nmetadata: {{name: test-os}}\nspec:\n  \
             kernel: {{url: \"file://{}\", args: [{}]}}\n  initrd: {{url: \"file://{}\"}}\n  \
             installedWhen: Reported\n---\n\
             apiVersion: metal.sidero.dev/v1alpha2\nkind: ServerClass\nmetadata: {{name: any}}\n\
             spec: {{environmentRef: {{name: test-os}}, qualifiers: {{requirements: [\"memory >= 512Mi\"]}}}}\n",
            self.os.kernel().canonicalize().unwrap().display(),
            words.join(", "),
            self.os.installer().canonicalize().unwrap().display(),
        ));
    }

    /// The same with a disk image, which the agent writes.
    pub fn declare_image_class(&self) {
        let image = self.os.packed(ImageFormat::Zst).unwrap().canonicalize().unwrap();
        let digest: String =
            Sha512::digest(std::fs::read(&image).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        self.apply(&format!(
            "apiVersion: metal.sidero.dev/v1alpha2\nkind: Environment\nmetadata: {{name: test-image}}\nspec:\n  \
             image: {{url: \"file://{}\", sha512: {digest}, grow: true, dataSource: no-cloud}}\n---\n\
             apiVersion: metal.sidero.dev/v1alpha2\nkind: ServerClass\nmetadata: {{name: any}}\n\
             spec: {{environmentRef: {{name: test-image}}}}\n",
            image.display()
        ));
    }

    pub fn allocate(&self) {
        let file = self.stage.state.with_file_name("node-1.yaml");
        std::fs::write(&file, CONFIG).unwrap();
        self.stoker(&["allocate", "--class", "any", "--name", "node-1", "--config", file.to_str().unwrap()]);
    }

    // --- what stoker says of the machine ----------------------------------------

    /// Its Server.
    pub fn server(&self) -> Option<Server> {
        server(&self.stage, &self.name())
    }

    /// Waits until something is so.
    pub fn until<T>(&mut self, what: &str, mut check: impl FnMut(&Server) -> Option<T>) -> T {
        let name = self.name();
        let mut last = String::new();
        self.stage.until(what, LIMIT, |stage| {
            let server = server(stage, &name)?;
            let s = &server.status;
            let now = format!("{:?} {}: {}", s.phase, s.reason, s.message);
            if now != last {
                println!("  {now}");
                last = now;
            }
            assert!(s.phase != Some(Phase::Quarantined), "{}: {}", s.reason, s.message);
            check(&server)
        })
    }

    /// Waits for a phase.
    pub fn phase(&mut self, phase: Phase) -> Server {
        self.until(&format!("phase {phase}"), |s| (s.status.phase == Some(phase)).then(|| s.clone()))
    }

    /// Kills control without a warning; it is started again by `stoker up`.
    pub fn kill_control(&mut self) {
        // `stoker up` gives a service up that ends five times within a minute.
        while self.killed.iter().filter(|at| at.elapsed() < Duration::from_secs(65)).count() >= 4 {
            std::thread::sleep(Duration::from_millis(200));
        }
        self.killed.push(Instant::now());
        let before = self.stage.ready().pid;
        kill(before);
        let after = self.stage.until("control again", LIMIT, |stage| {
            let status: control::api::types::Status = stage.get("/api/v1/status")?;
            (status.pid != before).then_some(status.pid)
        });
        println!("  control {before} was killed, {after} goes on");
    }

    /// Kills the edge without a warning; it is started again by `stoker up`.
    pub fn kill_edge(&mut self) {
        let before = self.stage.ready().edge.unwrap().pid;
        kill(before);
        self.stage.until("edge again", LIMIT, |stage| {
            let status: control::api::types::Status = stage.get("/api/v1/status")?;
            status.edge.filter(|e| e.pid != before && e.alive).map(|_| ())
        });
        println!("  edge {before} was killed");
    }

    /// Waits for a word in the story of its boots.
    pub fn until_log(&mut self, word: &str) {
        let path = format!("/api/v1/boots/{}", self.machine.spec().mac());
        self.stage.until(&format!("{word} in the boot log"), LIMIT, |stage| {
            let story: control::api::types::MachineStory = stage.get(&path)?;
            story.boots.iter().flat_map(|b| &b.steps).any(|s| s.title.contains(word)).then_some(())
        });
    }

    /// `stoker boot log`, all boots.
    pub fn log(&self) -> String {
        self.stoker(&["boot", "log", &self.machine.spec().mac().to_string(), "--all"])
    }
}

fn server(stage: &Stage, name: &str) -> Option<Server> {
    let object: Object = stage.get(&format!("/api/v1/objects/server/{name}"))?;
    Some(Server::from_object(&object).unwrap())
}

/// One process of the stage's own.
fn kill(pid: u32) {
    let done = Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

fn configuration() -> String {
    let (first, last) = POOL;
    format!(
        "agent: {{poll_seconds: 1}}\n\
         dhcp:\n  mode: server\n  router_advertisements: true\n  server:\n    authoritative: true\n    probe_ms: 0\n    \
         subnets:\n      - network: 10.77.0.0/24\n        pools: [{first}-{last}]\n"
    )
}
