//! Every bound of the edge. No code.
//!
//! Full means a counted refusal or a wait, never growth. Where one bound
//! depends on another, the compiler proves it below.

// ---- ring, worker, listen ------------------------------------------------

/// Entries of a ring's submission queue; more wait in user space for the next submit.
pub const SQ_ENTRIES: u32 = 4096;
/// Entries of a ring's completion queue.
pub const CQ_ENTRIES: u32 = 65536;
/// UDP sends (GSO trains or datagrams) under way in one ring.
pub const UDP_SENDS: usize = 4096;
/// Buffers of one ring for datagrams that came in. A power of two.
pub const UDP_BUFFERS: u16 = 2048;
/// Size of each, bytes: io_uring's header, address, control data, payload.
pub const UDP_BUFFER_SIZE: usize = 1024;
/// The longest datagram handed to a service, bytes; the rest is cut off. An RRQ is at most 512 (RFC 2347).
pub const UDP_PAYLOAD_MAX: usize = UDP_BUFFER_SIZE - 128;
/// UDP sockets of one ring.
pub const UDP_SOCKETS: usize = 64;
/// TID sockets of one worker for each address it listens on (multi-port mode).
pub const TID_SOCKETS: usize = 8;
/// Blocks in one UDP send: the largest windowsize that `--tftp-max-windowsize` may allow.
pub const WINDOW_MAX: u16 = 512;
/// Segments of one GSO send (UDP_MAX_SEGMENTS of kernels before 6.9).
pub const GSO_SEGMENTS: usize = 64;
/// Bytes of one GSO send: what fits an IPv4 UDP datagram.
pub const GSO_BYTES: usize = 65507;
/// Blocks from which a window is worth sending without a copy: below, pinning costs more than copying.
pub const UDP_ZC_BLOCKS: usize = 4;
/// Datagrams read with one system call (epoll driver).
pub const UDP_BATCH: usize = 64;
/// Such reads before other sockets get their turn (epoll driver).
pub const UDP_ROUNDS: usize = 8;

/// TCP listeners of one ring.
pub const LISTENERS: usize = 8;
/// Connections waiting in the kernel to be accepted.
pub const BACKLOG: i32 = 4096;
/// TCP connections of one ring.
pub const CONNS: usize = 8192;
/// The ring stops accepting when so few slots are left; what had been accepted by then still finds one.
pub const CONNS_RESERVE: usize = 64;
/// Connections accepted in one go (epoll driver, and when a listener closes).
pub const ACCEPT_BATCH: usize = 64;
/// Pause before accepting again after the process or the system ran out of descriptors or memory, ms.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Buffers of one ring for bytes of requests. A power of two.
pub const TCP_BUFFERS: u16 = 512;
/// Size of each, bytes.
pub const TCP_BUFFER_SIZE: usize = 4096;
/// A body up to this length goes out with its head in one system call, copied, bytes.
pub const BODY_COPY_MAX: u64 = 32 << 10;
/// The most bytes of a body in one `conn_send`: one turn in the fairness between connections.
pub const BODY_QUANTUM_MAX: u64 = 1 << 20;
/// The pipe through which one ring hands pages to sockets, bytes: longer ones are thrown away by longer pieces.
pub const PIPE_BYTES: usize = 256 << 10;
/// Zero-copy TCP sends whose pages the kernel may still hold, in one ring.
pub const ZC_INFLIGHT: usize = 4096;
/// Images registered with one ring for zero-copy.
pub const ZC_IMAGES: u32 = 64;
/// How long a closed connection may wait for the client's FIN, ms (RFC 9112 section 9.6).
pub const LINGER_MS: u64 = 2000;
/// How many bytes of a client are thrown away in that time.
pub const LINGER_BYTES: u64 = 256 << 10;

/// Routes remembered (MTU, and whether it copies).
pub const ROUTES: usize = 8192;
/// For how long, ms.
pub const ROUTE_AGE_MS: u64 = 30_000;

/// Worker threads.
pub const WORKERS: usize = 256;
/// Receive buffer asked for each UDP socket, bytes: a burst of ACKs of thousands of nodes.
pub const UDP_RCVBUF: usize = 4 << 20;
/// Send buffer asked for each UDP socket, bytes.
pub const UDP_SNDBUF: usize = 4 << 20;

// Every operation under way has room for its completion. A zero-copy send has
// two; a connection has at most a receive, a send (or poll) and a cancel.
const _: () = assert!(
    2 * UDP_SENDS
        + 2 * ZC_INFLIGHT
        + 3 * CONNS
        + UDP_BUFFERS as usize
        + 2 * UDP_SOCKETS
        + 2 * LISTENERS
        + CONNS_RESERVE
        < CQ_ENTRIES as usize
);
const _: () = assert!(UDP_BUFFERS.is_power_of_two() && TCP_BUFFERS.is_power_of_two());
// The largest window fits even where each block must go alone.
const _: () = assert!(WINDOW_MAX as usize <= UDP_SENDS / 2);
const _: () = assert!(UDP_PAYLOAD_MAX > 512);
const _: () = assert!(CONNS_RESERVE < CONNS && CONNS < 1 << 24);
const _: () = assert!(GSO_BYTES <= 65507);

// ---- catalog, feed, events, metrics ----------------------------------------

