//! The languages stoker speaks, without any IO.
//!
//! Everything here is a pure function or a *sans-IO machine*: bytes and the
//! present time go in, bytes to send and the next deadline come out. The crate
//! is `no_std` and forbids `unsafe`, so it cannot reach a socket, a file or a
//! clock, and the compiler keeps that promise for us.
//!
//! | module | who speaks it |
//! |---|---|
//! | [`tftp`] | nodes to the edge (RFC 1350, 2347, 2348, 2349, 7440) |
//! | [`http`] | nodes to the edge (RFC 9110, 9112) |
//! | [`dhcp`] | firmware and iPXE to control (RFC 2131, 2132, 4578, PXE 2.1) |
//! | [`dhcp6`] | the same over IPv6 (RFC 8415, 5970) |
//! | [`ipmi`] | control to BMCs (IPMI 2.0 over RMCP+) |
//! | [`manifest`] | control to the edge: which names are which bytes |
//! | [`event`] | the edge to control: what became of each transfer |
//! | [`report`] | the agent to control, and control's orders back |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod dhcp;
pub mod dhcp6;
pub mod event;
pub mod http;
pub mod id;
pub mod ipmi;
pub mod manifest;
pub mod report;
pub mod tftp;
pub mod time;
