//! What several proofs share.

pub mod guest;
pub mod kubernetes;
pub mod node;
pub mod os;
pub mod site;
pub mod stage;
pub mod ways;
