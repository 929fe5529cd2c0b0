//! Giving the BMC of this machine a user of ours, from inside.
//!
//! Nothing of anybody else's is changed: a slot is taken that bears our name
//! already, or one that has no name and whose user cannot log in. Slot 1 (the
//! anonymous user) and slots with fixed names are left alone.

pub mod commands;

use commands::{Code, Command, OLD_PASSWORD, OTHER_LENGTH, OTHER_PASSWORD, PASSWORD, PasswordStep};
use protocol::report::{BmcFound, BmcOrder};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

/// RMCP's port (IPMI 2.0 section 13.1.1), where a BMC does not tell another.
const RMCP: u16 = 623;
/// Channels that can be a LAN (table 6-1).
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=11;
/// Tries of a command that a busy BMC puts off.
const TRIES: u32 = 5;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(500);

/// A BMC that takes commands.
pub trait Bmc {
    /// Sends a command; the whole answer, its completion code first.
    ///
    /// # Errors
    /// Where it does not answer.
    fn send(&mut self, command: &Command) -> io::Result<Vec<u8>>;
    /// Waits before a command is repeated.
    fn pause(&mut self, time: Duration);
}

/// Sets the user up and tells where the BMC is. `go_on` is asked before each change: false withdraws the order.
///
/// # Errors
/// In words: what could not be done. What was done before stays; the same order again goes on from there.
pub fn set_up(order: &BmcOrder, bmc: &mut dyn Bmc, go_on: &mut dyn FnMut(&str) -> bool) -> Result<BmcFound, String> {
    let (user, secret) = (order.user.as_str(), order.password.0.as_str());
    if user.is_empty() || user.len() > commands::NAME || !user.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the order names a user that no BMC can have".into());
    }
    if secret.is_empty() || secret.len() > PASSWORD {
        return Err("the order has no password that a BMC can have".into());
    }
    let mut step = |what: &str| if go_on(what) { Ok(()) } else { Err("the order was withdrawn".to_owned()) };
    step("looking for its LAN")?;
    let (channel, address) = find_lan(bmc)?;
    let port = optional(bmc, &commands::port(channel))?.and_then(|a| commands::as_port(&a)).unwrap_or(RMCP);
    if let Some(access) = optional(bmc, &commands::channel_access(channel))?
        && !commands::is_open(&access)
    {
        return Err(format!(
            "its LAN channel {channel} is closed: nobody could log in (`ipmitool lan set {channel} access on` opens it)"
        ));
    }
    step("looking for a user's slot")?;
    let slot = find_slot(bmc, channel, user)?;
    step("making the user")?;
    if slot.free {
        run(bmc, &commands::set_name(slot.id, user))?;
    }
    let length = set_password(bmc, slot.id, secret)?;
    run(bmc, &commands::set_operator(channel, slot.id))?;
    // Some BMCs want the password's field there as well, some refuse it.
    match ask(bmc, &commands::password(slot.id, PasswordStep::Enable, "", 0))? {
        Ok(_) => {}
        Err(code) if code.is_bad_data() => {
            run(bmc, &commands::password(slot.id, PasswordStep::Enable, secret, length))?;
        }
        Err(code) => return Err(format!("cannot enable the user: {code}")),
    }
    test_password(bmc, slot.id, secret, length)?;
    // What counts is what it says afterwards.
    let access = run(bmc, &commands::user_access(channel, slot.id))?;
    let name = optional(bmc, &commands::user_name(slot.id))?.unwrap_or_default();
    if commands::as_name(&name) != user.as_bytes() {
        return Err(format!("it took the user's name for slot {} and did not keep it", slot.id));
    }
    if commands::as_access(&access).is_none() {
        return Err("it does not tell the user's rights".into());
    }
    Ok(BmcFound { address: address.to_string(), port, channel, user_id: slot.id })
}

/// The first Ethernet channel that has an address.
fn find_lan(bmc: &mut dyn Bmc) -> Result<(u8, Ipv4Addr), String> {
    let mut without = Vec::new();
    for channel in CHANNELS {
        let Some(info) = optional(bmc, &commands::channel_info(channel))? else { continue };
        if !commands::is_lan(&info) {
            continue;
        }
        match optional(bmc, &commands::address(channel))?.and_then(|a| commands::as_address(&a)) {
            Some(address) => return Ok((channel, address)),
            None => without.push(channel.to_string()),
        }
    }
    match without.as_slice() {
        [] => Err("it has no LAN channel".into()),
        channels => Err(format!(
            "its LAN (channel {}) has no IPv4 address: plug its port in, or give it an address by DHCP or by hand",
            channels.join(", ")
        )),
    }
}

