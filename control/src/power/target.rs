//! Which BMC, by which way, with which credentials.

use super::redfish::{self, Trust};
use super::{Error, IPMI_PORT, Session, ipmi, management};
use protocol::ipmi::{Config, Privilege, Suite};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

/// Which credentials: two that are the same have the same. Made with a key of this process, so that
/// it tells nobody anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version(pub u64);

/// How a BMC is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// IPMI 2.0 over UDP.
    Ipmi,
    /// Redfish over HTTPS, trusting its certificate so.
    Redfish(Trust),
    /// Redfish over plain HTTP: for tests.
    RedfishHttp,
    /// The HTTP API of virtual machines that Sidero's test clusters have.
    Management,
}

/// A BMC that can be asked. Its text form has no secrets in it.
#[derive(Clone)]
pub struct Target {
    /// How it is spoken to.
    pub way: Way,
    /// Host and port; a whole URL for [`Way::Management`].
    pub place: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// What only IPMI has.
    pub ipmi: IpmiOptions,
    /// What is known of the machine that this BMC must belong to.
    pub machine: redfish::Machine,
}

/// What only IPMI has.
#[derive(Clone)]
pub struct IpmiOptions {
    /// The BMC key K_G, where one is set.
    pub kg: Option<Vec<u8>>,
    /// The one cipher suite to use; else the best that both sides have.
    pub suite: Option<Suite>,
    /// The privilege to ask for.
    pub privilege: Privilege,
}

impl Default for IpmiOptions {
    fn default() -> Self {
        Self { kg: None, suite: None, privilege: Privilege::Operator }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.place)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Target({})", self.key())
    }
}

impl Target {
    /// One for each BMC.
    pub fn key(&self) -> String {
        key(&self.way, &self.place)
    }

    /// Its protocol in one word.
    pub const fn speaks(&self) -> &'static str {
        self.way.speaks()
    }

    /// Which credentials these are.
    pub fn version(&self) -> Version {
        static KEY: LazyLock<[u8; 16]> = LazyLock::new(|| {
            let mut key = [0; 16];
            // Without random bytes the versions can be compared with guesses by whoever reads this process's memory.
            let _ = getrandom::fill(&mut key);
            key
        });
        let mut hash = Sha256::new_with_prefix(*KEY);
        let kg = self.ipmi.kg.as_deref().unwrap_or_default();
        for part in [self.user.as_bytes(), self.password.as_bytes(), kg] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part);
        }
        Version(hash.finalize().first_chunk().map_or(0, |b| u64::from_le_bytes(*b)))
    }

    /// Logs in.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(&self) -> Result<Box<dyn Session>, Error> {
        match &self.way {
            Way::Ipmi => Ok(Box::new(self.open_ipmi().await?)),
            Way::Redfish(trust) => Ok(Box::new(redfish::Client::open(self, Some(trust)).await?)),
            Way::RedfishHttp => Ok(Box::new(redfish::Client::open(self, None).await?)),
            Way::Management => Ok(Box::new(management::Client::open(&self.place)?)),
        }
    }

    async fn open_ipmi(&self) -> Result<ipmi::Client, Error> {
        let config = Config {
            user: self.user.clone().into_bytes(),
            password: self.password.clone().into_bytes(),
            kg: self.ipmi.kg.clone(),
            privilege: self.ipmi.privilege,
            suite: self.ipmi.suite,
            allow_suite_3: true,
        };
        ipmi::Client::open(resolve(&self.place).await?, config).await
    }
}

impl Way {
    /// The protocol in one word.
    pub const fn speaks(&self) -> &'static str {
        match self {
            Self::Ipmi => "ipmi",
            Self::Redfish(_) | Self::RedfishHttp => "redfish",
            Self::Management => "management-api",
        }
    }
}

/// One for each BMC: by what it is known.
pub fn key(way: &Way, place: &str) -> String {
    format!("{}://{place}", way.speaks())
}

/// `HOST:PORT` out of an endpoint and the port that is meant without one.
pub fn place(endpoint: &str, port: u16) -> String {
    match endpoint.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if endpoint.contains(':') => endpoint.to_owned(),
        Err(_) => format!("{endpoint}:{port}"),
    }
}

/// The port where none is given.
pub const fn default_port(way: &Way) -> u16 {
    match way {
        Way::Ipmi => IPMI_PORT,
        Way::Redfish(_) => 443,
        Way::RedfishHttp | Way::Management => 80,
    }
}

async fn resolve(place: &str) -> Result<SocketAddr, Error> {
    let found = tokio::net::lookup_host(place).await.ok().and_then(|mut all| all.next());
    found.ok_or_else(|| Error::Http(format!("{place:?} is no address and no known host name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(user: &str, password: &str) -> Target {
        let (user, password) = (user.to_owned(), password.to_owned());
        let place = place("10.0.9.7", 623);
        Target {
            way: Way::Ipmi,
            place,
            user,
            password,
            ipmi: IpmiOptions::default(),
            machine: redfish::Machine::default(),
        }
    }

    #[test]
    fn nothing_secret_is_in_the_texts_of_a_target() {
        let target = target("admin", "s3cret");
        let texts = format!("{target} {target:?} {} {:?}", target.key(), target.version());
        assert!(!texts.contains("s3cret") && !texts.contains("admin"), "{texts}");
    }

    #[test]
    fn credentials_are_told_apart_whole() {
        assert_eq!(target("a", "bc").version(), target("a", "bc").version());
        assert_ne!(target("a", "bc").version(), target("ab", "c").version());
        assert_ne!(target("a", "bc").version(), target("a", "bd").version());
    }

    #[test]
    fn endpoints_may_be_addresses_names_or_have_a_port() {
        let table = [
            ("10.0.9.7", "10.0.9.7:623"),
            ("fd00::7", "[fd00::7]:623"),
            ("bmc7.rack", "bmc7.rack:623"),
            ("bmc7.rack:6230", "bmc7.rack:6230"),
            ("[fd00::7]:6230", "[fd00::7]:6230"),
        ];
        for (endpoint, expected) in table {
            assert_eq!(place(endpoint, 623), expected);
        }
    }
}
