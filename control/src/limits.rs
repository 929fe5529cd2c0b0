//! Every bound of control. Full means a counted refusal, never growth.

use std::time::Duration;

// --- configuration ---------------------------------------------------------

/// The largest configuration file, bytes.
pub const CONFIG_BYTES: usize = 1 << 20;
/// The most environments in the configuration file, and the most that are declared.
pub const ENVIRONMENTS: usize = 256;
/// The most rules for single machines.
pub const MACHINE_RULES: usize = 20_000;
/// The longest URL of an asset, bytes.
pub const URL_BYTES: usize = 2048;
/// All kernel arguments of one environment or rule, bytes. Linux on x86 takes
/// 2048 in all (COMMAND_LINE_SIZE); ours need some of that.
pub const ARGS_BYTES: usize = 1536;

// --- HTTP of nodes and operators -------------------------------------------

/// Connections of nodes at one time: a rack row that asks for its scripts at once.
pub const HTTP_CONNECTIONS: usize = 4096;
/// Connections of operators at one time.
pub const API_CONNECTIONS: usize = 64;
/// The whole head of a request must be there after this time.
pub const HTTP_HEADER_TIME: Duration = Duration::from_secs(5);
/// The head of a request, bytes.
pub const HTTP_HEAD_BYTES: usize = 16 << 10;
/// Header lines of a request.
pub const HTTP_HEADERS: usize = 48;
/// A body must be there after this time.
pub const HTTP_BODY_TIME: Duration = Duration::from_secs(15);
/// Time that running requests get when the process is told to end.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of descriptors), so that it does not spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bodies of operators' requests, bytes.
pub const API_BODY_BYTES: usize = 2 << 20;
/// An import of objects, bytes: 20 000 Servers with their hardware.
pub const IMPORT_BYTES: usize = 512 << 20;
/// A text from the network as it is kept or logged, bytes.
pub const NETWORK_TEXT: usize = 200;
/// Steps that a script template may take (minijinja's fuel).
pub const TEMPLATE_FUEL: u64 = 20_000;
/// The longest script, bytes.
pub const SCRIPT_BYTES: usize = 16 << 10;

/// Tokens that are remembered, of all machines.
pub const TOKENS: usize = 4 * MACHINES;
/// Tokens that are remembered of one machine and purpose: iPXE may ask for a
/// script again whose answer was lost on the way.
pub const TOKENS_PER_MACHINE: usize = 4;
/// How long a token opens a configuration, milliseconds. Talos asks for 3 hours.
pub const TOKEN_INSTALL_MS: u64 = 210 * 60 * 1000;
/// A claim without a ServerBinding ends after this time: whoever wrote it has died in between.
pub const CLAIM_AGE: Duration = Duration::from_secs(60);
/// Machines that one allocation tries before it gives up: each was free when it was chosen.
pub const CLAIM_TRIES: usize = 16;
/// Changes of ServerClass statuses are gathered for so long before they are written.
pub const CLASS_STATUS_PAUSE: Duration = Duration::from_millis(200);
/// How often left-over claims and configurations are looked for.
pub const ALLOCATION_SWEEP: Duration = Duration::from_secs(30);
const _: () = assert!(TOKENS >= 2 * MACHINES, "every machine has a token for its agent and one for its installer");

// --- the life of a machine -------------------------------------------------

