//! What several proofs share.

pub mod os;
