//! Commands that go to a drive as they are: NVMe by its admin queue, ATA inside
//! SCSI (SAT-4 section 12.2.3, ATA PASS-THROUGH (16)).

use super::block::check;
use crate::wipe::ata::{self, Data};
use crate::wipe::nvme::{self, Command};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// _IOWR('N', 0x41, struct nvme_passthru_cmd), linux/nvme_ioctl.h
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xc048_4e41_u32 as libc::Ioctl;
/// scsi/sg.h
const SG_IO: libc::Ioctl = 0x2285 as libc::Ioctl;
const SG_DXFER_NONE: libc::c_int = -1;
const SG_DXFER_TO_DEV: libc::c_int = -2;
const SG_DXFER_FROM_DEV: libc::c_int = -3;

/// struct nvme_passthru_cmd (linux/nvme_ioctl.h).
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<NvmeCommand>() == 0x48);

/// The admin queue of the drive behind an open namespace.
pub struct NvmeQueue<'a>(pub &'a File);

impl nvme::Admin for NvmeQueue<'_> {
    fn admin(&mut self, command: Command, data: &mut [u8]) -> io::Result<()> {
        let mut command = NvmeCommand {
            opcode: command.opcode,
            nsid: command.nsid,
            addr: data.as_mut_ptr() as u64,
            data_len: u32::try_from(data.len()).map_err(io::Error::other)?,
            cdw10: command.cdw10,
            timeout_ms: command.timeout_ms,
            ..NvmeCommand::default()
        };
        // SAFETY: `command` is a whole nvme_passthru_cmd; the kernel moves data_len bytes at addr, which
        // is `data`, alive and exclusively ours for the whole call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) })
    }
}

/// struct sg_io_hdr (scsi/sg.h).
#[repr(C)]
struct SgIoHdr {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut u8,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: libc::c_int,
    usr_ptr: *mut u8,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SgIoHdr>() == 88);

/// A disk that the kernel talks SCSI to; an ATA drive is behind it, or says that it is none.
pub struct Scsi<'a>(pub &'a File);

impl ata::Drive for Scsi<'_> {
    fn command(&mut self, command: u8, data: Data<'_>, timeout_s: u32) -> io::Result<()> {
        // Protocol (bits 4:1): 3 no data, 4 PIO in, 5 PIO out. Then T_DIR, BYT_BLOK, T_LENGTH (2: the sector count).
        let (protocol, flags, direction, buffer): (u8, u8, _, _) = match data {
            Data::None => (3, 0, SG_DXFER_NONE, std::ptr::null_mut()),
            Data::In(sector) => (4, 0b1110, SG_DXFER_FROM_DEV, sector.as_mut_ptr()),
            // The kernel only reads it.
            Data::Out(sector) => (5, 0b0110, SG_DXFER_TO_DEV, sector.as_ptr().cast_mut()),
        };
        let length = if buffer.is_null() { 0 } else { 512 };
        let mut cdb = [0_u8; 16];
        (cdb[0], cdb[1], cdb[2]) = (0x85, protocol << 1, flags);
        cdb[6] = u8::from(length > 0);
        cdb[14] = command;
        let mut sense = [0_u8; 64];
        let mut head = SgIoHdr {
            interface_id: i32::from(b'S'),
            dxfer_direction: direction,
            cmd_len: 16,
            mx_sb_len: 64,
            iovec_count: 0,
            dxfer_len: length,
            dxferp: buffer,
            cmdp: cdb.as_ptr(),
            sbp: sense.as_mut_ptr(),
            timeout: timeout_s.saturating_mul(1000),
            flags: 0,
            pack_id: 0,
            usr_ptr: std::ptr::null_mut(),
            status: 0,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status: 0,
            driver_status: 0,
            resid: 0,
            duration: 0,
            info: 0,
        };
        // SAFETY: `head` is a whole sg_io_hdr; its pointers are to `cdb` (16 bytes), `sense` (64) and the
        // caller's sector (512, or null with length 0), all alive for the whole call, and written only in the
        // directions that they are given mutably.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), SG_IO, &raw mut head) })?;
        verdict(head.status, head.host_status, head.driver_status, &sense)
    }
}

/// What became of a command, by SCSI status, sense data (SPC-4 4.5) and the kernel's own words.
fn verdict(status: u8, host: u16, driver: u16, sense: &[u8; 64]) -> io::Result<()> {
    const CHECK_CONDITION: u8 = 2;
    /// DRIVER_SENSE: there are sense data, which says the status too.
    const DRIVER_SENSE: u16 = 8;
    if host != 0 || driver & !DRIVER_SENSE != 0 {
        return Err(io::Error::other(format!("the kernel could not deliver it (host {host:#x}, driver {driver:#x})")));
    }
    match (status, sense[0] & 0x7f) {
        (0, _) => Ok(()),
        // Descriptor format: key, code; fixed format: likewise, elsewhere.
        (CHECK_CONDITION, 0x72 | 0x73) => sense_key(sense[1] & 0x0f, sense[2], sense[3]),
        (CHECK_CONDITION, 0x70 | 0x71) => sense_key(sense[2] & 0x0f, sense[12], sense[13]),
        (status, _) => Err(io::Error::other(format!("SCSI status {status:#x}"))),
    }
}

fn sense_key(key: u8, code: u8, qualifier: u8) -> io::Result<()> {
    match (key, code) {
        // Recovered, or "ATA pass-through information available": it was done.
        (0 | 1, _) => Ok(()),
        // "Invalid command operation code", "invalid field in CDB": no ATA drive is behind it.
        (5, 0x20 | 0x24) => Err(io::Error::new(io::ErrorKind::Unsupported, "no ATA drive")),
        _ => Err(io::Error::other(format!("SCSI sense {key:x}/{code:02x}/{qualifier:02x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_data_of_both_formats_are_understood() {
        let sense = |bytes: &[(usize, u8)]| {
            let mut sense = [0; 64];
            bytes.iter().for_each(|(at, b)| sense[*at] = *b);
            sense
        };
        assert!(verdict(0, 0, 0, &[0; 64]).is_ok());
        let done = sense(&[(0, 0x72), (1, 1), (2, 0), (3, 0x1d)]);
        assert!(verdict(2, 0, 8, &done).is_ok(), "ATA pass-through information available");
        let aborted = sense(&[(0, 0x72), (1, 0x0b)]);
        assert_eq!(verdict(2, 0, 8, &aborted).unwrap_err().to_string(), "SCSI sense b/00/00");
        for none in [sense(&[(0, 0x70), (2, 5), (12, 0x20)]), sense(&[(0, 0x72), (1, 5), (2, 0x24)])] {
            assert_eq!(verdict(2, 0, 0, &none).unwrap_err().kind(), io::ErrorKind::Unsupported);
        }
        assert!(verdict(0, 3, 0, &[0; 64]).is_err(), "a timeout of the host adapter");
        assert!(verdict(8, 0, 0, &[0; 64]).is_err(), "busy");
    }
}
