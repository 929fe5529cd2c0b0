//! HTTP/1.1 as a file server speaks it to firmware: GET and HEAD of immutable
//! objects (RFC 9110, RFC 9112).
//!
//! | file | what it is |
//! |---|---|
//! | [`connection`] | one connection: bytes in, requests and answers out, deadlines |
//! | [`head`] | the request's head, read strictly |
//! | [`target`] | the request's target: forms, percent signs |
//! | [`answer`] | which answer a request gets, and its head |
//! | [`condition`] | If-Match and its kin |
//! | [`range`] | byte ranges |
//! | [`date`] | dates in three formats |
//!
//! What is strict and why: a head that two readers could understand
//! differently is refused (smuggling), and answers hold nothing that firmware
//! is known to misread: no chunks, no folding, an exact Content-Length, a head
//! below [`limits::ANSWER_HEAD`].

pub mod answer;
pub mod condition;
pub mod connection;
pub mod date;
pub mod head;
pub mod range;
pub mod target;

pub use answer::{Answer, Resource, Status};
pub use connection::{Connection, Step};
pub use head::Request;

/// Every bound of the language.
pub mod limits {
    /// The longest request head, its empty line included, bytes (else 431).
    pub const HEAD: usize = 8 << 10;
    /// The most header fields of a request (else 431).
    pub const FIELDS: usize = 64;
    /// The longest request target, bytes (else 414).
    pub const TARGET: usize = 2 << 10;
    /// The longest body of a GET or HEAD that is read and thrown away, bytes (else 413 and close).
    pub const BODY: u64 = 64 << 10;
    /// Empty lines before a request that are skipped (RFC 9112 section 2.2), bytes.
    pub const EMPTY_LINES: usize = 8;
    /// Bytes that a connection keeps: one head and what came in with its last piece.
    pub const BUFFER: usize = HEAD + (4 << 10);
    /// The longest answer head, bytes: old shims and UEFI clients have little room.
    pub const ANSWER_HEAD: usize = 1 << 10;
    /// The longest content type that is passed on, bytes.
    pub const CONTENT_TYPE: usize = 128;
}
