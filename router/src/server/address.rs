//! Where a worker listens.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::io::Errno;

use crate::listen;

/// An address to listen on: `HOST:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' is not an address: want HOST:PORT or unix:PATH ({cause})")]
pub struct AddressError {
    text: String,
    cause: String,
}

impl Address {
    /// Whether only processes of this host can reach it, so that a link secret is not required.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Every address that `text` leads to, at least one: a name may have several. May block for as long
    /// as the system's resolver does.
    ///
    /// # Errors
    /// `text` is neither `HOST:PORT` nor `unix:PATH`, or the name has no address now.
    pub fn resolve(text: &str) -> Result<Vec<Self>, AddressError> {
        let error = |cause: &dyn fmt::Display| AddressError { text: text.into(), cause: cause.to_string() };
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(error(&"the path is empty"));
            }
            return Ok(vec![Self::Unix(path.into())]);
        }
        let mut found: Vec<_> =
            text.to_socket_addrs().map_err(|cause| error(&cause))?.map(Self::Tcp).collect();
        let mut seen = Vec::new();
        found.retain(|address| {
            let is_new = !seen.contains(address);
            seen.push(address.clone());
            is_new
        });
        if found.is_empty() {
            return Err(error(&"the name has no address"));
        }
        Ok(found)
    }
}

/// The first of [`Address::resolve`].
impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::resolve(text).map(|mut addresses| addresses.swap_remove(0))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// Which.
    pub address: Address,
    /// What the kernel says.
    pub error: io::Error,
}

impl BindError {
    /// Whether this machine does not have the address, which its other addresses do not suffer from.
    fn is_missing_address(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrNotAvailable
            || Errno::from_io_error(&self.error) == Some(Errno::AFNOSUPPORT)
    }
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

impl Listener {
    /// Binds and listens; `[::]` takes no IPv4 ([`listen::tcp`]). A Unix socket file that nobody listens on any more is replaced.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => listen::tcp(*address).map(Self::Tcp),
            Address::Unix(path) => {
                remove_stale(path)?;
                UnixListener::bind(path).map(Self::Unix)
            }
        }
    }

    /// Binds every address of one name. An address that this machine does not have (IPv6 off, an
    /// interface that is down) is left out, with the reason, as long as another one can be bound.
    ///
    /// # Errors
    /// The address that cannot be bound, and why.
    pub fn bind_all(addresses: &[Address]) -> Result<(Vec<Self>, Vec<BindError>), BindError> {
        let (mut listeners, mut left_out) = (Vec::new(), Vec::new());
        for address in addresses {
            match Self::bind(address) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    let error = BindError { address: address.clone(), error };
                    if !error.is_missing_address() {
                        return Err(error);
                    }
                    left_out.push(error);
                }
            }
        }
        match (listeners.is_empty(), left_out.pop()) {
            (true, Some(last)) => Err(last),
            (_, last) => {
                left_out.extend(last);
                Ok((listeners, left_out))
            }
        }
    }

    /// Where it listens, with the port that the kernel chose if 0 was asked for.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().map(Path::to_owned).unwrap_or_default()))
            }
        }
    }
}

/// Removes a socket file that a process left behind; one that answers is left alone, and bind(2)
/// will say EADDRINUSE.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::{fs::FileTypeExt, net::UnixStream};
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "what stands there is no socket, and is left as it is: name another path, or remove it",
        ));
    }
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, local) in
            [("127.0.0.1:7400", true), ("[::1]:1", true), ("192.0.2.1:5", false), ("unix:/run/w", true)]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (text, local));
        }
        assert!(!"0.0.0.0:1".parse::<Address>().unwrap().is_local());
        assert!("[::ffff:127.0.0.1]:1".parse::<Address>().unwrap().is_local());
        for text in ["", "unix:", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_addresses_of_a_name_are_bound() {
        let addresses = ["127.0.0.1:0", "127.0.0.2:0"].map(|text| text.parse().unwrap());
        let (listeners, left_out) = Listener::bind_all(&addresses).unwrap();
        let hosts: Vec<_> =
            listeners.iter().map(|listener| listener.address().unwrap().to_string()).collect();
        assert!(hosts[0].starts_with("127.0.0.1:") && hosts[1].starts_with("127.0.0.2:"), "{hosts:?}");
        assert!(left_out.is_empty());
    }

    #[test]
    fn an_address_that_is_not_here_is_left_out_but_not_the_last_one() {
        let [here, elsewhere] = ["127.0.0.1:0", "192.0.2.1:0"].map(|text| text.parse::<Address>().unwrap());
        let (listeners, left_out) = Listener::bind_all(&[elsewhere.clone(), here.clone()]).unwrap();
        assert_eq!((listeners.len(), left_out.len()), (1, 1));
        assert_eq!(left_out[0].address, elsewhere);
        assert_eq!(Listener::bind_all(std::slice::from_ref(&elsewhere)).unwrap_err().address, elsewhere);
        // An address that somebody else has is a mistake, whatever else could be bound.
        let taken = listeners[0].address().unwrap();
        assert_eq!(Listener::bind_all(&[here, taken.clone()]).unwrap_err().address, taken);
    }

    #[test]
    fn a_name_leads_to_each_of_its_addresses_once() {
        let found = Address::resolve("localhost:7500").unwrap();
        assert!(found.iter().all(Address::is_local));
        assert!((1..found.len()).all(|index| !found[..index].contains(&found[index])), "{found:?}");
    }

    #[test]
    fn what_is_no_socket_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        std::fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&Address::Unix(path.clone())).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_file_left_behind_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("w"));
        let first = Listener::bind(&address).unwrap();
        assert_eq!(Listener::bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(Listener::bind(&address).unwrap().address().unwrap(), address);
    }
}
