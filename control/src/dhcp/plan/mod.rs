//! What to answer to one request. Pure: the request, the settings, where we
//! are, the lease book and the time go in; a reply, a wish to probe an address
//! or a reason for silence comes out, with the changes to the lease book.

mod boot;
mod lease;

use super::book::{Book, Change};
use super::settings::{Mode, Rules, Unknown};
use boot::Boot;
pub(super) use boot::boot_file;
use protocol::dhcp::options::code;
use protocol::dhcp::{ClientKey, Destination, MessageType, Request};
use protocol::id::Mac;
use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddrV4};

/// One interface that requests come in on, and how nodes reach us there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The interface's name.
    pub interface: String,
    /// Our address on it: server identifier, TFTP server, host of URLs.
    pub address: Ipv4Addr,
    /// TCP port of scripts (control).
    pub http_port: u16,
    /// TCP port of files (edge).
    pub edge_http_port: u16,
}

/// Which of our ports a request came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Port {
    /// 67.
    Dhcp,
    /// 4011.
    Pxe,
}

/// Everything that a decision depends on besides the request.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What the operator wants.
    pub settings: &'a Rules,
    /// Where the request came in.
    pub place: &'a Place,
    /// Who has which address.
    pub book: &'a Book,
    /// Wall clock, seconds since 1970 UTC.
    pub now: u64,
    /// Where it came in.
    pub port: Port,
    /// Who sent it: a client, or a relay.
    pub source: SocketAddrV4,
}

/// A decision.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// What to do on the wire.
    pub answer: Answer,
    /// What to do to the lease book first. Durable changes must be on disk before a reply leaves.
    pub changes: Vec<Change>,
    /// Why a machine that wants to boot gets an address but no boot file.
    pub no_boot: Option<Why>,
}

/// What to do on the wire.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// Send this.
    Reply(Box<Reply>),
    /// Find out whether somebody uses this address, then decide again.
    Probe {
        /// The address that would be offered.
        address: Ipv4Addr,
        /// For whom.
        key: ClientKey,
    },
    /// Say nothing, because of this.
    Ignore(Why),
}

/// A reason for silence, in words for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Why {
    /// A label for counters.
    pub label: &'static str,
    /// The sentence.
    pub text: Cow<'static, str>,
    /// Whether the operator should hear of it without asking.
    pub loud: bool,
}

impl Why {
    pub(super) fn quiet(label: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { label, text: text.into(), loud: false }
    }

    pub(super) fn loud(label: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { label, text: text.into(), loud: true }
    }
}

/// A reply, before it is bytes. Header fields that RFC 2131 table 3 copies from the request are not repeated here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Option 53.
    pub kind: MessageType,
    /// Copied from a DHCPREQUEST or DHCPINFORM, otherwise unset.
    pub ciaddr: Ipv4Addr,
    /// The address given; unset from a proxy.
    pub yiaddr: Ipv4Addr,
    /// Where the boot file is.
    pub siaddr: Ipv4Addr,
    /// The same as text.
    pub sname: String,
    /// The boot file; empty where it is longer than the field.
    pub file: String,
    /// The boot file or URL, whole; empty where only an address is given.
    pub boot: String,
    /// Options besides 53, the most important first: the last ones are left out when space is short.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Where it goes.
    pub destination: Destination,
}

impl Reply {
    /// An option's bytes.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(c, _)| *c == code).map(|(_, value)| value.as_slice())
    }
}

impl Decision {
    fn ignore(why: Why) -> Self {
        Self { answer: Answer::Ignore(why), changes: Vec::new(), no_boot: None }
    }

    fn reply(reply: Reply) -> Self {
        Self { answer: Answer::Reply(Box::new(reply)), changes: Vec::new(), no_boot: None }
    }
}

/// Decides.
pub fn plan(request: &Request, view: &View<'_>) -> Decision {
    if let Err(why) = admit(request, view) {
        return Decision::ignore(why);
    }
    match (view.port, view.settings.mode) {
        (_, Mode::Off) => Decision::ignore(Why::quiet("off", "DHCP is switched off")),
        (Port::Pxe, _) => boot_server(request, view),
        (Port::Dhcp, Mode::Proxy) => proxy(request, view),
        (Port::Dhcp, Mode::Server) => {
            let mut decision = lease::serve(request, view);
            let empty =
                matches!(&decision.answer, Answer::Reply(r) if r.kind == MessageType::Offer && r.boot.is_empty());
            if empty && request.firmware.is_boot() {
                decision.no_boot = boot::find(request, view).err();
            }
            decision
        }
    }
}

/// Who is answered at all.
fn admit(request: &Request, view: &View<'_>) -> Result<(), Why> {
    let settings = view.settings;
    if !request.giaddr.is_unspecified() {
        let listed = settings.relays.iter().any(|net| net.contains(&request.giaddr));
        let ours = settings.mode == Mode::Server
            && settings.server.subnets.iter().any(|s| s.network.contains(&request.giaddr));
        if !listed && !ours {
            let text = format!("relay {} is not listed; add it to dhcp.relays", request.giaddr);
            return Err(Why::loud("relay", text));
        }
    }
    if request.options.get(code::RELAY_AGENT).is_some_and(|info| info.len() > 255) {
        return Err(Why::quiet("relay", "relay information of more than 255 bytes cannot be echoed"));
    }
    listed(request.mac(), settings)
}

