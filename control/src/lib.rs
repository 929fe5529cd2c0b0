//! Control: takes the decisions of a network boot. DHCP and ProxyDHCP, iPXE
//! scripts, environments, the agent's API, the timeline of each boot, and the
//! `stoker` command that shows them.
#![forbid(unsafe_code)]

pub mod observe;
pub mod rack;
