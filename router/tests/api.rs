//! The HTTP API of the reference worker, by curl; and `router/openapi.json` against the running worker.

mod support;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use roost_protocol::{Reason, link::LinkType};
use roost_router::{Worker, WorkerConfig, api};
use serde_json::Value;
use support::{Link, peer::Peer};

const TOKEN: &str = "a token for nobody else";

/// A running worker with an API; killed when dropped.
struct Process {
    child: Child,
    gateways: String,
    api: String,
    token: Option<&'static str>,
    _file: tempfile::NamedTempFile,
}

impl Process {
    fn start(token: Option<&'static str>, more: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_roost-router"));
        command.args(["--listen", "127.0.0.1:0", "--handler", "route", "--api", "127.0.0.1:0"]).args(more);
        if let Some(token) = token {
            std::fs::write(file.path(), format!("{token}\n")).unwrap();
            command.arg("--api-token-file").arg(file.path());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = |prefix: &str| {
            let line = lines.next().expect("the worker says more").unwrap();
            line.strip_prefix(prefix).unwrap_or_else(|| panic!("{line:?}")).to_owned()
        };
        let gateways = line("roost-router: listening on ");
        let api = line("roost-router: API on ");
        Self { child, gateways, api, token, _file: file }
    }

    /// A gateway's shard, and a client there with each of these keys.
    fn link(&self, gateway: u8, shard: u16, keys: &[&[u8]]) -> Link {
        let mut link = Link::new(Peer::new(gateway, shard), &self.gateways.parse().unwrap());
        link.up();
        for (slot, key) in keys.iter().enumerate() {
            link.peer.open(link.peer.id(slot as u32), key);
        }
        let all = |peer: &Peer| peer.count(LinkType::Accept) == keys.len() && peer.unacknowledged() == 0;
        link.run_until("all are accepted", all);
        link
    }

    fn curl(&self, method: &str, path: &str, more: &[&str]) -> (u16, Value) {
        self.curl_as(self.token, method, path, more)
    }

    fn curl_as(&self, token: Option<&str>, method: &str, path: &str, more: &[&str]) -> (u16, Value) {
        curl(&self.api, token, method, path, more)
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.api.strip_prefix("http://").unwrap()).unwrap()
    }

