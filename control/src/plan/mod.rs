//! Deciding, apart from acting: pure functions over a view of the facts.

pub mod boot;
pub mod disk;
pub mod order;
pub mod provider;
pub mod server;
