//! The one ethtool setting that a VXLAN device may need.

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Error, Result};

// include/uapi/linux/sockios.h, ethtool.h
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// `struct ifreq` with the pointer arm of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    value: *mut EthtoolValue,
    rest_of_union: [u8; 16],
}

/// Whether a device leaves transmit checksums to what is below it.
pub fn tx_checksum_offload(device: &str) -> Result<bool> {
    ioctl(device, ETHTOOL_GTXCSUM, 0).map(|value| value != 0)
}

/// Switches a device's transmit checksum offload on or off.
pub fn set_tx_checksum_offload(device: &str, on: bool) -> Result<()> {
    ioctl(device, ETHTOOL_STXCSUM, on.into()).map(drop)
}

fn ioctl(device: &str, command: u32, value: u32) -> Result<u32> {
    let failed =
        |errno| Error::new(format!("transmit checksum offload of device {device:?}"), errno);
    let mut name = [0u8; 16];
    if device.len() >= name.len() {
        return Err(failed(Errno::NODEV));
    }
    name[..device.len()].copy_from_slice(device.as_bytes());
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(failed)?;
    let mut payload = EthtoolValue { command, value };
    let mut request = InterfaceRequest { name, value: &raw mut payload, rest_of_union: [0; 16] };
    #[expect(
        unsafe_code,
        reason = "the kernel offers this setting by ioctl alone before Linux 5.6"
    )]
    // SAFETY: both structures have the kernel's layout and outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(failed(errno));
    }
    Ok(payload.value)
}
