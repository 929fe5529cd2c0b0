//! What several proofs share.

pub mod guest;
pub mod os;
