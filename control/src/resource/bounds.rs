//! How much an object may hold: the same in the embedded store and in a
//! cluster, whose API server wants a bound on all that its rules read.

/// Entries of a list that is looked at one by one: patches, kernel arguments, expressions.
pub const LIST: usize = 256;
/// A name, an address, a word; bytes.
pub const TEXT: usize = 253;
/// A JSON pointer (RFC 6901), bytes.
pub const POINTER: usize = 1024;
/// Requirements of one ServerClass.
pub const REQUIREMENTS: usize = 64;
/// One requirement, bytes.
pub const REQUIREMENT: usize = 256;
/// Failure domains of a cluster (Cluster API's bound).
pub const FAILURE_DOMAINS: usize = 100;
/// A provider id, bytes (Cluster API's bound).
pub const PROVIDER_ID: usize = 512;