/// What `dhcp.policy` says of a machine.
pub(super) fn listed(mac: Option<Mac>, settings: &Rules) -> Result<(), Why> {
    let Some(mac) = mac else {
        return match settings.policy.unknown {
            Unknown::Answer => Ok(()),
            Unknown::Ignore => Err(Why::quiet("policy", "it has no MAC that a list could name")),
        };
    };
    if settings.policy.deny.contains(&mac) {
        return Err(Why::quiet("policy", "dhcp.policy.deny lists this machine"));
    }
    let known = settings.policy.allow.contains(&mac) || settings.reservation(mac).is_some();
    if settings.policy.unknown == Unknown::Ignore && !known {
        return Err(Why::quiet("policy", "an unknown machine, and dhcp.policy.unknown is ignore"));
    }
    Ok(())
}

/// ProxyDHCP on port 67 (PXE 2.1 section 2.2.3): another server gives the address.
fn proxy(request: &Request, view: &View<'_>) -> Decision {
    let kind = match request.kind {
        MessageType::Discover => MessageType::Offer,
        // The client takes address and boot file from us only if it names us.
        MessageType::Request if request.server_id() == Some(view.place.address) => MessageType::Ack,
        MessageType::Request => {
            return Decision::ignore(Why::quiet("other_server", "it takes its address from another server"));
        }
        other => {
            return Decision::ignore(Why::quiet(
                "not_ours",
                format!("{other} concerns the server that gives addresses"),
            ));
        }
    };
    match boot::find(request, view) {
        Ok(boot) => {
            let mut reply = bare(request, view, kind);
            add_boot(&mut reply, request, boot);
            echo(&mut reply, request);
            reply.destination = request.destination(kind, Ipv4Addr::UNSPECIFIED);
            Decision::reply(reply)
        }
        Err(why) => Decision::ignore(why),
    }
}

/// The boot server on port 4011 (PXE 2.1 sections 2.2.5 and 2.2.6). UEFI asks
/// from port 4011 and iPXE from 68; either wants its answer where it asked from.
fn boot_server(request: &Request, view: &View<'_>) -> Decision {
    if !matches!(request.kind, MessageType::Request | MessageType::Discover | MessageType::Inform) {
        return Decision::ignore(Why::quiet("not_ours", format!("{} on port 4011", request.kind)));
    }
    if !request.giaddr.is_unspecified() {
        return Decision::ignore(Why::quiet("relay", "boot servers are not asked through relays"));
    }
    if request.server_id().is_some_and(|server| server != view.place.address) {
        return Decision::ignore(Why::quiet("other_server", "it asks another boot server"));
    }
    match boot::find(request, view) {
        Ok(boot) => {
            let mut reply = bare(request, view, MessageType::Ack);
            add_boot(&mut reply, request, boot);
            echo(&mut reply, request);
            reply.destination =
                if view.source.ip().is_unspecified() { Destination::Broadcast } else { Destination::Source };
            Decision::reply(reply)
        }
        Err(why) => Decision::ignore(why),
    }
}

/// A reply with nothing but who we are.
fn bare(request: &Request, view: &View<'_>, kind: MessageType) -> Reply {
    let copies_ciaddr = kind == MessageType::Ack;
    Reply {
        kind,
        ciaddr: if copies_ciaddr { request.ciaddr } else { Ipv4Addr::UNSPECIFIED },
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        sname: String::new(),
        file: String::new(),
        boot: String::new(),
        options: vec![(code::SERVER_ID, view.place.address.octets().to_vec())],
        destination: Destination::Broadcast,
    }
}

/// Everything that firmware looks at for a boot file. `file` and 67 are always
/// equal: OVMF prefers 67 and iPXE prefers `file`.
fn add_boot(reply: &mut Reply, request: &Request, boot: Boot) {
    reply.options.push((code::VENDOR_CLASS, boot.class.as_bytes().to_vec()));
    if let Some(server) = boot.server {
        reply.siaddr = server;
        reply.sname = server.to_string();
        reply.options.push((code::TFTP_SERVER, reply.sname.clone().into_bytes()));
        reply.options.push((code::VENDOR_SPECIFIC, protocol::dhcp::vendor::use_boot_file(request.boot_item())));
    }
    reply.options.push((code::BOOT_FILE, boot.file.clone().into_bytes()));
    if boot.file.len() <= protocol::dhcp::MAX_FILE {
        reply.file.clone_from(&boot.file);
    }
    if boot.ipxe {
        // no-pxedhcp: saves iPXE its wait of 3 s for offers of proxies.
        reply.options.push((code::IPXE, vec![protocol::dhcp::vendor::ipxe::NO_PXEDHCP, 1, 1]));
    }
    reply.boot = boot.file;
}

/// What the client must find again in every reply: 97 (RFC 4578 section 2.3), 61 (RFC 6842), 82 (RFC 3046).
fn echo(reply: &mut Reply, request: &Request) {
    let short = |value: &&[u8]| value.len() <= 255;
    let echoed = [
        (code::MACHINE_ID, request.machine_id_option().filter(|_| request.firmware.is_boot())),
        (code::CLIENT_ID, request.client_id().filter(short)),
        (code::RELAY_AGENT, request.options.get(code::RELAY_AGENT)),
    ];
    for (code, value) in echoed {
        if let Some(value) = value {
            reply.options.push((code, value.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests;