    /// A request whose body does not come.
    fn late(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = self.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
        stream.write_all(format!("{head}late").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.curl("POST", path, &["--data-binary", body])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request by curl: the status, and the JSON of the answer.
fn curl(api: &str, token: Option<&str>, method: &str, path: &str, more: &[&str]) -> (u16, Value) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--path-as-is", "--globoff"]);
    command.args(["--write-out", "\n%{http_code}", "--request", method]);
    if let Some(token) = token {
        command.arg("--header").arg(format!("Authorization: Bearer {token}"));
    }
    let output = command.args(more).arg(format!("{api}{path}")).output().expect("curl is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{text:?}"));
    let error = String::from_utf8_lossy(&output.stderr);
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body:?} {status} {error}"));
    (status.parse().unwrap(), body)
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn curl_pushes_to_users_looks_for_them_and_closes_them() {
    let worker = Process::start(None, &[]);
    let mut link = worker.link(1, 0, &[b"alice", b"alice", b"b/\x00\xff"]);
    let ids = [0, 1, 2].map(|slot| link.peer.id(slot));
    assert_eq!(worker.post("/v1/users/alice/messages", "you have mail"), (200, object(r#"{"delivered":2}"#)));
    let json = ["--json", r#"{"data": "AAH/", "encoding": "base64"}"#];
    assert_eq!(
        worker.curl("POST", "/v1/users/b%2F%00%ff/messages", &json),
        (200, object(r#"{"delivered":1}"#))
    );
    link.run_until("the mail is there", |peer| peer.count(LinkType::Data) == 3);
    assert_eq!(
        ids.map(|id| link.peer.messages(id).concat()),
        [&b"you have mail"[..], b"you have mail", &[0, 1, 255]]
    );
    let here = object(r#"{"online":true,"connections":2,"where":"here"}"#);
    assert_eq!(worker.curl("GET", "/v1/users/alice", &[]), (200, here));
    let (status, offline) = worker.post("/v1/users/carol/messages", "anybody?");
    assert_eq!((status, &offline["error"]), (404, &"not_here".into()));

    let closed = worker.curl("DELETE", "/v1/users/alice?reason=drain&retry_after_ms=250", &[]);
    assert_eq!(closed, (200, object(r#"{"closed":2}"#)));
    link.run_until("both are closed", |peer| peer.count(LinkType::Close) == 2);
    for frame in link.peer.inbox.iter().filter(|frame| frame.header.link_type == LinkType::Close) {
        assert_eq!(frame.payload, 250u32.to_be_bytes());
        assert_eq!(frame.header.aux & 0xff, u16::from(Reason::Drain.code()));
    }
    assert_eq!(worker.curl("GET", "/v1/users/alice", &[]).0, 404);
    assert_eq!(worker.curl("GET", "/v1/users/b%2F%00%ff", &[]).0, 200);
}

#[test]
fn a_broadcast_goes_once_to_every_shard_of_every_gateway() {
    let worker = Process::start(None, &[]);
    assert_eq!(worker.post("/v1/broadcast", "hello").1["error"], "no_link");
    let mut links = [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(gateway, shard)| worker.link(gateway, shard, &[]));
    assert_eq!(worker.post("/v1/broadcast", "hello"), (200, object(r#"{"links":4,"refused":0}"#)));
    for link in &mut links {
        link.run_until("it is there", |peer| peer.count(LinkType::Broadcast) > 0);
        assert_eq!(link.peer.count(LinkType::Broadcast), 1);
    }
}

#[test]
fn what_is_pushed_while_the_link_is_cut_comes_once() {
    let worker = Process::start(None, &[]);
    let mut link = worker.link(1, 0, &[b"alice"]);
    let id = link.peer.id(0);
    for number in 0..10 {
        link.cut();
        assert_eq!(worker.post("/v1/users/alice/messages", &number.to_string()).0, 200);
        link.run_until("it is there", |peer| peer.messages(id).len() > number);
    }
    let expected: Vec<String> = (0..10).map(|number: u32| number.to_string()).collect();
    assert_eq!(link.peer.messages(id), expected.iter().map(String::as_bytes).collect::<Vec<_>>());
}

#[test]
fn what_no_queue_takes_is_refused_and_never_sent() {
    let worker = Process::start(None, &["--pending-bytes-max", "10000"]);
    let mut link = worker.link(1, 0, &[b"alice"]);
    let id = link.peer.id(0);
    link.cut();
    let (mut taken, body) = (0, "x".repeat(3_000));
    let refused = loop {
        match worker.post("/v1/users/alice/messages", &body) {
            (200, _) => taken += 1,
            refused => break refused,
        }
        assert!(taken < 2_000, "the queue is never full");
    };
    assert_eq!((refused.0, &refused.1["error"]), (503, &"full".into()));
    assert_eq!(worker.post("/v1/broadcast", &body).0, 503);
    link.run_until("all is there", |peer| peer.messages(id).len() == taken);
    assert_eq!(worker.post("/v1/users/alice/messages", "last").0, 200);
    link.run_until("the last is there", |peer| peer.messages(id).last() == Some(&&b"last"[..]));
    assert_eq!(link.peer.messages(id).len(), taken + 1);
    assert_eq!(link.peer.count(LinkType::Broadcast), 0);
}

#[test]
fn who_has_no_token_is_told_nothing() {
    let worker = Process::start(Some(TOKEN), &[]);
    let _link = worker.link(1, 0, &[b"alice"]);
    assert_eq!(worker.curl("GET", "/v1/users/alice", &[]).0, 200);
    for header in ["Host: x", "Authorization: Bearer a token for nobody els", "Authorization: Basic x"] {
        let refused = worker.curl_as(None, "GET", "/v1/users/alice", &["--header", header]);
        assert_eq!((refused.0, &refused.1["error"]), (401, &"unauthorized".into()), "{header}");
    }
    // Nothing of a body is read for strangers.
    assert_eq!(worker.curl_as(None, "POST", "/v1/broadcast", &["--data-binary", "hello"]).0, 401);
}

#[test]
fn mistakes_at_the_start_are_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("short");
    std::fs::write(&short, "123456789abcdef").unwrap();
    let short = short.to_str().unwrap();
    for (args, what) in [
        (&["--api", "0.0.0.0:0", "--handler", "route"][..], "there is no TLS"),
        (&["--api", "127.0.0.1:0", "--handler", "echo"], "--handler route"),
        (&["--api", "127.0.0.1:0", "--handler", "route", "--api-token-file", short], "16 are the least"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roost-router"));
        let output = command.args(["--listen", "127.0.0.1:0"]).args(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(what), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "one line: {error}");
    }
}

#[test]
fn slow_clients_do_not_hold_up_others() {
    let worker = Process::start(None, &[]);
    let _link = worker.link(1, 0, &[b"alice"]);
    let slow: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = worker.connect();
            let head = "POST /v1/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nslow";
            // It may have had to give way already.
            let _ = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    let began = Instant::now();
    assert_eq!(worker.curl("GET", "/v1/users/alice", &[]).0, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(slow);
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let worker = Process::start(None, &[]);
    let mut link = worker.link(1, 0, &[b"alice"]);
    let id = link.peer.id(0);
    let mut stream = worker.connect();
    let mut requests = String::new();
    for number in 0..50 {
        requests += "POST /v1/users/alice/messages HTTP/1.1\r\nHost: localhost\r\n";
        requests += &format!("Content-Length: 2\r\n\r\n{number:02}");
    }
    requests += "GET /v1/users/alice HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches(r#"{"delivered":1}"#).count(), 50, "{answers}");
    link.run_until("all is there", |peer| peer.messages(id).len() == 50);
    let expected: Vec<String> = (0..50).map(|number| format!("{number:02}")).collect();
    assert_eq!(link.peer.messages(id), expected.iter().map(String::as_bytes).collect::<Vec<_>>());
}

/// The operations of `router/openapi.json`: method, path, and what it states about each status.
fn operations(document: &Value) -> Vec<(String, String, serde_json::Map<String, Value>)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let responses = operation["responses"].as_object().unwrap().clone();
            operations.push((method.to_uppercase(), path.clone(), responses));
        }
    }
    operations
}

/// Whether `body` is an object as the document describes it.
fn follows(document: &Value, response: &Value, body: &Value) -> bool {
    let mut schema = &response["content"]["application/json"]["schema"];
    if let Some(reference) = schema["$ref"].as_str() {
        schema = document.pointer(&reference[1..]).unwrap();
    }
    let body = body.as_object().unwrap();
    let names: BTreeSet<&str> = body.keys().map(String::as_str).collect();
    let required = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    names == required.collect()
        && body.iter().all(|(name, value)| {
            let property = &schema["properties"][name];
            let listed = property["enum"].as_array().is_none_or(|values| values.contains(value));
            let fixed = property.get("const").is_none_or(|fixed| fixed == value);
            let least = property["minimum"].as_u64().is_none_or(|least| value.as_u64().unwrap() >= least);
            listed && fixed && least
        })
}

#[test]
fn every_operation_and_status_of_the_document_is_what_the_worker_does() {
    let document: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    let operations = operations(&document);
    let stated: BTreeSet<_> =
        operations.iter().map(|(method, path, _)| (method.clone(), path.clone())).collect();
    let served: BTreeSet<_> =
        api::routes().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
    assert_eq!(stated, served);

    // Nobody runs the link for as long as this takes.
    let open = Process::start(None, &["--keepalive-ms", "0"]);
    let closed = Process::start(Some(TOKEN), &[]);
    let mut links = [open.link(1, 0, &[b"alice", b"bob"]), closed.link(1, 0, &[])];
    // A worker that has not begun, as one whose thread is stuck.
    let stuck = Worker::new(WorkerConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = api::serve(listener, stuck.handle(), stuck.stats(), None).unwrap();
    let full = format!("http://{}", server.addresses()[0]);
    for (method, template, responses) in &operations {
        let key = if method == "DELETE" { "bob" } else { "alice" };
        let with = |key: &str| template.replace("{key}", key);
        let posts = method == "POST";
        for (status, response) in responses {
            let body: &[&str] = if posts { &["--data-binary", "hello"] } else { &[] };
            let (seen, answer) = match status.as_str() {
                "200" => open.curl(method, &with(key), body),
                "400" if template.contains("{key}") => open.curl(method, &with("%zz"), body),
                "400" => open.curl(method, &with(key), &["--json", "{}"]),
                "401" => closed.curl_as(None, method, &with(key), body),
                "403" => {
                    let header = ["--header", "Origin: http://page.example"];
                    open.curl(method, &with(key), &[body, &header].concat())
                }
                "404" => open.curl(method, &with("nobody"), body),
                "405" => open.curl("PATCH", &with(key), body),
                "408" => open.late(method, &with(key)),
                "413" => open.curl(method, &with(key), &["--data-binary", &"x".repeat(8_000)]),
                "415" => {
                    open.curl(method, &with(key), &[body, &["--header", "Content-Encoding: gzip"]].concat())
                }
                "503" => curl(&full, None, method, &with("alice"), body),
                other => panic!("{other} of {method} {template} is not tried"),
            };
            assert_eq!(&seen.to_string(), status, "{method} {template}: {answer}");
            assert!(follows(&document, response, &answer), "{method} {template} {status}: {answer}");
        }
    }
    links.iter_mut().for_each(|link| {
        link.turn();
    });
    assert_eq!(open.curl("GET", "/v1/nothing", &[]).1["error"], "not_found");
    // One that is read and dropped, and one that is not even read.
    let long = tempfile::NamedTempFile::new().unwrap();
    let from_file = format!("@{}", long.path().display());
    for bytes in [3 << 19, 4 << 20] {
        std::fs::write(long.path(), vec![b'x'; bytes]).unwrap();
        assert_eq!(open.curl("POST", "/v1/broadcast", &["--data-binary", &from_file]).0, 413, "{bytes}");
    }
}