/// A user's place.
struct Slot {
    id: u8,
    /// It has no name yet.
    free: bool,
}

/// The slot of our name, else the first that is nobody's.
fn find_slot(bmc: &mut dyn Bmc, channel: u8, user: &str) -> Result<Slot, String> {
    let first = run(bmc, &commands::user_access(channel, 1))?;
    let first = commands::as_access(&first).ok_or("it does not tell how many users it has")?;
    let mut free = None;
    for id in 2..=first.slots {
        // A slot that was never used may have no name to tell.
        let name = optional(bmc, &commands::user_name(id))?.unwrap_or_default();
        let name = commands::as_name(&name);
        if name == user.as_bytes() {
            return Ok(Slot { id, free: false });
        }
        // A name of nothing but blanks or 0xff is none: some firmware writes such into slots that were never used.
        let nameless = name.iter().all(|b| matches!(b, b' ' | 0xff));
        if free.is_some() || !nameless || id <= first.fixed {
            continue;
        }
        let access = optional(bmc, &commands::user_access(channel, id))?;
        // One without a name that may log in is somebody's all the same.
        if access.is_none_or(|a| commands::as_access(&a).is_some_and(|a| !a.enabled)) {
            free = Some(Slot { id, free: true });
        }
    }
    free.ok_or_else(|| format!("none of its {} user slots is free: delete a user that nobody needs", first.slots))
}

/// Sets the password in the longest form that the BMC takes; that form's length.
fn set_password(bmc: &mut dyn Bmc, id: u8, secret: &str) -> Result<usize, String> {
    let long = commands::password(id, PasswordStep::Set, secret, PASSWORD);
    match ask(bmc, &long)? {
        Ok(_) => return Ok(PASSWORD),
        Err(code) if code.is_bad_data() && secret.len() > OLD_PASSWORD => {
            return Err(format!("it takes no passwords of more than {OLD_PASSWORD} bytes"));
        }
        Err(code) if code.is_bad_data() => {}
        Err(code) => return Err(format!("cannot set the user's password: {code}")),
    }
    run(bmc, &commands::password(id, PasswordStep::Set, secret, OLD_PASSWORD))?;
    Ok(OLD_PASSWORD)
}

fn test_password(bmc: &mut dyn Bmc, id: u8, secret: &str, length: usize) -> Result<(), String> {
    match ask(bmc, &commands::password(id, PasswordStep::Test, secret, length))? {
        Ok(_) => Ok(()),
        Err(code) if code == OTHER_PASSWORD || code == OTHER_LENGTH => {
            Err("it took the password and then did not know it".into())
        }
        // Not every BMC can compare; control logs in and sees.
        Err(code) if code.is_unknown_command() || code.is_bad_data() => Ok(()),
        Err(code) => Err(format!("cannot test the user's password: {code}")),
    }
}

/// What must go well.
fn run(bmc: &mut dyn Bmc, command: &Command) -> Result<Vec<u8>, String> {
    ask(bmc, command)?.map_err(|code| format!("cannot {}: {code}", command.what))
}

/// What not every BMC has: nothing where it refuses.
fn optional(bmc: &mut dyn Bmc, command: &Command) -> Result<Option<Vec<u8>>, String> {
    Ok(ask(bmc, command)?.ok())
}

/// Sends a command, again while the BMC is busy.
fn ask(bmc: &mut dyn Bmc, command: &Command) -> Result<Result<Vec<u8>, Code>, String> {
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = bmc.send(command).map_err(|e| format!("cannot {}: {e}", command.what))?;
        match answer.split_first() {
            Some((0, data)) => return Ok(Ok(data.to_vec())),
            Some((code, _)) if Code(*code).is_busy() && tries < TRIES => bmc.pause(PAUSE),
            Some((code, _)) => return Ok(Err(Code(*code))),
            None => return Err(format!("cannot {}: its answer is empty", command.what)),
        }
    }
}

#[cfg(test)]
mod tests;
