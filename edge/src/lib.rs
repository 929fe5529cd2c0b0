//! The edge: moves bytes. TFTP and HTTP from immutable images to thousands of
//! nodes at once. Knows names and bytes, never machines, never Kubernetes.
//!
//! The file list is the path of a packet:
//!
//! ```text
//! main -> config -> listen -> worker: ring -> tftp | http -> catalog -> ring
//!                   feed (manifest -> catalog)     metrics, events
//! ```
#![deny(unsafe_code)]

pub mod catalog;
pub mod clock;
pub mod config;
pub mod events;
pub mod feed;
pub mod http;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod privileges;
pub mod ring;
pub mod serve;
pub mod tftp;
pub mod worker;
