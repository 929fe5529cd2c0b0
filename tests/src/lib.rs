//! What several proofs share: simulators of the other end.

pub mod bmc;