/// Images this large or larger ask the kernel for huge pages, bytes.
pub const HUGE_PAGE_MIN: u64 = 2 << 20;
/// Bytes of an object read and hashed in one step while it is copied.
pub const LOAD_CHUNK: usize = 1 << 20;
/// Only images up to this length get a pre-framed form (boot files; an initrd goes by HTTP), bytes.
pub const FRAMED_IMAGE_MAX: u64 = 4 << 20;
/// All pre-framed forms together, old generations included, bytes.
pub const FRAMED_BUDGET: u64 = 64 << 20;
/// Without `--memory-budget` images may take this share of the memory there is, percent.
pub const MEMORY_BUDGET_PERCENT: u64 = 50;
/// How long the feed waits before it looks again at objects that it refused, ms; doubled each time.
pub const FEED_RETRY_MS: u64 = 2_000;
/// The longest of those waits, ms.
pub const FEED_RETRY_MAX_MS: u64 = 60_000;
/// How long the feed gathers changes of the folder before it looks, ms.
pub const FEED_SETTLE_MS: u64 = 20;
/// Refusals listed in `edge.state`.
pub const FEED_REFUSALS: usize = 256;
/// Events of one worker that may wait for control to read.
pub const EVENTS_PENDING: usize = 1024;
/// Pause between two attempts to reach control's event socket, ms.
pub const EVENTS_RETRY_MS: u64 = 1_000;
/// Pause before events that found the socket full are tried again, ms.
pub const EVENTS_PAUSE_MS: u64 = 10;
/// A scraper of metrics must send its request and take the answer within, ms.
pub const SCRAPE_MS: u64 = 2_000;
/// The longest request of a scraper, bytes.
pub const SCRAPE_HEAD: usize = 4096;

const _: () = assert!(FRAMED_IMAGE_MAX + FRAMED_IMAGE_MAX / 2 < FRAMED_BUDGET);
const _: () = assert!(FEED_RETRY_MS <= FEED_RETRY_MAX_MS);

// ---- tftp ------------------------------------------------------------------

/// TFTP transfers of one worker.
pub const TFTP_TRANSFERS: usize = 4096;
/// Source addresses in one worker's books.
pub const TFTP_SOURCES: usize = 8192;
/// Requests that one worker answers in one go, from sources not yet proven.
pub const TFTP_REQUESTS_BURST: u32 = 8192;
/// And then a second.
pub const TFTP_REQUESTS_RATE: u32 = 4000;
/// Requests of one source address that are answered in one go (a rack behind one NAT).
pub const TFTP_CLIENT_BURST: u32 = 128;
/// And then a second.
pub const TFTP_CLIENT_RATE: u32 = 32;
/// Transfers of one source address before their first ACK; `--tftp-unproven-per-client`.
pub const TFTP_UNPROVEN_PER_CLIENT: usize = 64;
/// ERROR 5 (unknown transfer id) a second, to all peers together.
pub const TFTP_STRAY_ERRORS: u32 = 100;
/// A request repeated in the middle of its transfer is a straggler of the network
/// unless the transfer has stood still for so long, ms; then the client began anew.
pub const TFTP_RESTART_MS: u64 = 1000;
/// The longest file that is translated to netascii, bytes.
pub const TFTP_NETASCII_MAX: u64 = 1 << 20;
/// Translated files kept.
pub const TFTP_NETASCII_KEPT: usize = 4;
/// Bursts handed to the ring in one turn of the loop.
pub const TFTP_SENDS_PER_TURN: usize = 2048;
/// Answers (ERRORs) waiting for the ring.
pub const TFTP_ANSWERS: usize = 1024;
/// Pause before the next try when the ring's queue was full, ms.
pub const TFTP_FULL_PAUSE_MS: u64 = 1;
/// Bytes in one window, whatever was asked for.
pub const TFTP_WINDOW_BYTES: u32 = 256 << 10;
/// Windowsize that is agreed on at most unless configured.
pub const TFTP_WINDOWSIZE: u16 = 64;

const _: () = assert!(TFTP_TRANSFERS <= TFTP_SOURCES && TFTP_REQUESTS_BURST as usize >= TFTP_TRANSFERS);
const _: () = assert!(TFTP_UNPROVEN_PER_CLIENT * 8 <= TFTP_TRANSFERS);
const _: () = assert!(TFTP_WINDOWSIZE <= WINDOW_MAX);

// ---- http ------------------------------------------------------------------

/// Connections served by one worker; beyond, the oldest idle one is closed, else the newcomer gets 503.
pub const HTTP_CONNECTIONS: usize = CONNS - 2 * CONNS_RESERVE;
/// Of these, connections from one address: never all of them, though a rack behind NAT is one address.
pub const HTTP_PER_CLIENT: usize = HTTP_CONNECTIONS / 2;
/// A head must be whole within, ms.
pub const HTTP_HEAD_MS: u64 = 10_000;
/// The next request must begin within, ms.
pub const HTTP_IDLE_MS: u64 = 30_000;
/// A client may read nothing for, ms.
pub const HTTP_GRACE_MS: u64 = 30_000;
/// After that it must have taken this many bytes a second.
pub const HTTP_MIN_RATE: u64 = 16 << 10;
/// The first quantum of a body, bytes: everyone gets a first piece soon.
pub const HTTP_QUANTUM_FIRST: u64 = 256 << 10;
/// Further quanta, bytes.
pub const HTTP_QUANTUM: u64 = BODY_QUANTUM_MAX;
/// Bytes of further quanta handed to the ring in one turn of the loop; newcomers wait no longer than that takes.
pub const HTTP_TURN: u64 = 8 << 20;

const _: () =
    assert!(HTTP_QUANTUM_FIRST <= HTTP_QUANTUM && HTTP_QUANTUM <= BODY_QUANTUM_MAX && HTTP_QUANTUM <= HTTP_TURN);
const _: () = assert!(HTTP_CONNECTIONS < CONNS - CONNS_RESERVE);
