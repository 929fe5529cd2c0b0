//! What several proofs share.

pub mod guest;
pub mod os;
pub mod stage;
pub mod ways;
