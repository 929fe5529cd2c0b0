//! DHCP and ProxyDHCP.
pub mod book;
pub mod encode;
pub mod plan;
pub mod settings;
