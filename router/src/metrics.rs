//! The figures over HTTP, for the worker binary: a thread of its own, one request at a time.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crate::stats::{Stat, StatKind, Stats};

/// A request that takes longer than this is dropped.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_BYTES_MAX: u64 = 8 * 1024;

/// Serves `/stats` (JSON), `/metrics` (Prometheus text format 0.0.4) and `/healthz` for ever.
pub fn serve(listener: &TcpListener, stats: &Stats) {
    for stream in listener.incoming() {
        match stream {
            // A scraper that goes away in the middle is its own business.
            Ok(stream) => drop(answer(&stream, stats)),
            Err(error) => {
                tracing::warn!("metrics: accept failed: {error}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn answer(mut stream: &TcpStream, stats: &Stats) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let mut reader = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let mut words = request.split_ascii_whitespace();
    let (status, content_type, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/stats")) => ("200 OK", "application/json", json(stats)),
        (Some("GET"), Some("/metrics")) => ("200 OK", "text/plain; version=0.0.4", prometheus(stats)),
        (Some("GET"), Some("/healthz")) => ("200 OK", "text/plain", "ok\n".to_owned()),
        (Some("GET"), Some(_)) => ("404 Not Found", "text/plain", "/stats, /metrics, /healthz\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "GET only\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n\
         {body}",
        body.len()
    )?;
    stream.flush()
}

/// One JSON object: every figure by its label, and what the process itself uses. What cannot be
/// read is null.
pub fn json(stats: &Stats) -> String {
    let mut object: serde_json::Map<_, _> =
        Stat::ALL.iter().map(|&stat| (stat.label().to_owned(), stats.get(stat).into())).collect();
    object.insert("pid".into(), std::process::id().into());
    let memory = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    object.insert("memory_pss_bytes".into(), smaps_bytes(&memory, "Pss:").into());
    object.insert("memory_private_dirty_bytes".into(), smaps_bytes(&memory, "Private_Dirty:").into());
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    object.insert("cpu_s".into(), (cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9).into());
    let mut text = serde_json::Value::Object(object).to_string();
    text.push('\n');
    text
}

/// A field of smaps_rollup (proc_pid_smaps(5)), which states KiB.
fn smaps_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn prometheus(stats: &Stats) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &stat in Stat::ALL {
        let (kind, suffix) = match stat.kind() {
            StatKind::Counter => ("counter", "_total"),
            StatKind::Gauge => ("gauge", ""),
        };
        let name = format!("roost_worker_{}{suffix}", stat.label());
        writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{name} {}", stat.help(), stats.get(stat))
            .expect("writing to a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_name_every_figure() {
        let stats = Stats::default();
        stats.add(Stat::MessagesHandled, 7);
        let object: serde_json::Value = serde_json::from_str(&json(&stats)).unwrap();
        assert_eq!(object["messages_handled"], 7);
        assert!(object["memory_pss_bytes"].as_u64().unwrap() > 0);
        let text = prometheus(&stats);
        assert!(text.contains("\nroost_worker_messages_handled_total 7\n"), "{text}");
        for &stat in Stat::ALL {
            assert!(object[stat.label()].is_u64() && text.contains(stat.label()));
        }
    }

    #[test]
    fn requests_are_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, &Stats::default()));
        for (request, status, body) in [
            ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "200", "ok"),
            ("GET /stats HTTP/1.1\r\n\r\n", "200", "\"links\":0"),
            ("GET /metrics HTTP/1.1\r\n\r\n", "200", "roost_worker_links 0"),
            ("GET /nothing HTTP/1.1\r\n\r\n", "404", "/stats"),
            ("\x16\x03\x01\r\n\r\n", "405", "GET"),
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(body), "{answer}");
        }
    }
}
