//! The figures over HTTP, for the worker binary.

use std::{
    fmt::Write as _,
    io,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CACHE_CONTROL, HeaderValue, VARY},
    http::request::Parts,
};
use tokio::time::{Instant, sleep};

use crate::{
    shell::{
        exposition::Format,
        http::{self, Server, Service},
        log,
    },
    stats::{Stat, StatKind, Stats},
};

/// The worker's thread does something at least this often, or it is stuck in a handler.
const BEAT_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Serves `/stats` (JSON), `/metrics` (Prometheus text or OpenMetrics) and `/healthz`, until what
/// this gives back is dropped.
///
/// # Errors
/// There is no thread or no descriptor for it.
pub fn serve(listener: TcpListener, stats: Arc<Stats>) -> io::Result<Server> {
    let mut server = Server::start("metrics", Figures { stats, ticks: Mutex::new(0) })?;
    server.serve(listener)?;
    Ok(server)
}

struct Figures {
    stats: Arc<Stats>,
    /// [`Stat::Ticks`] when it was looked at last.
    ticks: Mutex<u64>,
}

impl Service for Figures {
    async fn answer(&self, request: &Parts, _: http::Body) -> Response<Full<Bytes>> {
        if !http::reads(&request.method) {
            return http::method_not_allowed("GET, HEAD");
        }
        let mut response = match request.uri.path() {
            "/stats" => {
                http::respond(StatusCode::OK, HeaderValue::from_static("application/json"), json(&self.stats))
            }
            "/metrics" => {
                let format = Format::accepted(&request.headers);
                let text = format.of_openmetrics(openmetrics(&self.stats));
                let mut response = http::respond(StatusCode::OK, format.content_type(), text);
                response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
                response
            }
            "/healthz" if self.beats().await => http::text(StatusCode::OK, "ok\n"),
            "/healthz" => http::text(StatusCode::SERVICE_UNAVAILABLE, "the worker's thread does not go on\n"),
            _ => http::text(StatusCode::NOT_FOUND, "/stats, /metrics, /healthz\n"),
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl Figures {
    /// Whether the worker's thread has gone on since the last look, or does within
    /// [`BEAT_WITHIN`]. It is not woken for this.
    async fn beats(&self) -> bool {
        let until = Instant::now() + BEAT_WITHIN;
        loop {
            {
                let ticks = self.stats.get(Stat::Ticks);
                let mut seen = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
                if *seen != ticks {
                    *seen = ticks;
                    return true;
                }
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(LOOK).await;
        }
    }
}

/// One JSON object: every figure by its label, and what the process itself uses. What cannot be
/// read is null.
pub fn json(stats: &Stats) -> String {
    let mut object: serde_json::Map<_, _> =
        Stat::ALL.iter().map(|&stat| (stat.label().to_owned(), stats.get(stat).into())).collect();
    for (cause, lines) in log::left_out().by_cause() {
        object.insert(format!("log_lines_left_out_{cause}"), lines.into());
    }
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

fn openmetrics(stats: &Stats) -> String {
    let mut text = String::new();
    for &stat in Stat::ALL {
        let (kind, suffix) = match stat.kind() {
            StatKind::Counter => ("counter", "_total"),
            StatKind::Gauge => ("gauge", ""),
        };
        let name = format!("roost_worker_{}", stat.label());
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", stat.help());
        let _ = writeln!(text, "{name}{suffix} {}", stats.get(stat));
    }
    let name = "roost_worker_log_lines_left_out";
    let _ = writeln!(text, "# HELP {name} Lines left out of the log, by cause.\n# TYPE {name} counter");
    for (cause, lines) in log::left_out().by_cause() {
        let _ = writeln!(text, "{name}_total{{cause=\"{cause}\"}} {lines}");
    }
    text.push_str("# EOF\n");
    text
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
    };

    use super::*;

    #[test]
    fn the_texts_name_every_figure() {
        let stats = Stats::default();
        stats.add(Stat::MessagesHandled, 7);
        let object: serde_json::Value = serde_json::from_str(&json(&stats)).unwrap();
        assert_eq!(object["messages_handled"], 7);
        assert!(object["memory_pss_bytes"].as_u64().unwrap() > 0);
        let text = openmetrics(&stats);
        assert!(text.contains("\nroost_worker_messages_handled_total 7\n"), "{text}");
        for &stat in Stat::ALL {
            assert!(object[stat.label()].is_u64() && text.contains(stat.label()));
        }
    }

    fn start(stats: &Arc<Stats>) -> (Server, SocketAddr) {
        let server = serve(TcpListener::bind("127.0.0.1:0").unwrap(), stats.clone()).unwrap();
        let address = server.addresses()[0];
        (server, address)
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn requests_are_answered() {
        let stats = Arc::new(Stats::default());
        let (_server, address) = start(&stats);
        stats.add(Stat::Ticks, 1);
        let end = "Host: x\r\nConnection: close\r\n\r\n";
        for (request, status, body) in [
            ("GET /healthz HTTP/1.1\r\n", "200", "\r\n\r\nok"),
            ("GET /stats HTTP/1.1\r\n", "200", "\"links\":0"),
            (
                "GET /metrics HTTP/1.1\r\n",
                "200",
                "# TYPE roost_worker_opens_total counter\nroost_worker_opens_total 0\n",
            ),
            ("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n", "200", "# EOF\n"),
            ("GET /nothing HTTP/1.1\r\n", "404", "/stats"),
            ("POST /stats HTTP/1.1\r\nContent-Length: 5\r\n", "405", "GET"),
            ("\x16\x03\x01\r\n", "400", ""),
        ] {
            let answer = ask(address, &format!("{request}{end}"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(body), "{answer}");
        }
        let head = ask(address, &format!("HEAD /metrics HTTP/1.1\r\n{end}"));
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("content-length: "), "{head}");
        // Two in one go are answered in order.
        let both =
            ask(address, &format!("GET /stats HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\n{end}"));
        assert!(both.find("200 OK").unwrap() < both.find("404 Not Found").unwrap(), "{both}");
    }

    #[test]
    fn a_worker_that_is_stuck_is_unhealthy() {
        let stats = Arc::new(Stats::default());
        let (_server, address) = start(&stats);
        let healthz = || ask(address, "GET /healthz HTTP/1.0\r\n\r\n");
        assert!(healthz().starts_with("HTTP/1.0 503 "));
        stats.add(Stat::Ticks, 1);
        assert!(healthz().starts_with("HTTP/1.0 200 "));
    }
}
