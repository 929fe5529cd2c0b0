//! The BMC through the kernel's IPMI driver (`/dev/ipmi0`; linux/ipmi.h).

use crate::bmc::Bmc;
use crate::bmc::commands::Command;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that a BMC may take for an answer. The driver itself repeats a
/// command that was lost, and answers with a completion code after about as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// IPMI_MAX_MSG_LENGTH: no message is longer, bytes.
const MESSAGE: usize = 272;
/// IPMI_SYSTEM_INTERFACE_ADDR_TYPE
const SYSTEM_INTERFACE: i32 = 0x0c;
/// IPMI_BMC_CHANNEL
const BMC_CHANNEL: i16 = 0x0f;
/// IPMI_RESPONSE_RECV_TYPE
const RESPONSE: i32 = 1;

/// struct ipmi_system_interface_addr
#[repr(C)]
struct Address {
    kind: i32,
    channel: i16,
    lun: u8,
}

/// struct ipmi_msg
#[repr(C)]
struct Message {
    netfn: u8,
    command: u8,
    length: u16,
    data: *mut u8,
}

/// struct ipmi_req
#[repr(C)]
struct Request {
    address: *mut Address,
    address_length: u32,
    id: libc::c_long,
    message: Message,
}

/// struct ipmi_recv
#[repr(C)]
struct Received {
    kind: i32,
    address: *mut Address,
    address_length: u32,
    id: libc::c_long,
    message: Message,
}

const _: () = assert!(size_of::<Request>() == 40 && size_of::<Received>() == 48, "64-bit machines only");
/// _IOR('i', 13, struct ipmi_req)
const SEND_COMMAND: libc::Ioctl = 0x8028_690d_u32 as libc::Ioctl;
/// _IOWR('i', 11, struct ipmi_recv): what is too long is cut, and told by EMSGSIZE.
const RECEIVE_TRUNC: libc::Ioctl = 0xc030_690b_u32 as libc::Ioctl;

/// The BMC of this machine.
pub struct Device {
    file: File,
    last: libc::c_long,
}

impl Device {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel's: there is none, or its driver is not loaded.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)?;
        Ok(Self { file, last: 0 })
    }

    /// Waits until something can be received; false at the deadline.
    fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = [rustix::event::PollFd::new(&self.file, rustix::event::PollFlags::IN)];
        let limit = rustix::time::Timespec::try_from(left).map_err(io::Error::other)?;
        match rustix::event::poll(&mut poll, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(Instant::now() < deadline),
            Err(e) => Err(e.into()),
        }
    }

    /// The next message, and its id; nothing where there is none yet.
    fn receive(&self) -> io::Result<Option<(i32, libc::c_long, Vec<u8>)>> {
        let mut data = vec![0_u8; MESSAGE];
        let mut address = Address { kind: 0, channel: 0, lun: 0 };
        let mut received = Received {
            kind: 0,
            address: &raw mut address,
            address_length: size_of::<Address>() as u32,
            id: 0,
            message: Message { netfn: 0, command: 0, length: MESSAGE as u16, data: data.as_mut_ptr() },
        };
        // SAFETY: `received` is a whole ipmi_recv. The kernel writes at most address_length bytes to
        // `address` and at most length bytes to `data`; both are alive and that long.
        let returned = unsafe { libc::ioctl(self.file.as_raw_fd(), RECEIVE_TRUNC, &raw mut received) };
        if returned < 0 {
            let e = io::Error::last_os_error();
            return match e.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(e),
            };
        }
        data.truncate(received.message.length.into());
        Ok(Some((received.kind, received.id, data)))
    }
}

impl Bmc for Device {
    fn send(&mut self, command: &Command) -> io::Result<Vec<u8>> {
        self.last += 1;
        let mut data = command.data.clone();
        let length = u16::try_from(data.len()).map_err(io::Error::other)?;
        let mut address = Address { kind: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun: 0 };
        let mut request = Request {
            address: &raw mut address,
            address_length: size_of::<Address>() as u32,
            id: self.last,
            message: Message { netfn: command.netfn, command: command.number, length, data: data.as_mut_ptr() },
        };
        // SAFETY: `request` is a whole ipmi_req; the kernel reads address_length bytes of `address` and
        // length bytes of `data`, both alive and that long, and keeps neither.
        if unsafe { libc::ioctl(self.file.as_raw_fd(), SEND_COMMAND, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let deadline = Instant::now() + PATIENCE;
        while self.wait(deadline)? {
            match self.receive()? {
                Some((RESPONSE, id, answer)) if id == self.last => return Ok(answer),
                // An answer that came too late for an earlier command, or an event.
                Some(_) | None => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs())))
    }

    fn pause(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}
