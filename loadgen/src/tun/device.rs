//! A TUN device: packets in and out by plain reads and writes.

use std::{io, net::Ipv4Addr, os::fd::OwnedFd, time::Duration};

use anyhow::Context;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
    net::{AddressFamily, SocketType, socket},
};

use super::{
    packet::MTU_BYTES,
    sys::{Ask, interface},
};

/// Packets that may wait in the device to be read. With the default of 500 a burst of answers
/// is dropped, and repaired a second later.
const TX_QUEUE_PACKETS: u16 = 16_384;
/// What the devices are called; the kernel puts in the first free number.
const NAME: &str = "roost%d";

/// A device that exists as long as this does.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    name: String,
}

impl Device {
    /// Makes a device in the network namespace of the calling thread, with this address and a
    /// route to its /16, and brings it up.
    ///
    /// # Errors
    /// One line that names the cause and its remedy.
    pub fn new(address: Ipv4Addr) -> anyhow::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = open("/dev/net/tun", flags, Mode::empty()).context(
            "/dev/net/tun cannot be opened (modprobe tun; in a container, pass the device: --device /dev/net/tun)",
        )?;
        let name = interface(&fd, NAME, Ask::MakeTun)
            .context("making a TUN device failed: it needs CAP_NET_ADMIN (run as root)")?;
        let asks = [
            Ask::Mtu(MTU_BYTES as u16),
            Ask::TxQueue(TX_QUEUE_PACKETS),
            Ask::Address(address),
            Ask::Mask(Ipv4Addr::new(255, 255, 0, 0)),
            Ask::Up,
        ];
        asks.iter().try_for_each(|&ask| configure(&name, ask))?;
        Ok(Self { fd, name })
    }

    /// The name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet; `None` if none is there.
    ///
    /// # Errors
    /// If the device is gone or down.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes one packet. The kernel's whole receive path runs within this call. False if the
    /// kernel had no memory for it: then it is lost, as packets may be.
    ///
    /// # Errors
    /// If the device is gone or down.
    pub fn write(&self, packet: &[u8]) -> io::Result<bool> {
        loop {
            match rustix::io::write(&self.fd, packet) {
                Ok(_) => return Ok(true),
                Err(Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there is a packet to read, at most so long.
    ///
    /// # Errors
    /// If the kernel refuses to wait.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Changes an interface of the calling thread's network namespace.
pub(super) fn configure(name: &str, ask: Ask) -> anyhow::Result<()> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    interface(any, name, ask).with_context(|| format!("configuring interface {name} failed ({ask:?})"))?;
    Ok(())
}
