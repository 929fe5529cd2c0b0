//! Edge to control: what became of each transfer.
//!
//! One JSON object a datagram on a Unix socket, lossy on purpose: the story of
//! a boot is told from these, nothing depends on them. Fields are only ever
//! added; a reader skips kinds it does not know.

use crate::id::Mac;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// The version of this language that the writer speaks.
pub const CURRENT: u32 = 1;

/// The longest datagram a reader must take, in bytes.
pub const MAX_DATAGRAM: usize = 2048;

/// One milestone of one transfer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// [`CURRENT`] of the writer.
    pub v: u32,
    /// Wall clock of the edge, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Tells transfers of one edge process apart.
    pub transfer: u64,
    /// Which protocol carried it.
    pub proto: Proto,
    /// The node's address and port, printed (`10.0.0.7:49152`, `[fd77::1]:2070`).
    pub peer: String,
    /// The machine, where the requested path began with its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The name asked for (escaped: printable ASCII only, at most 256 bytes).
    pub name: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: Kind,
}

/// The protocol of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TFTP over UDP.
    Tftp,
    /// HTTP/1.1 over TCP.
    Http,
}

/// What happened to a transfer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// The request was understood and the object found; values are those agreed on.
    Started {
        /// Length of what will be sent, bytes.
        total: u64,
        /// TFTP: agreed block size, bytes (512 when nothing was negotiated). HTTP: 0.
        blksize: u32,
        /// TFTP: agreed windowsize, blocks. HTTP: 0.
        windowsize: u32,
    },
    /// A quarter, a half, three quarters have been acknowledged (TFTP) or handed to the kernel (HTTP).
    Progress {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The transfer is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Bytes acknowledged (TFTP) or handed to the kernel (HTTP).
        bytes: u64,
        /// Bytes in all.
        total: u64,
        /// Packets sent again (TFTP).
        retries: u32,
        /// From the request to the end, microseconds.
        elapsed_us: u64,
        /// Words for the operator where the outcome is not `complete`; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
    },
    /// The request was answered with a refusal, or not at all.
    Refused {
        /// TFTP error code or HTTP status; 0 where it was dropped in silence.
        code: u16,
        /// Words for the operator.
        why: String,
    },
}

/// How a transfer ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was acknowledged (TFTP) or taken by the kernel (HTTP).
    Complete,
    /// The client only wanted to know the size or options (TFTP ERROR 8 or 0 right after the OACK).
    Probe,
    /// The last block went out, its ACK never came (RFC 1350 section 6: it may still have arrived).
    Unknown,
    /// The client gave up and said so (TFTP ERROR, TCP reset).
    Aborted,
    /// The client fell silent.
    TimedOut,
    /// Our fault: the image could not be read whole, or the edge is going down.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_on_the_wire_are_frozen() {
        let event = Event {
            v: CURRENT,
            at_ms: 1,
            transfer: 7,
            proto: Proto::Tftp,
            peer: "10.0.0.7:2070".into(),
            mac: Some(Mac([0x52, 0x54, 0, 1, 2, 3])),
            name: "snponly.efi".into(),
            kind: Kind::Ended {
                outcome: Outcome::TimedOut,
                bytes: 1,
                total: 2,
                retries: 3,
                elapsed_us: 4,
                why: String::new(),
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"at_ms":1,"transfer":7,"proto":"tftp","peer":"10.0.0.7:2070","mac":"52:54:00:01:02:03","name":"snponly.efi","kind":"ended","outcome":"timed_out","bytes":1,"total":2,"retries":3,"elapsed_us":4}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
