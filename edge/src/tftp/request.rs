//! From a request to a slot in the table, or to a refusal.

use super::Service;
use super::admission::Refused;
use super::slot::{Route, Slot};
use crate::catalog::{Image, resolve};
use crate::limits;
use crate::metrics::Refusal;
use crate::ring::Datagram;
use protocol::event::{Kind, Outcome, Proto};
use protocol::tftp::options::negotiate;
use protocol::tftp::packet::BadPacket;
use protocol::tftp::transfer::Input;
use protocol::tftp::{ErrorCode, Mode, Policy, Request};
use protocol::time::{Duration, Instant};
use std::hash::BuildHasher;
use std::sync::Arc;

/// What a refused client is told, if anything, and what is counted.
struct No {
    count: Refusal,
    code: ErrorCode,
    text: &'static str,
}

const fn no(count: Refusal, code: ErrorCode, text: &'static str) -> No {
    No { count, code, text }
}

impl Service {
    /// An RRQ or WRQ.
    pub(super) fn request(&mut self, datagram: Datagram<'_>, request: Request<'_>, now: Instant) {
        if !self.sockets.takes_requests(datagram.socket) {
            return self.metrics.tftp.refused(Refusal::Malformed).inc();
        }
        if self.sockets.is_own(datagram.peer, datagram.local) {
            return self.metrics.tftp.refused(Refusal::BadSource).inc();
        }
        let hash = self.hasher.hash_one((datagram.bytes, datagram.socket, datagram.local));
        if self.is_repeated(&datagram, hash, now) || !self.is_admitted(&datagram, now) {
            return;
        }
        match self.admit(datagram, request, hash, now) {
            Ok(()) => {}
            Err(no) => self.refuse(&datagram, request.name, &no),
        }
    }

    /// A datagram that is no TFTP packet.
    pub(super) fn malformed(&mut self, datagram: &Datagram<'_>, bad: BadPacket, now: Instant) {
        self.metrics.tftp.refused(Refusal::Malformed).inc();
        let to_requests = self.sockets.takes_requests(datagram.socket);
        if let Some((code, text)) = bad.answer().filter(|_| to_requests)
            && !self.sockets.is_own(datagram.peer, datagram.local)
            && self.admission.request(datagram.peer, now).is_ok()
        {
            self.answer(datagram, code, text);
        }
    }

    /// The client has a transfer already. Where this is the same request again,
    /// the transfer takes it; where it is another, or the client has begun
    /// anew, the old transfer ends.
    fn is_repeated(&mut self, datagram: &Datagram<'_>, hash: u64, now: Instant) -> bool {
        let index = self.by_peer.get(&datagram.peer).copied();
        let Some((index, slot)) = index.and_then(|index| Some((index, self.slots.get_mut(index)?))) else {
            return false;
        };
        let same = slot.request == hash;
        let Some(transfer) = slot.transfer() else { return same };
        let stood_still = now - transfer.last_progress() >= Duration::from_millis(limits::TFTP_RESTART_MS);
        let anew = if transfer.is_validated() { stood_still } else { transfer.is_spent() };
        if same && !anew {
            self.step(index, Input::Repeat, now);
            return true;
        }
        slot.why = if same { "the client asked again" } else { "the client asked for something else" }.into();
        let outcome = if slot.proven { Outcome::Aborted } else { Outcome::TimedOut };
        self.end(index, outcome, now);
        false
    }

    /// May this source be answered at all? If not, silence: it will ask again.
    fn is_admitted(&mut self, datagram: &Datagram<'_>, now: Instant) -> bool {
        let refusal = if self.draining {
            Refusal::Draining
        } else if !self.catalog.loaded() {
            Refusal::NotReady
        } else {
            match self.admission.request(datagram.peer, now) {
                Ok(()) => return true,
                Err(Refused::Rate) => Refusal::RateLimited,
                Err(Refused::PerClient) => Refusal::PerClient,
            }
        };
        self.metrics.tftp.refused(refusal).inc();
        false
    }

    fn admit(&mut self, datagram: Datagram<'_>, request: Request<'_>, hash: u64, now: Instant) -> Result<(), No> {
        if request.write {
            return Err(no(Refusal::Unsupported, ErrorCode::ACCESS, "this server only gives files"));
        }
        let asked =
            resolve(request.name).map_err(|_| no(Refusal::BadPath, ErrorCode::ACCESS, "not a plain file name"))?;
        let octets = self.find(asked.name)?;
        let image = match request.mode {
            Mode::Octet => octets,
            Mode::Netascii => {
                self.texts.translate(&octets).map_err(|text| no(Refusal::TooLarge, ErrorCode::UNDEFINED, text))?
            }
        };
        if !self.make_room(now) {
            // In silence: an ERROR would make firmware give up.
            self.metrics.tftp.refused(Refusal::Full).inc();
            return Ok(());
        }
        let agreed = negotiate(request.options, request.mode, image.len(), &Policy::WIDEST);
        let socket = self.sockets.tid_for(datagram.socket);
        let route = Route { peer: datagram.peer, socket, from: datagram.local };
        let id = self.events.transfer_id();
        let mut slot = Slot::new(route, image, asked.name, agreed, now);
        (slot.mac, slot.id, slot.request) = (asked.mac, id, hash);
        let index = self.slots.insert(slot);
        self.by_peer.insert(datagram.peer, index);
        self.admission.began(datagram.peer);
        self.unproven.push_back((index, id));
        self.metrics.tftp.started.inc();
        self.metrics.tftp.active.set(self.slots.len() as u64);
        self.queue(index);
        Ok(())
    }

    /// By TFTP the folder `tftp/` is the root; what is not there is looked for by its whole name.
    fn find(&self, name: &str) -> Result<Arc<Image>, No> {
        let in_folder = format!("tftp/{name}");
        if let Some(named) = self.catalog.get(&in_folder).or_else(|| self.catalog.get(name)) {
            Ok(Arc::clone(&named.image))
        } else if self.catalog.refused(&in_folder) || self.catalog.refused(name) {
            Err(no(Refusal::NotReady, ErrorCode::ACCESS, "file cannot be read at present"))
        } else {
            Err(no(Refusal::NotFound, ErrorCode::NOT_FOUND, "file not found"))
        }
    }

    /// A free slot: if need be that of the oldest transfer whose client never
    /// answered; never that of one whose client did.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.unproven.len() >= self.config.transfers * 2 {
            let slots = &self.slots;
            self.unproven.retain(|&(index, id)| slots.get(index).is_some_and(|slot| slot.id == id && !slot.proven));
        }
        while self.slots.len() >= self.config.transfers {
            let Some((index, id)) = self.unproven.pop_front() else { return false };
            if let Some(slot) = self.slots.get_mut(index)
                && slot.id == id
                && !slot.proven
            {
                slot.why = "gave way to a newer request: all slots are taken".into();
                self.metrics.tftp.refused(Refusal::Full).inc();
                self.end(index, Outcome::TimedOut, now);
            }
        }
        true
    }

    fn refuse(&mut self, datagram: &Datagram<'_>, name: &[u8], no: &No) {
        self.metrics.tftp.refused(no.count).inc();
        self.answer(datagram, no.code, no.text);
        let whole = String::from_utf8_lossy(name);
        let (mac, name) = resolve(name).map_or((None, &*whole), |asked| (asked.mac, asked.name));
        let id = self.events.transfer_id();
        let kind = Kind::Refused { code: no.code.0, why: no.text.into() };
        self.events.emit(id, Proto::Tftp, datagram.peer, mac, name, kind);
    }
}
