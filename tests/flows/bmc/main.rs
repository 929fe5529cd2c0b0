//! BMCs as control speaks to them: through the pool, by IPMI and Redfish, one at a time and a
//! thousand at once; against our simulator with the faults of real ones, against pyghmi's, and our
//! simulator against `curl` and `ipmitool`.

mod fleet;
mod management;
mod pool;
mod pyghmi;
mod redfish;
mod simulator;

use control::power::redfish::Machine;
use control::power::target::{IpmiOptions, Target, Way};
use control::rack::bmc::{PASSWORD, USER};
use std::net::SocketAddr;

/// The BMC at this address, for the user of our simulators.
fn target(way: Way, address: SocketAddr) -> Target {
    Target {
        way,
        place: address.to_string(),
        user: USER.into(),
        password: PASSWORD.into(),
        ipmi: IpmiOptions::default(),
        machine: Machine::default(),
    }
}
