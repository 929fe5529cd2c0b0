//! What is done to machines from outside, by their BMCs.

use crate::limits;
use crate::objects::{Error as StoreError, Objects};
use crate::power::pool::{Known, Pool, Refusal, Turn};
use crate::power::redfish::{self, Trust};
use crate::power::target::{IpmiOptions, Target, Way, default_port, place};
use crate::power::{self, BootDevice, Power, Trouble};
use crate::resource::{BmcTls, EffectKind, Kind, Server, Typed as _, ValueFrom, marks};
use base64::Engine as _;
use futures_util::future::BoxFuture;

/// Acts on machines. Every error is a sentence for the operator.
pub trait Hands: Send + Sync + 'static {
    /// Does it, and returns when the BMC shows that it is done. `efi`: the machine's firmware is UEFI.
    fn act<'a>(&'a self, server: &'a Server, efi: bool, kind: EffectKind) -> BoxFuture<'a, Result<(), String>>;
    /// Whether the machine is on.
    fn is_on<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<bool, String>>;
    /// What is known of its BMC; nothing where it was not asked yet.
    fn bmc(&self, server: &Server) -> Option<Known> {
        let _ = server;
        None
    }
}

/// By IPMI, Redfish or the management API: whatever the Server says.
pub struct BmcHands<O: Objects> {
    objects: O,
    pool: Pool,
}

impl<O: Objects> BmcHands<O> {
    /// Reads credentials from the Secrets in `objects`, and notes certificates there.
    pub fn new(objects: O) -> Self {
        Self { objects, pool: Pool::default() }
    }

    /// The BMCs.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits for the turn of this Server's BMC and does `work` with it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn with<T: Send>(
        &self,
        server: &Server,
        work: impl AsyncFnOnce(&mut Turn<'_>) -> Result<T, power::Error>,
    ) -> Result<T, String> {
        let target = self.target(server).await?;
        self.pool.with(&target, work).await.map_err(|refusal| told(&target, &refusal))
    }

    /// The BMC of a Server with everything that is needed to log in.
    async fn target(&self, server: &Server) -> Result<Target, String> {
        let (mut way, place) = way(server).ok_or("it has no BMC (spec.bmc)")?;
        let (mut user, mut password) = (String::new(), String::new());
        if let Some(bmc) = server.spec.bmc.as_ref().filter(|_| way != Way::Management) {
            user = self.value("user", &bmc.user, bmc.user_from.as_ref()).await?;
            password = self.value("pass", &bmc.pass, bmc.pass_from.as_ref()).await?;
        }
        if way == Way::Redfish(Trust::FirstSight) {
            way = Way::Redfish(Trust::Pin(self.pin(server, &place).await?));
        }
        Ok(Target { way, place, user, password, ipmi: IpmiOptions::default(), machine: machine(server) })
    }