/// From a network boot by its BMC to the agent's first words: long self-tests of big servers included.
pub const BOOT_TIME: Duration = Duration::from_secs(20 * 60);
/// A wipe whose counter stands still for so long has died with its machine (F26).
pub const WIPE_STALL: Duration = Duration::from_secs(20 * 60);
/// From the installer's start to the report that it is done.
pub const INSTALL_TIME: Duration = Duration::from_secs(60 * 60);
/// From "installed" to the system's first report.
pub const RUN_TIME: Duration = Duration::from_secs(30 * 60);
/// A machine that was sent to its disk and is not back after this time runs from there.
pub const DISK_GRACE: Duration = Duration::from_secs(5 * 60);
/// A BMC is not told to cycle a machine again before this time (F23).
pub const EFFECT_REST: Duration = Duration::from_secs(60);
/// Tries of one step before a human is asked.
pub const ATTEMPTS: u32 = 5;
/// The first pause between tries; doubled each time.
pub const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause between tries.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
/// An agent that has not asked for so long is not there.
pub const AGENT_SILENCE: Duration = Duration::from_secs(60);
/// How often the power state of a machine is read that is being switched off.
pub const POWER_POLL: Duration = Duration::from_secs(10);
/// How often the power state of a machine is read that has fallen silent in the middle of something.
pub const POWER_CHECK: Duration = Duration::from_secs(30);
/// How often the progress of an order is written down while nothing else changes.
pub const PROGRESS_WRITE: Duration = Duration::from_secs(30);
/// BMCs that answer and are talked to at one time, over the whole site.
pub const BMCS_AT_ONCE: usize = 64;
/// BMCs beside those that have not answered last time, or take long. Each costs a socket and a deadline.
pub const BMCS_SLOW: usize = 256;
/// A conversation that takes longer makes room for others.
pub const BMC_QUICK: Duration = Duration::from_millis(500);
/// Callers that may wait for the turn of one BMC.
pub const BMC_WAITING: usize = 16;
/// Times in a row that a BMC may fail to answer before it is left alone for a while.
pub const BMC_FAILURES: u32 = 3;
/// The first such while; doubled each time, with jitter.
pub const BMC_PAUSE: Duration = Duration::from_secs(30);
/// The longest.
pub const BMC_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Sessions that are kept open for the next turn, of all BMCs: one descriptor each.
pub const BMC_SESSIONS: usize = 512;
/// A session that is not used for so long is given back. BMCs end it themselves after 60 s (IPMI 2.0, 6.12.15).
pub const BMC_IDLE: Duration = Duration::from_secs(30);
/// A session that was used within this time is used again without asking whether it is still there.
pub const BMC_FRESH: Duration = Duration::from_secs(5);
/// That question must be answered within this time.
pub const BMC_PING: Duration = Duration::from_secs(2);
/// To log in, all steps together.
pub const BMC_LOGIN_TIME: Duration = Duration::from_secs(25);
/// The first pause before a BMC without a free session is asked again; doubled twice.
pub const BMC_NO_SESSION_PAUSE: Duration = Duration::from_secs(2);
/// All sessions are given back within this time when control ends.
pub const BMC_CLOSE_TIME: Duration = Duration::from_secs(2);
/// To connect to an HTTP BMC.
pub const BMC_CONNECT: Duration = Duration::from_secs(5);
/// A whole HTTP request to a BMC.
pub const BMC_REQUEST: Duration = Duration::from_secs(20);
/// An answer of an HTTP BMC, bytes.
pub const BMC_ANSWER_BYTES: usize = 4 << 20;
/// Pages of a log that are read.
pub const BMC_PAGES: usize = 64;
/// Entries of a log that are read.
pub const BMC_EVENTS: usize = 4096;
/// Sensors that are read.
pub const BMC_SENSORS: usize = 512;
/// Logins that a BMC may refuse to the same credentials within [`BMC_LOGIN_WINDOW`]; then it is left alone
/// (F21: many lock a user out after five).
pub const BMC_LOGINS: usize = 3;
/// The same, whatever the credentials.
pub const BMC_LOGINS_ALL: usize = 9;
/// See [`BMC_LOGINS`].
pub const BMC_LOGIN_WINDOW: Duration = Duration::from_secs(600);
/// No turn on a BMC may take longer; waiting for the turn, as long again.
pub const EFFECT_TIME: Duration = Duration::from_secs(120);
/// An agent that sets its BMC up is given so long: 63 users are asked for by a slow interface.
pub const BMC_SETUP_TIME: Duration = Duration::from_secs(5 * 60);
/// Tries of the first login to a BMC that was set up: some need a moment before they know the user.
pub const BMC_SETUP_LOGINS: u16 = 2;
/// The pause between them.
pub const BMC_SETUP_PAUSE: Duration = Duration::from_secs(10);
/// Changes of one Server's status in one go.
pub const RECONCILE_ROUNDS: u32 = 16;
/// A failed reconciliation is repeated after this time.
pub const RECONCILE_PAUSE: Duration = Duration::from_secs(2);
/// Wipe confirmations within a minute, of all machines, where the configuration does not say otherwise: beyond
/// it an operator has probably erred (W12).
pub const WIPES_PER_MINUTE: usize = 64;
/// How often it is written onto a Server that somebody was refused its configuration.
pub const REFUSAL_REST: Duration = Duration::from_secs(60);
/// A free machine that should be off by its own hand is switched off by its BMC after this time.
pub const POWER_OFF_TIME: Duration = Duration::from_secs(60);

