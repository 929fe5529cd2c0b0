//! Which boot file for which firmware.

use super::{View, Why};
use crate::dhcp::settings::Rules;
use protocol::dhcp::{Firmware, Platform, Request};
use protocol::id::Mac;
use std::net::Ipv4Addr;

/// What a client is told to boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Boot {
    /// Option 60 of the reply.
    pub class: &'static str,
    /// File name or URL.
    pub file: String,
    /// The TFTP server; none for UEFI HTTP boot (UEFI 2.10 section 24.7.3).
    pub server: Option<Ipv4Addr>,
    /// Whether it goes to iPXE.
    pub ipxe: bool,
}

/// The boot file for a client, or why it has none.
pub(super) fn find(request: &Request, view: &View<'_>) -> Result<Boot, Why> {
    let class = match request.firmware {
        Firmware::Other => {
            return Err(Why::quiet(
                "not_booting",
                "it does not ask for a network boot (option 60 is neither PXEClient nor HTTPClient)",
            ));
        }
        Firmware::Nameless => {
            return Err(Why::loud(
                "architecture",
                "it does not say what architecture it is (no option 93, none in option 60)",
            ));
        }
        Firmware::Unsupported { arch } => {
            return Err(Why::loud(
                "architecture",
                format!("architecture {arch} (option 93) is none that can be booted"),
            ));
        }
        firmware => firmware.reply_class().unwrap_or("PXEClient"),
    };
    match request.firmware {
        // Never a boot loader for iPXE: that would be iPXE again, and again. One without
        // HTTP is no loop: ours has it.
        Firmware::Ipxe(ipxe) if ipxe.can_http() => {
            Ok(Boot { class, file: script_url(view), server: Some(view.place.address), ipxe: true })
        }
        Firmware::UefiHttp(processor) => {
            let file = file(request, view, Platform::Uefi(processor))?;
            let base = match &view.settings.http_boot_url {
                Some(base) => base.trim_end_matches('/').to_owned(),
                None => format!("http://{}:{}", view.place.address, view.place.edge_http_port),
            };
            Ok(Boot { class, file: format!("{base}/{file}"), server: None, ipxe: false })
        }
        firmware => {
            let Some(platform) = firmware.platform() else {
                return Err(Why::loud("architecture", "an iPXE without HTTP that does not say what it was built for"));
            };
            let file = file(request, view, platform)?;
            let server = view.settings.tftp_server.unwrap_or(view.place.address);
            Ok(Boot { class, file, server: Some(server), ipxe: matches!(firmware, Firmware::Ipxe(_)) })
        }
    }
}

fn script_url(view: &View<'_>) -> String {
    match &view.settings.script_url {
        Some(url) => url.clone(),
        None => format!("http://{}:{}/boot.ipxe", view.place.address, view.place.http_port),
    }
}

fn file(request: &Request, view: &View<'_>, platform: Platform) -> Result<String, Why> {
    boot_file(request.mac(), view.settings, platform)
}

/// The name of a platform's boot file, as this machine is to ask for it.
pub(in crate::dhcp) fn boot_file(mac: Option<Mac>, settings: &Rules, platform: Platform) -> Result<String, Why> {
    let (file, setting) = settings.files.of(platform);
    let Some(file) = file else {
        return Err(Why::loud("no_file", format!("there is no boot file for {platform}; set dhcp.files.{setting}")));
    };
    Ok(match mac.filter(|_| settings.mac_in_path) {
        Some(mac) => format!("{}/{}", mac.hyphenated(), file.trim_start_matches('/')),
        None => file.to_owned(),
    })
}
