//! The driver of [`protocol::ipmi::Session`]: owns the socket, the clock and
//! the random bytes; one request at a time.

use super::commands::{GetBootFlags, GetChassisStatus, SetBootOption};
use super::session::{Answer, BmcInfo, Session};
use super::{BootFlags, ChassisStatus, Error, Event, Power, Sensor};
use futures_util::future::BoxFuture;
use ipmi_rs_core::app::GetDeviceId;
use ipmi_rs_core::connection::{IpmiCommand, Message};
use protocol::ipmi::session::Random;
use protocol::ipmi::{self, Config, Output, wire};
use protocol::time::Instant;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;
use tokio::time::{Instant as Clock, sleep_until, timeout_at};

/// No operation on a BMC may take longer.
pub const OPERATION_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// An open session with a BMC.
pub struct Client {
    socket: UdpSocket,
    session: ipmi::Session<Os>,
    /// The zero of the session's clock.
    origin: Clock,
}

/// Random bytes of the operating system.
struct Os;

impl Random for Os {
    fn fill(&mut self, buffer: &mut [u8]) {
        // Without random bytes there is no safe session; getrandom fails only where the kernel has none at all.
        if getrandom::fill(buffer).is_err() {
            tracing::error!("the kernel gives no random bytes; ending rather than open a session that can be foretold");
            std::process::abort();
        }
    }
}

impl Client {
    /// Opens a session.
    ///
    /// # Errors
    /// Everything of [`protocol::ipmi::Error`], and what the socket says.
    pub async fn open(bmc: SocketAddr, config: Config) -> Result<Self, Error> {
        let any: SocketAddr =
            if bmc.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(bmc).await?;
        let origin = Clock::now();
        let mut client = Self { socket, session: ipmi::Session::start(config, Os, Instant::ZERO), origin };
        match client.next().await? {
            Output::Opened(suite) => {
                tracing::debug!(%bmc, suite = suite.number(), "IPMI session open");
                Ok(client)
            }
            Output::Ended(Some(error)) => Err(error.into()),
            _ => Err(Error::Closed),
        }
    }

    /// Sends a command and reads its answer (after the completion code).
    ///
    /// # Errors
    /// A completion code other than 0, a session that failed.
    pub async fn raw(&mut self, netfn: u8, command: u8, data: Vec<u8>) -> Result<Vec<u8>, Error> {
        let now = self.now();
        self.session.request(netfn, command, data, now).map_err(|_| Error::Closed)?;
        match self.next().await? {
            Output::Reply(0, data) => Ok(data),
            Output::Reply(code, _) => Err(Error::Completion { netfn, command, code }),
            Output::Ended(Some(error)) => Err(error.into()),
            _ => Err(Error::Closed),
        }
    }

    /// Sends a typed command.
    ///
    /// # Errors
    /// As [`Client::raw`], and an answer that cannot be read.
    pub async fn exec<C: IpmiCommand>(&mut self, command: C) -> Result<C::Output, Error> {
        let message: Message = command.into();
        let data = self.raw(message.netfn_raw(), message.cmd(), message.data().to_vec()).await?;
        C::parse_success_response(&data)
            .map_err(|_| Error::Answer { netfn: message.netfn_raw(), command: message.cmd() })
    }

    /// Closes the session on the BMC, which has few of them.
    pub async fn close(mut self) {
        let now = self.now();
        self.session.close(now);
        while let Ok(output) = self.next().await {
            if matches!(output, Output::Ended(_)) {
                break;
            }
        }
    }

    /// Runs the machine until it has something to tell.
    async fn next(&mut self) -> Result<Output, Error> {
        let limit = Clock::now() + OPERATION_LIMIT;
        let mut buffer = [0; wire::MAX_PACKET];
        loop {
            while let Some(output) = self.session.poll_output() {
                match output {
                    // A send that fails (no route, ICMP unreachable of before) is a lost packet: it is sent again.
                    Output::Send(packet) => drop(self.socket.send(&packet).await),
                    told => return Ok(told),
                }
            }
            let Some(deadline) = self.session.deadline() else { return Err(Error::Closed) };
            let deadline = self.origin + deadline.since(Instant::ZERO);
            match timeout_at(deadline.min(limit), self.socket.recv(&mut buffer)).await {
                Ok(Ok(n)) => {
                    let now = self.now();
                    self.session.handle(buffer.get(..n).unwrap_or_default(), now);
                }
                // ICMP port unreachable: the BMC may be restarting; wait as for silence.
                Ok(Err(_)) => {
                    sleep_until(deadline.min(limit)).await;
                    self.tick();
                }
                Err(_) if Clock::now() >= limit => return Err(Error::Limit),
                Err(_) => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        self.session.tick(now);
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Session for Client {
    /// Get Device ID.
    fn info(&mut self) -> Answer<'_, BmcInfo> {
        Box::pin(async move {
            let id = self.exec(GetDeviceId).await?;
            Ok(BmcInfo {
                speaks: format!("IPMI {}.{}", id.major_version, id.minor_version),
                manufacturer: format!("IANA enterprise number {}", id.manufacturer_id),
                product: format!("{:#06x}, device {:#04x} rev {}", id.product_id, id.device_id, id.device_revision),
                firmware: format!("{}.{:02}", id.major_fw_revision, id.minor_fw_revision),
                certificate: None,
                system: None,
            })
        })
    }

    fn status(&mut self) -> Answer<'_, ChassisStatus> {
        Box::pin(self.exec(GetChassisStatus))
    }

    fn switch(&mut self, action: Power) -> Answer<'_, ()> {
        Box::pin(self.exec(action))
    }

    fn boot_flags(&mut self) -> Answer<'_, BootFlags> {
        Box::pin(self.exec(GetBootFlags))
    }

    fn write_boot(&mut self, flags: BootFlags) -> Answer<'_, ()> {
        Box::pin(async move {
            if flags.device == Some(super::BootDevice::UefiHttp) {
                return Err(Error::Unsupported(
                    "IPMI has no boot flag for UEFI HTTP boot: use pxe, or a BMC that speaks Redfish".to_owned(),
                ));
            }
            // Parameters 0 and 4 are courtesy (ipmitool sends them too); BMCs that do not know them still take parameter 5.
            let courtesy = self.exec(SetBootOption::in_progress(true)).await.is_ok();
            self.exec(SetBootOption::flags(flags)).await?;
            let _ = self.exec(SetBootOption::acknowledge()).await;
            if courtesy {
                let _ = self.exec(SetBootOption::in_progress(false)).await;
            }
            Ok(())
        })
    }

    fn sel(&mut self) -> Answer<'_, Vec<Event>> {
        Box::pin(self.read_sel())
    }

    fn sel_clear(&mut self) -> Answer<'_, ()> {
        Box::pin(self.clear_sel())
    }

    fn sensors(&mut self) -> Answer<'_, Vec<Sensor>> {
        Box::pin(self.read_sensors())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(Self::close(*self))
    }
}
