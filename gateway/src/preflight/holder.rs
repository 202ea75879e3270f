//! Who listens on an address or at a socket already: a running gateway, or somebody else.
//!
//! A configuration is checked beside the gateway that is to reload it, so what that one holds is no
//! fault. The owner of a socket is found by the descriptors in `/proc`; where another user's are not
//! to be seen, by a gateway that runs as the user who made the socket.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// The name of a gateway's process, as `/proc/PID/comm` has it.
const GATEWAY: &str = "roost-gateway";

/// Whoever holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A running gateway.
    Gateway {
        /// Its process.
        pid: u32,
    },
    /// Another program, or one that cannot be seen: in words.
    Other(String),
}

/// A listening socket in the kernel's tables.
struct Listening {
    inode: u64,
    /// Whose it is; none where the table does not say.
    uid: Option<u32>,
}

/// Who listens on `address`, or on all addresses with its port; none: nobody does.
pub(super) fn of_address(proc: &Path, address: SocketAddr) -> Option<Holder> {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(proc.join("self/net").join(name)));
    let sockets: Vec<_> = tables
        .iter()
        .flatten()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| tcp_listener(line, address))
        .collect();
    who(proc, &sockets)
}

/// Who listens at the Unix socket `path`; none: nobody does.
pub(super) fn of_path(proc: &Path, path: &Path) -> Option<Holder> {
    /// SO_ACCEPTCON among the flags: the socket listens.
    const LISTENS: u64 = 1 << 16;
    let table = fs::read_to_string(proc.join("self/net/unix")).ok()?;
    let sockets: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, _, _, flags, _, _, inode, at, ..] = words[..] else { return None };
            let listens = u64::from_str_radix(flags, 16).is_ok_and(|flags| flags & LISTENS != 0);
            (listens && Path::new(at) == path)
                .then(|| inode.parse().ok().map(|inode| Listening { inode, uid: None }))?
        })
        .collect();
    who(proc, &sockets)
}

/// A line of /proc/net/tcp or tcp6, if it is a listener that `address` would clash with.
fn tcp_listener(line: &str, address: SocketAddr) -> Option<Listening> {
    const LISTEN: &str = "0A";
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, uid, _, inode, ..] = words[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    let ip = hex_address(ip)?;
    let clashes = u16::from_str_radix(port, 16).ok()? == address.port()
        && (ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified());
    clashes.then_some(Listening { inode: inode.parse().ok()?, uid: uid.parse().ok() })
}

/// An address as the tables have it: words of 32 bits as the machine reads them.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(8 * index..8 * index + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

fn who(proc: &Path, sockets: &[Listening]) -> Option<Holder> {
    if sockets.is_empty() {
        return None;
    }
    let links: Vec<_> = sockets.iter().map(|socket| format!("socket:[{}]", socket.inode)).collect();
    let mut other = None;
    let mut gateways = Vec::new();
    for (pid, directory) in processes(proc) {
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default().trim_end().to_owned();
        let is_gateway = name == GATEWAY;
        if is_gateway {
            gateways.push((pid, uid_of(&directory)));
        }
        if holds(&directory, &links) {
            if is_gateway {
                return Some(Holder::Gateway { pid });
            }
            other = Some(Holder::Other(format!("{name}, process {pid}")));
        }
    }
    let same_user = |uid: Option<u32>| {
        sockets.iter().any(|socket| uid.is_some() && (socket.uid.is_none() || socket.uid == uid))
    };
    let unseen = || gateways.iter().find(|(_, uid)| same_user(*uid)).map(|&(pid, _)| Holder::Gateway { pid });
    other.or_else(unseen).or_else(|| Some(Holder::Other("a process of another user".to_owned())))
}

/// All processes but this one.
fn processes(proc: &Path) -> impl Iterator<Item = (u32, std::path::PathBuf)> {
    let entries = fs::read_dir(proc).ok().into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (pid != std::process::id()).then(|| (pid, entry.path()))
    })
}

fn holds(process: &Path, links: &[String]) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).ok().into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
}

fn uid_of(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use super::*;

    const PROC: &str = "/proc";

    #[test]
    fn nobody_and_this_very_process_are_told_apart_from_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // This process is left out, so its sockets are nobody's that could be named.
        assert!(matches!(
            of_address(Path::new(PROC), address),
            Some(Holder::Other(_) | Holder::Gateway { .. })
        ));
        drop(listener);
        assert_eq!(of_address(Path::new(PROC), address), None);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert_eq!(of_path(Path::new(PROC), &path), None);
        let listener = UnixListener::bind(&path).unwrap();
        assert!(of_path(Path::new(PROC), &path).is_some());
        drop(listener);
        assert_eq!(of_path(Path::new(PROC), &path), None, "a socket file that was left behind is nobody's");
    }

    /// A made-up /proc: process 7 holds inode 70.
    fn made_up(comm: &str, uid: u32, sees: bool) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let line = "   0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 70 1 0";
        write("self/net/tcp", &format!("  sl  local_address\n{line}\n"));
        write("7/comm", &format!("{comm}\n"));
        write("7/status", &format!("Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"));
        write("7/fd/0", "");
        if sees {
            symlink("socket:[70]", root.path().join("7/fd/9")).unwrap();
        }
        root
    }

    #[test]
    fn a_gateway_is_known_by_its_descriptors_or_by_its_user() {
        let holder = |comm: &str, uid, sees, address: &str| {
            let root = made_up(comm, uid, sees);
            of_address(root.path(), address.parse().unwrap())
        };
        let gateway = Some(Holder::Gateway { pid: 7 });
        assert_eq!(holder(GATEWAY, 5, true, "127.0.0.1:7400"), gateway);
        assert_eq!(holder(GATEWAY, 1000, false, "127.0.0.1:7400"), gateway);
        assert_eq!(holder(GATEWAY, 1000, false, "0.0.0.0:7400"), gateway);
        let named = Some(Holder::Other("nginx, process 7".to_owned()));
        assert_eq!(holder("nginx", 1000, true, "127.0.0.1:7400"), named);
        for (comm, uid) in [("nginx", 1000), (GATEWAY, 5)] {
            let unseen = Some(Holder::Other("a process of another user".to_owned()));
            assert_eq!(holder(comm, uid, false, "127.0.0.1:7400"), unseen);
        }
        assert_eq!(holder(GATEWAY, 5, true, "127.0.0.1:7401"), None);
        assert_eq!(holder(GATEWAY, 5, true, "127.0.0.2:7400"), None);
    }
}
