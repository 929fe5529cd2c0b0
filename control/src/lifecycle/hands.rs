//! What is done to machines from outside, by their BMCs.

use crate::limits;
use crate::objects::{Error as StoreError, Objects};
use crate::power::{self, BootDevice, Client, IPMI_PORT, Power};
use crate::resource::{EffectKind, Kind, Server, ValueFrom};
use base64::Engine as _;
use futures_util::future::BoxFuture;
use protocol::ipmi::{Config, Privilege};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Semaphore;

/// Acts on machines. Every error is a sentence for the operator.
pub trait Hands: Send + Sync + 'static {
    /// Does it, and returns when the BMC shows that it is done. `efi`: the machine's firmware is UEFI.
    fn act<'a>(&'a self, server: &'a Server, efi: bool, kind: EffectKind) -> BoxFuture<'a, Result<(), String>>;
    /// Whether the machine is on.
    fn is_on<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<bool, String>>;
}

/// By IPMI.
pub struct BmcHands<O: Objects> {
    objects: O,
    bmcs: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Logins>>>>,
    site: Semaphore,
}

/// Logins that a BMC has refused lately. Its lock is the BMC's queue: one session at a time.
#[derive(Default)]
struct Logins {
    refused: VecDeque<Instant>,
}

impl<O: Objects> BmcHands<O> {
    /// Reads credentials from the Secrets in `objects`.
    pub fn new(objects: O) -> Self {
        Self { objects, bmcs: Mutex::default(), site: Semaphore::new(limits::BMCS_AT_ONCE) }
    }

    /// The queue of a BMC.
    fn queue(&self, endpoint: &str) -> Arc<tokio::sync::Mutex<Logins>> {
        let mut bmcs = self.bmcs.lock().unwrap_or_else(PoisonError::into_inner);
        if bmcs.len() >= limits::MACHINES {
            // Only those that nobody waits for, and that have nothing to remember.
            bmcs.retain(|_, q| Arc::strong_count(q) > 1 || q.try_lock().is_ok_and(|l| !l.refused.is_empty()));
        }
        bmcs.entry(endpoint.to_owned()).or_default().clone()
    }

    async fn with<T: Send>(
        &self,
        server: &Server,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, power::Error>,
    ) -> Result<T, String> {
        let bmc = server.spec.bmc.as_ref().ok_or("it has no BMC (spec.bmc)")?;
        let port = if bmc.port == 0 { u32::from(IPMI_PORT) } else { bmc.port };
        let place = match bmc.endpoint.parse::<std::net::IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, u16::try_from(port).unwrap_or(IPMI_PORT)).to_string(),
            Err(_) if bmc.endpoint.contains(':') => bmc.endpoint.clone(),
            Err(_) => format!("{}:{port}", bmc.endpoint),
        };
        let user = self.value("user", &bmc.user, bmc.user_from.as_ref()).await?;
        let password = self.value("pass", &bmc.pass, bmc.pass_from.as_ref()).await?;
        let work = async {
            // First the BMC's own turn, then one of the site's: a hanging BMC's queue must not hold the site.
            let queue = self.queue(&place);
            let mut logins = queue.lock().await;
            logins.check(Instant::now())?;
            let _turn = self.site.acquire().await.map_err(|_| "control is ending")?;
            let found = tokio::net::lookup_host(&place).await.ok().and_then(|mut all| all.next());
            let address =
                found.ok_or_else(|| format!("spec.bmc.endpoint {place:?} is no address and no known name"))?;
            let config = Config {
                user: user.into_bytes(),
                password: password.into_bytes(),
                kg: None,
                privilege: Privilege::Operator,
                suite: None,
                allow_suite_3: true,
            };
            let mut client = Client::open(address, config).await.map_err(|e| {
                if is_login(&e) {
                    logins.refused.push_back(Instant::now());
                    format!("BMC {place} refuses the login: {e}; correct spec.bmc or its Secret")
                } else {
                    format!("BMC {place}: {e}")
                }
            })?;
            logins.refused.clear();
            let done = work(&mut client).await.map_err(|e| format!("BMC {place}: {e}"));
            client.close().await;
            done
        };
        tokio::time::timeout(limits::EFFECT_TIME, work)
            .await
            .unwrap_or_else(|_| Err(format!("BMC {place} did not finish within {} s", limits::EFFECT_TIME.as_secs())))
    }

    /// A credential: plain, or out of a Secret.
    async fn value(&self, field: &str, plain: &str, from: Option<&ValueFrom>) -> Result<String, String> {
        let Some(key) = from.and_then(|f| f.secret_key_ref.as_ref()) else { return Ok(plain.to_owned()) };
        let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
        let at = format!("Secret {namespace}/{} key {}", key.name, key.key);
        let secret = match self.objects.get(Kind::Secret, namespace, &key.name).await {
            Ok(secret) => secret,
            Err(StoreError::NotFound(_)) => return Err(format!("spec.bmc.{field}From: there is no {at}")),
            Err(e) => return Err(format!("spec.bmc.{field}From: {at}: {e}")),
        };
        let value = secret.data.get(&key.key).and_then(serde_json::Value::as_str);
        let bytes = value.and_then(|v| base64::engine::general_purpose::STANDARD.decode(v.trim()).ok());
        let text = bytes.and_then(|b| String::from_utf8(b).ok());
        text.map(|t| t.trim_end_matches('\n').to_owned())
            .ok_or_else(|| format!("spec.bmc.{field}From: {at} is missing or not base64 text"))
    }
}

impl Logins {
    /// Leaves a BMC alone that has refused us too often (F21).
    fn check(&mut self, now: Instant) -> Result<(), String> {
        while self.refused.front().is_some_and(|t| now.saturating_duration_since(*t) > limits::BMC_LOGIN_WINDOW) {
            self.refused.pop_front();
        }
        if self.refused.len() >= limits::BMC_LOGINS {
            return Err(format!(
                "the BMC has refused the login {} times; it is left alone for {} minutes lest it locks the user out; correct spec.bmc or its Secret",
                self.refused.len(),
                limits::BMC_LOGIN_WINDOW.as_secs() / 60
            ));
        }
        Ok(())
    }
}

/// Whether an error means wrong credentials, not a BMC that is away.
fn is_login(e: &power::Error) -> bool {
    use protocol::ipmi::Error;
    matches!(e, power::Error::Session(Error::Refused(..) | Error::BadPassword))
}

impl<O: Objects> Hands for BmcHands<O> {
    fn act<'a>(&'a self, server: &'a Server, efi: bool, kind: EffectKind) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.with(server, async move |client| {
            let boot = |device| (device, efi);
            let (device, power) = match kind {
                EffectKind::NetworkBoot => (Some(boot(BootDevice::Pxe)), Power::Cycle),
                EffectKind::DiskBoot => (Some(boot(BootDevice::Disk)), Power::Cycle),
                EffectKind::PowerOff => (None, Power::Off),
                EffectKind::PowerOn => (None, Power::On),
            };
            if let Some((device, efi)) = device {
                client.set_boot(device, efi, false).await?;
            }
            client.power(power).await.map(|_| ())
        }))
    }

    fn is_on<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(self.with(server, async |client| client.status().await.map(|s| s.on)))
    }
}
