//! Thousands of booting machines in one process.
//!
//! Loads a TFTP or HTTP server with N nodes, in an open loop or a burst, and
//! says what it cost the server: CPU seconds per GB, throughput, failures, and
//! latencies as the nodes saw them. Servers are started here and measured in
//! turn in one run, on a core of their own, so that their figures compare.
//!
//! ```text
//! main -> run -> peers (start a server) -> engine (nodes, epoll) -> tftp | http (one node)
//!             -> cpu (what it cost)     -> tally -> report
//! ```
#![forbid(unsafe_code)]

pub mod cpu;
pub mod engine;
pub mod guard;
pub mod http;
pub mod image;
pub mod peers;
pub mod process;
pub mod report;
pub mod run;
pub mod tally;
pub mod tftp;
