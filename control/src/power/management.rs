//! The HTTP API by which Sidero's virtual machines are switched
//! (`spec.managementApi`): `POST /poweron`, `/poweroff`, `/reboot`, `/pxeboot`
//! and `GET /status` with `{"PoweredOn": bool}`. It has no logins.

use super::redfish::http::{Http, Timeouts};
use super::session::{Answer, BmcInfo, Session};
use super::{BootDevice, BootFlags, ChassisStatus, Error, Event, Power, Sensor};
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde_json::Value;

/// One such machine.
pub struct Client {
    http: Http,
    /// What was written last: the API cannot be asked.
    network: bool,
}

impl Client {
    /// Prepares requests; nothing is sent yet.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub fn open(endpoint: &str) -> Result<Self, Error> {
        let base = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        Ok(Self { http: Http::plain(base.trim_end_matches('/'), Timeouts::default())?, network: false })
    }

    async fn post(&mut self, path: &str) -> Result<(), Error> {
        self.http.send(Method::POST, path, None, &[]).await?.done(path).map(|_| ())
    }
}

fn lacks<T>(what: &str) -> Result<T, Error> {
    Err(Error::Unsupported(format!("a managementApi has no {what}")))
}

impl Session for Client {
    fn info(&mut self) -> Answer<'_, BmcInfo> {
        Box::pin(async { lacks("description of itself") })
    }

    fn status(&mut self) -> Answer<'_, ChassisStatus> {
        Box::pin(async move {
            let answer = self.http.send(Method::GET, "/status", None, &[]).await?.done("/status")?;
            let on = answer.get("PoweredOn").or_else(|| answer.get("poweredOn")).and_then(Value::as_bool);
            match on {
                Some(on) => Ok(ChassisStatus { on, ..ChassisStatus::default() }),
                None => Err(Error::Refused("GET /status: no PoweredOn in the answer".to_owned())),
            }
        })
    }

    fn switch(&mut self, action: Power) -> Answer<'_, ()> {
        Box::pin(async move {
            match action {
                Power::On => self.post("/poweron").await,
                Power::Off => self.post("/poweroff").await,
                Power::Cycle | Power::Reset => self.post("/reboot").await,
                Power::Soft => lacks("way to ask the operating system to shut down"),
            }
        })
    }

    fn boot_flags(&mut self) -> Answer<'_, BootFlags> {
        let device = if self.network { BootDevice::Pxe } else { BootDevice::Disk };
        Box::pin(async move { Ok(BootFlags { valid: true, persistent: false, efi: true, device: Some(device) }) })
    }

    fn write_boot(&mut self, flags: BootFlags) -> Answer<'_, ()> {
        Box::pin(async move {
            match flags.device {
                Some(BootDevice::Pxe) => {
                    self.post("/pxeboot").await?;
                    self.network = true;
                    Ok(())
                }
                // Its machines boot from disk unless told otherwise, once.
                Some(BootDevice::Disk | BootDevice::None) => {
                    self.network = false;
                    Ok(())
                }
                _ => lacks("such boot device"),
            }
        })
    }

    fn sel(&mut self) -> Answer<'_, Vec<Event>> {
        Box::pin(async { lacks("event log") })
    }

    fn sel_clear(&mut self) -> Answer<'_, ()> {
        Box::pin(async { lacks("event log") })
    }

    fn sensors(&mut self) -> Answer<'_, Vec<Sensor>> {
        Box::pin(async { lacks("sensors") })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
