//! UDP sends in the kernel's form: trains of TFTP DATA packets.
//!
//! A window becomes as few messages as the kernel's limits for GSO allow: one
//! contiguous range of a pre-framed image where there is one, else pairs of a
//! 4-byte header and a slice of the image. No payload is copied in user space.
//! Messages stand in slots that are used again, so that a send allocates
//! nothing once the slots have grown.

use super::route::Route;
use super::sys::{self, Address, Control};
use super::{Full, UdpId, UdpPayload, UdpSend};
use crate::catalog::Image;
use crate::limits::{GSO_BYTES, GSO_SEGMENTS, UDP_SENDS, UDP_ZC_BLOCKS, WINDOW_MAX};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Bytes of opcode and block number before the data of a block (RFC 1350 section 5).
const DATA_HEADER: usize = 4;

/// What one message carries; enough to make it again in smaller pieces.
#[derive(Clone)]
pub struct Train {
    pub socket: UdpId,
    pub to: SocketAddr,
    from: Option<IpAddr>,
    load: Load,
}

#[derive(Clone)]
enum Load {
    Nothing,
    Small(Vec<u8>),
    Blocks { image: Arc<Image>, blksize: u16, first: u64, count: u16, rollover: u16 },
}

/// A message and all that its pointers point to. Lives in a `Box`, so that it
/// stays where it is while the kernel reads it.
pub struct Message {
    pub header: libc::msghdr,
    pub train: Train,
    /// One contiguous range of enough blocks: worth handing over without a copy.
    pub bulky: bool,
    name: Address,
    control: Control,
    headers: Vec<[u8; DATA_HEADER]>,
    parts: Vec<libc::iovec>,
}

/// See [`Message::plain`]; it points into the message and its image.
#[derive(Clone, Copy)]
pub struct Plain {
    pub name: *const libc::sockaddr,
    pub name_len: libc::socklen_t,
    pub bytes: *const u8,
    pub length: u32,
}

impl Message {
    fn new() -> Box<Self> {
        let train = Train { socket: UdpId(u32::MAX), to: ([0, 0, 0, 0], 0).into(), from: None, load: Load::Nothing };
        Box::new(Self {
            // SAFETY: msghdr is plain old data; all zero is an empty message.
            header: unsafe { std::mem::zeroed() },
            train,
            bulky: false,
            name: Address::empty(),
            control: Control::empty(),
            headers: Vec::new(),
            parts: Vec::new(),
        })
    }

    /// Whom to, and the bytes, where that is all there is to it: one datagram in one piece, from the address that the
    /// route gives. A plain send spares the kernel the copying and checking of a header.
    pub fn plain(&self) -> Option<Plain> {
        let [part] = self.parts.as_slice() else { return None };
        let (name, name_len) = ((&raw const self.name).cast(), self.header.msg_namelen);
        let length = u32::try_from(part.iov_len).ok()?;
        (self.header.msg_controllen == 0).then_some(Plain { name, name_len, bytes: part.iov_base.cast(), length })
    }

    /// Datagrams in it.
    pub fn segments(&self) -> u16 {
        match &self.train.load {
            Load::Blocks { count, .. } => *count,
            _ => 1,
        }
    }

