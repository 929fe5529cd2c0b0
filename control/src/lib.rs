//! Control: takes the decisions of a network boot. DHCP and ProxyDHCP, iPXE
//! scripts, environments, the agent's API, the timeline of each boot, and the
//! `stoker` command that shows them.
#![forbid(unsafe_code)]

pub mod allocation;
pub mod api;
pub mod config;
pub mod crd;
pub mod dhcp;
pub mod environments;
pub mod http;
pub mod interface;
pub mod inventory;
pub mod leader;
pub mod lifecycle;
pub mod limits;
pub mod machineconfig;
pub mod metadata;
pub mod objects;
pub mod observe;
pub mod plan;
pub mod power;
pub mod provider;
pub mod publish;
pub mod rack;
pub mod resource;
pub mod run;
pub mod store;
pub mod telemetry;
pub mod timeline;
