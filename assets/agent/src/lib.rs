//! The agent: PID 1 of the discovery initramfs.
//!
//! It brings the machine's drivers and its boot interface up, finds out what
//! the machine is made of, tells control, and then does what control orders:
//! nothing, unless ordered. It never restarts the machine by itself.
//!
//! `main.rs` reads downward as the story of one boot; each step is a module here.
#![deny(unsafe_code)]

pub mod bmc;
pub mod cmdline;
pub mod console;
pub mod dhcp;
pub mod facts;
pub mod image;
pub mod kexec;
pub mod link;
pub mod modules;
pub mod net;
pub mod orders;
pub mod sys;
pub mod talk;
pub mod wipe;
pub mod work;