const _: () = assert!((BMC_SETUP_LOGINS as usize) < BMC_LOGINS, "a set-up must not lock its own user out");

// --- assets ----------------------------------------------------------------

/// The largest asset, bytes.
pub const ASSET_BYTES: u64 = 16 << 30;
/// Tries at one fetch before the long pause.
pub const FETCH_TRIES: u32 = 5;
/// The first pause between tries; doubled each time, with jitter.
pub const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between tries of one fetch.
pub const FETCH_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The pause after all tries failed; doubled each time.
pub const FETCH_REST: Duration = Duration::from_secs(300);
/// The longest pause after all tries failed.
pub const FETCH_REST_MAX: Duration = Duration::from_secs(3600);
/// Changes of Environments' statuses are gathered for so long before they are written.
pub const ASSET_STATUS_PAUSE: Duration = Duration::from_millis(100);
/// A server that sends nothing for so long is given up.
pub const FETCH_SILENCE: Duration = Duration::from_secs(30);
/// Time to connect.
pub const FETCH_CONNECT: Duration = Duration::from_secs(10);
/// Assets fetched at one time.
pub const FETCHES: usize = 4;
/// Redirects that are followed.
pub const FETCH_REDIRECTS: usize = 5;
/// The largest `bundle.json`, bytes.
pub const BUNDLE_INDEX_BYTES: u64 = 4 << 20;

// --- publishing ------------------------------------------------------------

/// How long an object stays that no manifest names: longer than the longest
/// transfer, and than an operator needs to undo a change.
pub const OBJECT_AGE: Duration = Duration::from_secs(24 * 3600);
/// How often unnamed objects are looked for.
pub const OBJECT_SWEEP: Duration = Duration::from_secs(3600);
/// How often `edge.state` is looked at while somebody waits for it.
pub const EDGE_STATE_POLL: Duration = Duration::from_millis(50);
/// How long a machine's script waits for the edge to serve what it names; firmware and iPXE wait longer.
pub const SCRIPT_EDGE_WAIT: Duration = Duration::from_secs(2);
/// How often `edge.state` is looked at for the status.
pub const EDGE_STATE_LOOK: Duration = Duration::from_secs(2);

// --- store -----------------------------------------------------------------

/// Writes that may wait for the writer thread.
pub const STORE_QUEUE: usize = 1024;
/// The first pause before objects are listed again that could not be followed; doubled each time.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
pub const FOLLOW_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Changes of objects that may wait for a follower.
pub const FOLLOW_QUEUE: usize = 1024;
/// Writes that share one commit.
pub const STORE_GROUP: usize = 128;
/// Machines whose facts are kept.
pub const MACHINES: usize = 20_000;

/// How long the way to a Kubernetes API server may take.
pub const CLUSTER_CONNECT: Duration = Duration::from_secs(5);
/// How long one answer of it may take.
pub const CLUSTER_REQUEST: Duration = Duration::from_secs(20);
/// Objects in one page of a list.
pub const CLUSTER_PAGE: u32 = 500;
/// Tries of a write that is to win whatever was written meanwhile.
pub const CLUSTER_UNCONDITIONAL: usize = 8;
/// A watch is asked for again after so many seconds; kube refuses 295 and more.
pub const CLUSTER_WATCH_SECONDS: u32 = 290;
/// A watch without a word (bookmarks come about once a minute) is taken for dead.
pub const CLUSTER_SILENCE: Duration = Duration::from_secs(180);

/// How long others wait for a holder of the Lease that does not renew it (client-go's default).
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew it for so long looks after nothing any more.
pub const LEASE_RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How long a look at the Lease, with its renewal, may take.
pub const LEASE_REQUEST: Duration = Duration::from_secs(5);
/// How often the Lease is looked at.
pub const LEASE_RETRY: Duration = Duration::from_secs(2);

