//! Values that are not plain numbers, each parsed from the text a file, variable or flag has.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use roost_protocol::edge;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{event_loop::Target, op::LinkAddress};

/// A value, or `"auto"`: the gateway finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// The gateway finds it.
    Auto,
    /// The operator said it.
    Value(T),
}

impl<T> Auto<T> {
    /// The operator's value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Value(value) => Some(value),
        }
    }

    /// As [`Option::as_ref`].
    pub fn as_ref(&self) -> Auto<&T> {
        match self {
            Self::Auto => Auto::Auto,
            Self::Value(value) => Auto::Value(value),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An untagged enum would do, but its errors name neither type nor value.
        let value = toml::Value::deserialize(deserializer)?;
        if value.as_str() == Some("auto") {
            return Ok(Self::Auto);
        }
        let shown = value.to_string();
        T::deserialize(value).map(Self::Value).map_err(|error: toml::de::Error| {
            de::Error::custom(format!("{shown} is neither \"auto\" nor a value: {}", error.message()))
        })
    }
}

/// Serialises through `Display` and `FromStr`.
macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// Where clients connect, and what stands before their first frame: `[proxy:]ADDR:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// The address; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Whether a PROXY header (v1 or v2) comes first.
    pub proxy: bool,
}

impl ListenerSpec {
    /// A listener on 127.0.0.1 without a PROXY header.
    pub fn local(port: u16) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), proxy: false }
    }
}

impl fmt::Display for ListenerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.proxy { "proxy:" } else { "" }, self.address)
    }
}

impl FromStr for ListenerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (proxy, address) = match text.strip_prefix("proxy:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let address = address.parse().map_err(|_| {
            format!("`{text}` is no listener: write ADDR:PORT, as in 0.0.0.0:7400 or [::]:7400, or proxy:ADDR:PORT")
        })?;
        Ok(Self { address, proxy })
    }
}

as_text!(ListenerSpec);

/// A worker: `[NAME=]HOST:PORT` or `[NAME=]unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSpec {
    /// What routing hashes; the address as written when no name is given.
    pub name: String,
    /// Where it listens.
    pub address: WorkerAddress,
}

/// Where a worker listens, not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerAddress {
    /// `HOST:PORT`; the host may be a name.
    Tcp(String),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl WorkerAddress {
    /// Where to dial it; a host that is a name is yet to be looked up.
    pub fn target(&self) -> Target {
        match self {
            Self::Unix(path) => Target::Address(LinkAddress::Unix(path.clone())),
            Self::Tcp(host) => match host.parse() {
                Ok(address) => Target::Address(LinkAddress::Tcp(address)),
                Err(_) => Target::Name(host.as_str().into()),
            },
        }
    }

    /// Whether frames to it never leave this machine: a Unix socket or a literal loopback
    /// address. A host name is not trusted to be one.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(host) => host.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback()),
        }
    }
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => f.write_str(host),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for WorkerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.to_string();
        if self.name == address { f.write_str(&address) } else { write!(f, "{}={address}", self.name) }
    }
}

impl FromStr for WorkerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = match text.split_once('=') {
            Some(("", _)) => return Err(format!("`{text}`: the name before `=` is empty")),
            // A path may hold a `=`; a name holds no colon.
            Some((name, rest)) if !name.contains(':') => (name, rest),
            _ => (text, text),
        };
        let address = match address.strip_prefix("unix:") {
            Some("") => return Err(format!("`{text}`: the path after `unix:` is empty")),
            Some(path) => WorkerAddress::Unix(path.into()),
            None => {
                if !is_host_and_port(address) {
                    return Err(format!("`{text}` is no worker: write [NAME=]HOST:PORT or [NAME=]unix:PATH"));
                }
                WorkerAddress::Tcp(address.to_owned())
            }
        };
        Ok(Self { name: name.to_owned(), address })
    }
}

as_text!(WorkerSpec);

fn is_host_and_port(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Where clients are asked to go instead, as GOAWAY names it: `HOST:PORT`, or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alternative(String);

impl Alternative {
    /// The address, or an empty text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Alternative {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || is_host_and_port(text) && text.len() <= edge::ALTERNATIVE_BYTES_MAX {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is no address for clients: write HOST:PORT or [IPv6]:PORT, at most {} bytes, or nothing",
            edge::ALTERNATIVE_BYTES_MAX
        ))
    }
}

