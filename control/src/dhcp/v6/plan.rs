//! What to answer to one DHCPv6 packet. Pure, as [`crate::dhcp::plan`].

use crate::dhcp::plan::{Port, Why, listed};
use crate::dhcp::settings::Rules;
use protocol::dhcp::{Firmware, Platform};
use protocol::dhcp6::client::INTEL;
use protocol::dhcp6::options::code;
use protocol::dhcp6::{Kind, Packet, Reply, TooLong};
use protocol::id::Mac;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

/// One interface that packets come in on, and how nodes reach us there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The interface's name.
    pub interface: String,
    /// Our address on it: host of boot file URLs.
    pub address: Ipv6Addr,
    /// Our IPv4 address on it: scripts and all that follows go by IPv4.
    pub script_host: Ipv4Addr,
    /// TCP port of scripts (control).
    pub http_port: u16,
    /// TCP port of files (edge).
    pub edge_http_port: u16,
    /// Our identifier (DUID).
    pub server_id: Vec<u8>,
}

/// Everything that a decision depends on besides the packet.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What the operator wants.
    pub settings: &'a Rules,
    /// Where it came in.
    pub place: &'a Place,
    /// To which of our ports.
    pub port: Port,
    /// Who sent it: a client, or a relay.
    pub source: SocketAddrV6,
    /// The NIC that asks, where that is known.
    pub mac: Option<Mac>,
}

/// An answer, before it is bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// ADVERTISE or REPLY.
    pub kind: Kind,
    /// Option 59.
    pub url: String,
    /// Option 16.
    pub class: Option<(u32, &'static str)>,
    /// Where it goes.
    pub to: SocketAddrV6,
}

impl Answer {
    /// The UDP payload.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn encode(&self, packet: &Packet<'_>, server_id: &[u8]) -> Result<Vec<u8>, TooLong> {
        // No boot parameters (60): EDK2 takes the first for the boot file's size.
        Reply { kind: self.kind, server_id, url: &self.url, params: &[], class: self.class }.encode(packet)
    }
}

/// The answer to a packet.
///
/// # Errors
/// Why there is none.
pub fn plan(packet: &Packet<'_>, view: &View<'_>) -> Result<Answer, Why> {
    let kind = kind(packet, view)?;
    let firmware = packet.message.firmware();
    refuse(firmware)?;
    // What EDK2 asks on 4011 is a copy of its SOLICIT, and asked of us alone.
    if view.port == Port::Dhcp && !packet.message.requests(code::BOOT_FILE_URL) {
        return Err(Why::quiet("not_booting", "it does not ask for a boot file (no 59 in its option 6)"));
    }
    relay(packet, view)?;
    listed(view.mac, view.settings)?;
    let (url, class) = boot(view, firmware, kind)?;
    let class = class.map(|text| (packet.message.enterprise().unwrap_or(INTEL), text));
    Ok(Answer { kind, url, class, to: destination(packet, view) })
}

/// The type of the answer (RFC 8415 section 18.3).
fn kind(packet: &Packet<'_>, view: &View<'_>) -> Result<Kind, Why> {
    let message = &packet.message;
    let ours = message.server_id.is_none_or(|id| id == view.place.server_id);
    match message.kind {
        Kind::Solicit => Ok(Kind::Advertise),
        Kind::Request | Kind::InformationRequest if ours => Ok(Kind::Reply),
        Kind::Request | Kind::InformationRequest => Err(Why::quiet("other_server", "it asks another server")),
        other => Err(Why::quiet("not_ours", format!("{other} concerns the server that gives addresses"))),
    }
}

fn refuse(firmware: Firmware) -> Result<(), Why> {
    match firmware {
        Firmware::Other => Err(Why::quiet(
            "not_booting",
            "it does not ask for a network boot (option 16 is neither PXEClient nor HTTPClient, and there is no 61)",
        )),
        Firmware::Nameless => {
            Err(Why::loud("architecture", "it does not say what architecture it is (no option 61 in its request)"))
        }
        Firmware::Unsupported { arch } => {
            Err(Why::loud("architecture", format!("architecture {arch} (option 61) is none that can be booted")))
        }
        _ => Ok(()),
    }
}

/// A relay on the link is trusted like any client there; one from afar must be listed.
fn relay(packet: &Packet<'_>, view: &View<'_>) -> Result<(), Why> {
    let relay = view.source.ip();
    let trusted = relay.is_unicast_link_local() || view.settings.v6.relays.iter().any(|net| net.contains(relay));
    if !packet.relayed() || trusted {
        return Ok(());
    }
    Err(Why::loud("relay", format!("DHCPv6 relay {relay} is not listed; add it to dhcp.v6.relays")))
}

/// Boot file URL, and the class that makes the client believe it.
fn boot(view: &View<'_>, firmware: Firmware, kind: Kind) -> Result<(String, Option<&'static str>), Why> {
    let host = view.place.address;
    let v6 = &view.settings.v6;
    match firmware {
        Firmware::Ipxe(_) if kind == Kind::Advertise => Err(Why::quiet(
            "ipxe",
            "iPXE takes nothing from a server that gives no address; it is told its script over IPv4, or when it asks for options only",
        )),
        Firmware::Ipxe(ipxe) if !ipxe.can_http() => Err(Why::loud("ipxe", "an iPXE without HTTP")),
        Firmware::Ipxe(_) => {
            let (address, port) = (view.place.script_host, view.place.http_port);
            let url = v6.script_url.clone().or_else(|| view.settings.script_url.clone());
            Ok((url.unwrap_or_else(|| format!("http://{address}:{port}/boot.ipxe")), None))
        }
        Firmware::UefiHttp(processor) => {
            let file = file(view, Platform::Uefi(processor))?;
            let base = match &v6.http_boot_url {
                Some(base) => base.trim_end_matches('/').to_owned(),
                None => format!("http://[{host}]:{}", view.place.edge_http_port),
            };
            Ok((format!("{base}/{file}"), Some("HTTPClient")))
        }
        firmware => {
            let Some(platform) = firmware.platform() else {
                return Err(Why::loud("architecture", "no boot file can be chosen for it"));
            };
            Ok((format!("tftp://[{host}]/{}", file(view, platform)?), Some("PXEClient")))
        }
    }
}

fn file(view: &View<'_>, platform: Platform) -> Result<String, Why> {
    crate::dhcp::plan::boot_file(view.mac, view.settings, platform)
}

/// To the relay that brought it, else to the client's port (RFC 8415 section
/// 18.3.10); what came to 4011 goes back where it came from.
fn destination(packet: &Packet<'_>, view: &View<'_>) -> SocketAddrV6 {
    let mut to = view.source;
    match view.port {
        _ if packet.relayed() => to.set_port(protocol::dhcp6::SERVER_PORT),
        Port::Dhcp => to.set_port(protocol::dhcp6::CLIENT_PORT),
        Port::Pxe => {}
    }
    to
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