const _: () = {
    let (lasts, deadline, retry) = (LEASE_DURATION.as_secs(), LEASE_RENEW_DEADLINE.as_secs(), LEASE_RETRY.as_secs());
    assert!(deadline + 2 * retry < lasts, "a holder must have stepped down before another may begin");
    assert!(CLUSTER_SILENCE.as_secs() > 60, "bookmarks come about once a minute");
};

// --- timeline --------------------------------------------------------------

/// Machines whose boots are kept; the longest silent one makes room.
pub const STORIES: usize = 10_000;
/// Boots kept of each machine.
pub const BOOTS: usize = 4;
/// Steps kept of each boot.
pub const STEPS: usize = 64;
/// Addresses whose machine is remembered.
pub const IP_TABLE: usize = 40_000;
/// Lines that a watcher may lag behind.
pub const WATCH_LINES: usize = 4096;
/// A watch without news says so after this time.
pub const WATCH_ALIVE: Duration = Duration::from_secs(10);
/// MetalMachines that wait for a free Server are looked at again this often at most, and only if Servers have changed.
pub const PROVIDER_CLAIM_PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether a cluster has Cluster API by now.
pub const PROVIDER_LOOK: Duration = Duration::from_secs(60);
/// How often boots are written down.
pub const SNAPSHOT_EVERY: Duration = Duration::from_secs(10);
/// The largest snapshot that is read back, bytes.
pub const SNAPSHOT_BYTES: u64 = 256 << 20;
/// How often rules are asked about boots that make no progress.
pub const DIAGNOSE_EVERY: Duration = Duration::from_secs(1);
/// A boot that is silent for so long is over; the next sign of life begins another.
pub const BOOT_GAP: Duration = Duration::from_secs(600);

const _: () = {
    assert!(ARGS_BYTES < SCRIPT_BYTES / 2, "a script must have room for two sets of arguments");
    assert!(IP_TABLE >= STORIES * 2, "each machine may have an address of each family");
    assert!(STORE_GROUP <= STORE_QUEUE);
    // Two architectures of two files each, and the plain names.
    assert!(2 * ENVIRONMENTS * 6 < protocol::manifest::MAX_ENTRIES, "every environment can be published");
    assert!(BMC_IDLE.as_secs() < 60, "a session must be given back before the BMC ends it");
    assert!(BMC_LOGINS < BMC_LOGINS_ALL && BMC_LOGINS < 5);
    assert!(protocol::report::MAX_REPORT >= HTTP_HEAD_BYTES);
};

// --- DHCP ------------------------------------------------------------------

/// Subnets that addresses are given in.
pub const DHCP_SUBNETS: usize = 256;
/// Addresses in the pools of one subnet: all are looked through before a pool is called full.
pub const DHCP_POOL: usize = 16_384;
/// Reservations.
pub const DHCP_RESERVATIONS: usize = 20_000;
/// The shortest lease, seconds.
pub const DHCP_LEASE_MIN: u32 = 60;
/// Name or time servers of one subnet.
pub const DHCP_SERVERS: usize = 8;
/// The longest probe before an offer, milliseconds.
pub const DHCP_PROBE_MAX_MS: u64 = 2000;
/// Machines whose packet rate is kept.
pub const DHCP_RATE_SLOTS: usize = 16_384;
/// DHCPv6 clients whose identifier is remembered with their MAC; beyond, all are forgotten.
pub const DHCP6_CLIENTS: usize = 4096;
/// Packets that may wait for their decision.
pub const DHCP_QUEUE: usize = 4096;
/// Replies that may wait for the disk.
pub const DHCP_JOURNAL: usize = 4096;
/// Lease changes in one write.
pub const DHCP_JOURNAL_GROUP: usize = 512;
/// Addresses probed at one time.
pub const DHCP_PROBES: usize = 2048;
/// Addresses tried for one DHCPDISCOVER when others turn out to be in use.
pub const DHCP_PROBE_TRIES: u32 = 4;
/// Booting machines that are remembered, so that their system's requests are shown too.
pub const DHCP_WATCHED: usize = 16_384;
/// Leases that are read back at start.
pub const DHCP_LEASES: usize = 1_000_000;