as_text!(Alternative);

/// An enum of words, the same in a file and as a flag.
macro_rules! words {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$vdoc:meta])* $variant:ident = $word:literal, )+ } )+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$vdoc])* $variant, )+ }

        impl $name {
            const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word in the file.
            pub const fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $( $word => Ok(Self::$variant), )+
                    _ => Err(format!("`{text}` is not one of {}", Self::WORDS.join(", "))),
                }
            }
        }

        as_text!($name);
    )+ };
}

words! {
    /// What the reference worker does with messages.
    EmbeddedHandler {
        /// Sends each back.
        Echo = "echo",
        /// Takes them and says nothing.
        Sink = "sink",
        /// Delivers to another user by key.
        Route = "route",
        /// Delivers to many or all.
        Fanout = "fanout",
    }
    /// What becomes of clients while no worker is up.
    NoWorkerPolicy {
        /// They wait, unread.
        Wait = "wait",
        /// They get GOAWAY and a retry-after.
        Refuse = "refuse",
    }
    /// What becomes of clients beyond the maximum.
    FullPolicy {
        /// They stay in the kernel's backlog.
        Backlog = "backlog",
        /// They get GOAWAY and a retry-after.
        Refuse = "refuse",
    }
    /// How much is logged.
    LogLevel {
        /// What stops the gateway's work.
        Error = "error",
        /// What an operator should look at.
        Warn = "warn",
        /// Starts, stops and changes of state.
        Info = "info",
        /// One line per connection event.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    /// How lines are logged.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::{Alternative, LinkAddress, ListenerSpec, Target, WorkerSpec};

    #[test]
    fn listeners_round_trip() {
        for text in ["127.0.0.1:7400", "[::1]:0", "proxy:[::]:7400"] {
            assert_eq!(text.parse::<ListenerSpec>().unwrap().to_string(), text);
        }
        for text in ["7400", "localhost:7400", "proxy:", "::1:80:", "proxy:proxy:1.2.3.4:5"] {
            assert!(text.parse::<ListenerSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn workers_round_trip_and_default_to_their_address_as_name() {
        for (text, name) in [
            ("10.0.0.1:7500", "10.0.0.1:7500"),
            ("a=10.0.0.1:7500", "a"),
            ("b=[fd00::1]:7500", "b"),
            ("c=worker.internal:7500", "c"),
            ("unix:/run/w=1.sock", "unix:/run/w=1.sock"),
            ("d=unix:/run/w=1.sock", "d"),
        ] {
            let spec: WorkerSpec = text.parse().unwrap();
            assert_eq!((spec.to_string().as_str(), spec.name.as_str()), (text, name));
        }
        for text in ["", "a=", "=1.2.3.4:5", "1.2.3.4", "host:", ":5", "host:0", "host:70000", "unix:"] {
            assert!(text.parse::<WorkerSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn alternatives_are_addresses_that_fit_into_goaway() {
        let longest = format!("{}:7400", "h".repeat(251));
        for text in ["", "b.example:7400", "10.0.0.2:7400", "[fd00::2]:7400", &longest] {
            assert_eq!(text.parse::<Alternative>().unwrap().as_str(), text);
        }
        for text in ["b.example", ":7400", "b.example:0", "b.example:https", &format!("h{longest}")] {
            assert!(text.parse::<Alternative>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_left_to_be_looked_up() {
        for (text, address) in [
            ("127.0.0.1:9", Some(LinkAddress::Tcp(([127, 0, 0, 1], 9).into()))),
            ("[::1]:9", Some(LinkAddress::Tcp("[::1]:9".parse().unwrap()))),
            ("unix:/x", Some(LinkAddress::Unix("/x".into()))),
            ("localhost:9", None),
        ] {
            let expected = address.map_or_else(|| Target::Name(text.into()), Target::Address);
            assert_eq!(text.parse::<WorkerSpec>().unwrap().address.target(), expected);
        }
    }

    #[test]
    fn only_literal_loopback_and_unix_sockets_are_local() {
        for (text, local) in [
            ("127.0.0.9:1", true),
            ("[::1]:1", true),
            ("unix:/x", true),
            ("localhost:1", false),
            ("10.0.0.1:1", false),
        ] {
            let spec: WorkerSpec = text.parse().unwrap();
            assert_eq!(spec.address.is_local(), local, "{text}");
        }
    }
}
