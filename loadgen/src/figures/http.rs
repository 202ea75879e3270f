//! Just enough HTTP to read a local figures page: one GET per connection.

use std::{
    fmt,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};

/// `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    authority: String,
    path: String,
}

/// Pages longer than this are cut; figures pages are small.
const BYTES_MAX: u64 = 4 << 20;
/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Url {
    /// The page's body.
    ///
    /// # Errors
    /// When it cannot be had, or its status is not 200.
    pub fn get(&self) -> anyhow::Result<String> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: the body ends with the connection, no chunks.
        write!(
            stream,
            "GET {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        )?;
        let mut answer = String::new();
        stream.take(BYTES_MAX).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split_ascii_whitespace().nth(1).unwrap_or("");
        ensure!(status == "200", "{self}: status {status}");
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            bail!("{self}: chunked answer to HTTP/1.0");
        }
        Ok(body.to_owned())
    }

    /// A connection to the first of the host's addresses that takes one.
    fn connect(&self) -> anyhow::Result<TcpStream> {
        let mut last = anyhow!("no such host");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").ok_or("only http:// is read")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !authority.contains(':') {
            return Err("give host:port".to_owned());
        }
        Ok(Self { authority: authority.to_owned(), path: format!("/{path}") })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// A whole number of a JSON object.
pub fn json_number(text: &str, key: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(text).ok()?.get(key)?.as_u64()
}

/// The sum of a metric over its labels, in Prometheus text; none if it is not there.
pub fn metric_sum(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.as_bytes().first()? {
                b' ' => rest,
                b'{' => rest.rsplit_once('}')?.1,
                _ => return None,
            };
            value.split_ascii_whitespace().next()?.parse::<f64>().ok()
        })
        .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_alone() {
        let text = "# TYPE roost_connections gauge\nroost_connections{shard=\"0\"} 3\n\
                    roost_connections{shard=\"1\"} 4\nroost_connections_max 100\n";
        assert_eq!(metric_sum(text, "roost_connections"), Some(7.0));
        assert_eq!(metric_sum(text, "roost_connections_max"), Some(100.0));
        assert_eq!(metric_sum(text, "roost_shards"), None);
    }

    #[test]
    fn urls_are_parsed() {
        let url: Url = "http://127.0.0.1:80/stats".parse().unwrap();
        assert_eq!(url.to_string(), "http://127.0.0.1:80/stats");
        assert!("https://h:1/".parse::<Url>().is_err());
        assert!("http://h/".parse::<Url>().is_err());
        assert_eq!(json_number("{\"messages_handled\":7}", "messages_handled"), Some(7));
    }
}
