//! Who listens where the clients connect to, as this network namespace's procfs says.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

/// A listening socket, told from a later one at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    inode: u64,
}

impl Listener {
    /// The one that connections to `target` arrive at; none if nobody listens on this machine.
    pub fn find(target: SocketAddr) -> Option<Self> {
        ["tcp", "tcp6"].iter().find_map(|table| {
            let file = File::open(format!("/proc/thread-self/net/{table}")).ok()?;
            find_in(BufReader::new(file), target)
        })
    }
}

/// Lines as "sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...",
/// addresses as words in the machine's order.
fn find_in(table: impl BufRead, target: SocketAddr) -> Option<Listener> {
    const LISTEN: &str = "0A";
    for line in table.lines().skip(1) {
        let line = line.ok()?;
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, _, state) = (words.next()?, words.next()?, words.next()?);
        // Listeners come first, and millions of connections may follow.
        if state != LISTEN {
            return None;
        }
        let (address, port) = local.split_once(':')?;
        let any = address.bytes().all(|digit| digit == b'0');
        if u16::from_str_radix(port, 16) == Ok(target.port()) && (any || address == hex(target.ip())) {
            return Some(Listener { inode: words.nth(5)?.parse().ok()? });
        }
    }
    None
}

fn hex(ip: IpAddr) -> String {
    let words = |octets: &[u8]| {
        octets
            .chunks_exact(4)
            .map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().expect("four"))))
            .collect()
    };
    match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_and_told_from_its_successor() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = first.local_addr().unwrap();
        let found = Listener::find(target).unwrap();
        assert_eq!(Listener::find(target), Some(found));
        drop(first);
        assert_eq!(Listener::find(target), None);
        let _second = TcpListener::bind(target).unwrap();
        assert_ne!(Listener::find(target).unwrap(), found);
        let six = TcpListener::bind("[::1]:0").unwrap();
        assert!(Listener::find(six.local_addr().unwrap()).is_some());
    }

    #[test]
    fn connections_are_no_listeners_and_end_the_search() {
        let line = |local: &str, state: &str| {
            format!("   0: {local} 00000000:0000 {state} 0:0 00:0 00000000     0        0 4711 1\n")
        };
        let table = |lines: &[String]| format!("  sl  local_address\n{}", lines.concat());
        let find = |text: String| find_in(text.as_bytes(), "127.0.0.1:7000".parse().unwrap());
        assert_eq!(find(table(&[line("00000000:1B58", "0A")])), Some(Listener { inode: 4711 }));
        assert_eq!(find(table(&[line("00000000:1B59", "0A")])), None);
        assert_eq!(find(table(&[line("00000000:1B59", "01"), line("00000000:1B58", "0A")])), None);
    }
}
