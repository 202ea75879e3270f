//! The only `unsafe` of this transport: network interface ioctls, a new namespace, and a child
//! that dies with us. Nothing here decides anything.
#![allow(unsafe_code)]

use std::{io, net::Ipv4Addr, os::unix::process::CommandExt, process::Command};

use rustix::{
    fd::AsFd,
    ioctl::{Opcode, Updater, ioctl},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};

const TUNSETIFF: Opcode = libc::TUNSETIFF as Opcode;
const SIOCGIFFLAGS: Opcode = libc::SIOCGIFFLAGS as Opcode;
const SIOCSIFFLAGS: Opcode = libc::SIOCSIFFLAGS as Opcode;
const SIOCSIFADDR: Opcode = libc::SIOCSIFADDR as Opcode;
const SIOCSIFNETMASK: Opcode = libc::SIOCSIFNETMASK as Opcode;
const SIOCSIFTXQLEN: Opcode = libc::SIOCSIFTXQLEN as Opcode;
const SIOCSIFMTU: Opcode = libc::SIOCSIFMTU as Opcode;

/// What is asked about a network interface (netdevice(7), Documentation/networking/tuntap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Of a descriptor of /dev/net/tun: make the device, whose packets come and go without a
    /// header of their own. The name may hold `%d`.
    MakeTun,
    /// Of any IPv4 socket, as are all others: bring the interface up.
    Up,
    /// Set its address.
    Address(Ipv4Addr),
    /// Set its network mask.
    Mask(Ipv4Addr),
    /// Packets that may wait to be read.
    TxQueue(u16),
    /// Largest packet in bytes.
    Mtu(u16),
}

/// `struct ifreq` as bytes, which leaves no padding and no union to mind: the name, then what
/// the request is about, at most a `struct ifmap` (24 bytes).
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    about: [u8; 24],
}

const _: () = assert!(size_of::<Request>() >= size_of::<libc::ifreq>());

impl Request {
    fn put(&mut self, bytes: &[u8]) {
        self.about[..bytes.len()].copy_from_slice(bytes);
    }
}

/// Asks, and returns the name of the interface, which [`Ask::MakeTun`] completes.
pub(super) fn interface(fd: impl AsFd, name: &str, ask: Ask) -> io::Result<String> {
    let mut request = Request { name: [0; libc::IFNAMSIZ], about: [0; 24] };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    match ask {
        Ask::MakeTun => {
            request.put(&((libc::IFF_TUN | libc::IFF_NO_PI) as u16).to_ne_bytes());
            call::<TUNSETIFF>(fd, &mut request)?;
        }
        Ask::Up => {
            call::<SIOCGIFFLAGS>(&fd, &mut request)?;
            let flags = u16::from_ne_bytes([request.about[0], request.about[1]]);
            request.put(&(flags | libc::IFF_UP as u16).to_ne_bytes());
            call::<SIOCSIFFLAGS>(fd, &mut request)?;
        }
        Ask::Address(address) => {
            request.put(&socket_address(address));
            call::<SIOCSIFADDR>(fd, &mut request)?;
        }
        Ask::Mask(mask) => {
            request.put(&socket_address(mask));
            call::<SIOCSIFNETMASK>(fd, &mut request)?;
        }
        Ask::TxQueue(packets) => {
            request.put(&u32::from(packets).to_ne_bytes());
            call::<SIOCSIFTXQLEN>(fd, &mut request)?;
        }
        Ask::Mtu(bytes) => {
            request.put(&u32::from(bytes).to_ne_bytes());
            call::<SIOCSIFMTU>(fd, &mut request)?;
        }
    }
    let name = request.name.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte));
    Ok(name.collect())
}

fn call<const OPCODE: Opcode>(fd: impl AsFd, request: &mut Request) -> io::Result<()> {
    // SAFETY: every opcode of this module takes a pointer to a `struct ifreq`, reads it, and
    // writes no more than one back. `Request` is at least as large and as aligned, all of it is
    // initialised, any bytes are valid in it, and the reference is exclusive for the duration of
    // the call. An ioctl on a descriptor of another kind ends in ENOTTY.
    unsafe { ioctl(fd, Updater::<OPCODE, Request>::new(request)) }?;
    Ok(())
}

/// `struct sockaddr_in` without a port.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// Moves the calling thread into a network namespace of its own.
pub(super) fn new_network_namespace() -> io::Result<()> {
    // SAFETY: the danger of unshare(2) lies in CLONE_FILES, which would leave descriptors of
    // other threads dangling. Only the network namespace is unshared here.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Has the kernel kill the child when the thread that starts it ends, by whatever cause.
pub(super) fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe work is done: two system calls, no
    // allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the request was made.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
}