    /// Points the header at everything. `self` must not move from here on until
    /// the message is released (it is boxed).
    fn fill(&mut self, train: Train) {
        self.train = train;
        self.headers.clear();
        self.parts.clear();
        self.control.clear();
        self.bulky = false;
        let (name, name_len) = Address::of(self.train.to);
        self.name = name;
        let scope = match self.train.to {
            SocketAddr::V6(a) => a.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        if let Some(from) = self.train.from {
            self.control.source(from, scope);
        }
        match &self.train.load {
            Load::Nothing => {}
            Load::Small(bytes) => self.parts.push(sys::iovec(bytes)),
            Load::Blocks { image, blksize, first, count, rollover } => {
                if *count > 1 {
                    self.control.segments(blksize + DATA_HEADER as u16);
                }
                if let Some(range) = framed(image, *blksize, *first, *count, *rollover) {
                    self.parts.push(sys::iovec(range));
                    self.bulky = usize::from(*count) >= UDP_ZC_BLOCKS;
                } else {
                    // All headers first: their vector must not move once it is pointed at.
                    for block in *first..*first + u64::from(*count) {
                        let [high, low] = wire_number(block, *rollover).to_be_bytes();
                        self.headers.push([0, 3, high, low]);
                    }
                    for (header, block) in self.headers.iter().zip(*first..) {
                        self.parts.push(sys::iovec(header));
                        let data = block_bytes(image.bytes(), *blksize, block);
                        if !data.is_empty() {
                            self.parts.push(sys::iovec(data));
                        }
                    }
                }
            }
        }
        let (control, control_len) = self.control.parts();
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = name_len;
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = self.parts.len();
        self.header.msg_control = control;
        self.header.msg_controllen = control_len;
        self.header.msg_flags = 0;
    }
}

/// All messages of a ring, waiting or in the kernel's hands.
#[expect(clippy::vec_box, reason = "the kernel reads messages in place while the vector grows")]
pub struct Trains {
    slots: Vec<Box<Message>>,
    free: Vec<u32>,
    /// Slots filled and not yet given to the kernel, in order.
    pub waiting: VecDeque<u32>,
}

impl Trains {
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), waiting: VecDeque::new() }
    }

    /// Takes a send, cut into messages, onto `waiting`.
    pub fn take(&mut self, send: UdpSend, route: Route) -> Result<(), (Full, UdpSend)> {
        let (total, each) = match &send.payload {
            UdpPayload::Small(_) => (1, 1),
            UdpPayload::Blocks { image, blksize, first, count, .. } => {
                // Nothing follows the image's last block, whatever was asked for.
                let blocks = (image.bytes().len() / usize::from((*blksize).max(1)) + 1) as u64;
                let left = blocks.saturating_sub(first.saturating_sub(1)).min(u64::from(WINDOW_MAX));
                ((*count).min(left as u16), segments_at_once(*blksize, &send.to, route))
            }
        };
        let messages = usize::from(total.div_ceil(each));
        if messages > self.room() {
            return Err((Full, send));
        }
        let UdpSend { socket, to, from, payload } = send;
        // The kernel need not be told what it does by itself.
        let from = from.filter(|_| from != route.source);
        match payload {
            UdpPayload::Small(bytes) => self.put(Train { socket, to, from, load: Load::Small(bytes) }),
            UdpPayload::Blocks { image, blksize, first, rollover, .. } => {
                let mut done = 0;
                while done < total {
                    let count = each.min(total - done);
                    let first = first + u64::from(done);
                    let load = Load::Blocks { image: Arc::clone(&image), blksize, first, count, rollover };
                    self.put(Train { socket, to, from, load });
                    done += count;
                }
            }
        }
        Ok(())
    }

    /// Puts a train that the kernel refused to cut onto `waiting` again, block by
    /// block; false where there is no room (the client will ask again).
    pub fn singles(&mut self, train: &Train) -> bool {
        let Load::Blocks { image, blksize, first, count, rollover } = &train.load else { return false };
        if usize::from(*count) > self.room() {
            return false;
        }
        for first in *first..*first + u64::from(*count) {
            let load =
                Load::Blocks { image: Arc::clone(image), blksize: *blksize, first, count: 1, rollover: *rollover };
            self.put(Train { load, ..train.clone() });
        }
        true
    }

    /// The message in a slot.
    pub fn get(&mut self, slot: u32) -> Option<&mut Message> {
        self.slots.get_mut(slot as usize).map(|m| &mut **m)
    }

    /// The kernel has done with this slot: its image is let go.
    pub fn release(&mut self, slot: u32) -> Option<Train> {
        let message = self.slots.get_mut(slot as usize)?;
        let load = std::mem::replace(&mut message.train.load, Load::Nothing);
        self.free.push(slot);
        let Train { socket, to, from, .. } = message.train;
        Some(Train { socket, to, from, load })
    }

    fn room(&self) -> usize {
        UDP_SENDS - self.slots.len() + self.free.len()
    }

    fn put(&mut self, train: Train) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Message::new());
            (self.slots.len() - 1) as u32
        });
        if let Some(message) = self.get(slot) {
            message.fill(train);
            self.waiting.push_back(slot);
        }
    }
}

/// How many blocks go in one message.
fn segments_at_once(blksize: u16, to: &SocketAddr, route: Route) -> u16 {
    let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let segment = usize::from(blksize) + DATA_HEADER;
    if !route.gso || segment + headers > route.mtu as usize {
        // GSO never fragments: the kernel says EINVAL to a segment over the MTU.
        return 1;
    }
    (GSO_BYTES / segment).clamp(1, GSO_SEGMENTS) as u16
}

/// The number that a block, counted from 1 without wrap, has on the wire.
fn wire_number(block: u64, rollover: u16) -> u16 {
    if rollover == 0 || block == 0 { block as u16 } else { ((block - 1) % 65535) as u16 + 1 }
}

/// The data of a block counted from 1; empty behind the end.
fn block_bytes(image: &[u8], blksize: u16, block: u64) -> &[u8] {
    let size = usize::from(blksize);
    let start = (block.saturating_sub(1) as usize).saturating_mul(size).min(image.len());
    let end = start.saturating_add(size).min(image.len());
    image.get(start..end).unwrap_or(&[])
}

/// The packets as they stand in the pre-framed image, where it has the right numbers.
fn framed(image: &Image, blksize: u16, first: u64, count: u16, rollover: u16) -> Option<&[u8]> {
    if rollover != 0 && first + u64::from(count) > 65536 {
        return None; // stored numbers wrap to 0
    }
    let bytes = image.framed(blksize)?.bytes();
    let stride = usize::from(blksize) + DATA_HEADER;
    let start = (first.checked_sub(1)? as usize).checked_mul(stride)?;
    let end = start.checked_add(stride * usize::from(count))?.min(bytes.len());
    bytes.get(start..end).filter(|range| !range.is_empty())
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