    /// The fingerprint that the BMC's certificate must have: as it was noted, else as it is seen now.
    async fn pin(&self, server: &Server, place: &str) -> Result<String, String> {
        let name = &server.metadata.name;
        if let Some(pin) = pinned(server) {
            return Ok(pin.to_owned());
        }
        // The caller's copy may be older than the note.
        let object = self.objects.get(Kind::Server, "", name).await.map_err(|e| e.to_string())?;
        if let Some(pin) = Server::from_object(&object).ok().as_ref().and_then(pinned) {
            return Ok(pin.to_owned());
        }
        let sight = Target {
            way: Way::Redfish(Trust::FirstSight),
            place: place.to_owned(),
            user: String::new(),
            password: String::new(),
            ipmi: IpmiOptions::default(),
            machine: redfish::Machine::default(),
        };
        let info = self.pool.with(&sight, async |turn| turn.session().info().await).await;
        let shown = info.map_err(|refusal| told(&sight, &refusal))?.certificate;
        let shown = shown.ok_or_else(|| format!("BMC {place} shows no certificate"))?;
        // Noted before anything secret is sent. Whoever noted another one first is right.
        for _ in 0..limits::CLAIM_TRIES {
            let mut object = self.objects.get(Kind::Server, "", name).await.map_err(|e| e.to_string())?;
            if let Some(pin) = Server::from_object(&object).ok().as_ref().and_then(pinned) {
                return Ok(pin.to_owned());
            }
            object.metadata.annotations.insert(marks::BMC_CERTIFICATE.to_owned(), shown.clone());
            match self.objects.replace(object).await {
                Ok(_) => {
                    tracing::info!(
                        server = name,
                        bmc = place,
                        certificate = shown,
                        "the BMC's certificate is noted: no other one is believed from now on"
                    );
                    return Ok(shown);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(format!("the BMC's certificate cannot be noted: {e}")),
            }
        }
        Err("the Server changes too fast to note its BMC's certificate; trying again".to_owned())
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

/// By which way and where a Server's BMC is spoken to; nothing where it has none.
fn way(server: &Server) -> Option<(Way, String)> {
    if let Some(api) = &server.spec.management_api {
        return Some((Way::Management, api.endpoint.clone()));
    }
    let bmc = server.spec.bmc.as_ref().filter(|bmc| bmc.is_used())?;
    let way = match (bmc.interface.as_str(), bmc.tls.unwrap_or_default()) {
        ("redfish+http", _) => Way::RedfishHttp,
        ("redfish", BmcTls::Verify) => Way::Redfish(Trust::Verify),
        ("redfish", BmcTls::Insecure) => Way::Redfish(Trust::Insecure),
        ("redfish", BmcTls::Pin) => {
            Way::Redfish(pinned(server).map_or(Trust::FirstSight, |pin| Trust::Pin(pin.to_owned())))
        }
        _ => Way::Ipmi,
    };
    let port = u16::try_from(bmc.port).ok().filter(|port| *port != 0).unwrap_or(default_port(&way));
    let place = place(&bmc.endpoint, port);
    Some((way, place))
}

fn pinned(server: &Server) -> Option<&str> {
    let noted = server.metadata.annotations.get(marks::BMC_CERTIFICATE)?;
    redfish::is_fingerprint(noted).then_some(noted)
}

/// What the BMC of this Server must know of its machine.
fn machine(server: &Server) -> redfish::Machine {
    let hardware = server.spec.hardware.as_ref();
    let cards = hardware.and_then(|h| h.network.as_ref()).map(|n| n.interfaces.as_slice()).unwrap_or_default();
    redfish::Machine {
        uuid: server.metadata.name.clone(),
        serial: hardware.and_then(|h| h.system.as_ref()).map(|s| s.serial_number.clone()).unwrap_or_default(),
        macs: cards.iter().map(|c| c.mac.clone()).filter(|mac| !mac.is_empty()).collect(),
    }
}

fn told(target: &Target, refusal: &Refusal) -> String {
    match refusal {
        Refusal::Bmc(e) if e.trouble() == Trouble::Login => {
            format!("BMC {target} refuses the login: {e}; correct spec.bmc or its Secret")
        }
        refusal => format!("BMC {target}: {refusal}"),
    }
}

impl<O: Objects> Hands for BmcHands<O> {
    fn act<'a>(&'a self, server: &'a Server, efi: bool, kind: EffectKind) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.with(server, async move |turn| {
            let (device, power) = match kind {
                EffectKind::NetworkBoot => (Some(BootDevice::Pxe), Power::Cycle),
                EffectKind::DiskBoot => (Some(BootDevice::Disk), Power::Cycle),
                EffectKind::PowerOff => (None, Power::Off),
                EffectKind::PowerOn => (None, Power::On),
            };
            if let Some(device) = device {
                turn.set_boot(device, efi, false).await?;
            }
            turn.power(power).await.map(|_| ())
        }))
    }

    fn is_on<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(self.with(server, async |turn| turn.session().status().await.map(|s| s.on)))
    }

    fn bmc(&self, server: &Server) -> Option<Known> {
        let (way, place) = way(server)?;
        self.pool.known(&crate::power::target::key(&way, &place))
    }
}
