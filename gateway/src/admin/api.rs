//! Questions to the shards, answered as JSON. All of them block, for a bounded time.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use hyper::StatusCode;
use roost_protocol::{ConnectionId, Reason, hash};
use serde_json::{Value, json};

use crate::{
    core::{Command, ConnectionInfo},
    event_loop::{Request, ShardHandle},
};

/// How long a shard may take to answer. Its turns are bounded, so a longer silence is a fault.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Most connections in one answer, and how many without being asked.
const SAMPLE_MAX: usize = 1_000;
const SAMPLE_DEFAULT: usize = 100;

/// Runs what waits for a shard beside the server's thread.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("questions to shards do not panic")
}

/// A status and a body.
pub(super) type Answer = (StatusCode, Value);

/// The shards, as far as they can be asked.
#[derive(Clone, Debug)]
pub(super) struct Api {
    shards: Vec<ShardHandle>,
}

impl Api {
    pub(super) fn new(shards: Vec<ShardHandle>) -> Self {
        Self { shards }
    }

    /// The first shard that does not answer.
    pub(super) fn silent_shard(&self) -> Option<usize> {
        // All are asked before the first answer is waited for.
        let asked: Vec<_> = self.shards.iter().map(|shard| ask_sample(shard, 0, 0)).collect();
        asked.iter().position(|answer| answer.recv_timeout(ANSWER_WITHIN).is_err())
    }

    /// `GET /api/connections`: some connections, from a slot of a shard on.
    pub(super) fn sample(&self, query: &str) -> Answer {
        let query = match SampleQuery::parse(query) {
            Ok(query) => query,
            Err(message) => return error(StatusCode::BAD_REQUEST, &message),
        };
        let shards: Vec<usize> = match query.shard {
            Some(shard) if shard < self.shards.len() => vec![shard],
            Some(shard) => return error(StatusCode::NOT_FOUND, &format!("there is no shard {shard}")),
            None => (0..self.shards.len()).collect(),
        };
        let mut found = Vec::new();
        for shard in shards {
            let left = query.count - found.len();
            let Ok(infos) =
                ask_sample(&self.shards[shard], query.from_slot, left).recv_timeout(ANSWER_WITHIN)
            else {
                return silent(shard);
            };
            found.extend(infos.iter().map(show));
        }
        (StatusCode::OK, json!({ "connections": found }))
    }

    /// `GET /api/connections/ID`.
    pub(super) fn look_up(&self, id: &str) -> Answer {
        match self.find(id) {
            Ok(info) => (StatusCode::OK, show(&info)),
            Err(answer) => answer,
        }
    }

    /// `DELETE /api/connections/ID`: closes it, if it is still there.
    pub(super) fn close(&self, id: &str) -> Answer {
        let info = match self.find(id) {
            Ok(info) => info,
            Err(answer) => return answer,
        };
        let connection = info.connection;
        let command = Command::Close { connection, reason: Reason::AdminClosed };
        self.shards[usize::from(connection.shard())].send(Request::Command(command));
        tracing::info!(connection = %show_id(connection), "closing, as the admin side asks");
        (StatusCode::ACCEPTED, json!({ "closing": show(&info) }))
    }

    fn find(&self, id: &str) -> Result<ConnectionInfo, Answer> {
        let connection = parse_id(id).ok_or_else(|| {
            error(StatusCode::BAD_REQUEST, "an id has 16 hexadecimal digits, as /api/connections shows them")
        })?;
        let shard = usize::from(connection.shard());
        let gone = || error(StatusCode::NOT_FOUND, "there is no such connection, or no longer");
        let handle = self.shards.get(shard).ok_or_else(gone)?;
        let (reply, answer) = bounded(1);
        handle.send(Request::LookUp(connection, reply));
        answer.recv_timeout(ANSWER_WITHIN).map_err(|_| silent(shard))?.ok_or_else(gone)
    }
}

struct SampleQuery {
    shard: Option<usize>,
    from_slot: u32,
    count: usize,
}

impl SampleQuery {
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self { shard: None, from_slot: 0, count: SAMPLE_DEFAULT };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = value.parse::<u32>().map_err(|_| format!("{name} is a number"))?;
            match name {
                "shard" => parsed.shard = Some(number as usize),
                "from_slot" => parsed.from_slot = number,
                "count" => parsed.count = (number as usize).min(SAMPLE_MAX),
                _ => return Err(format!("unknown parameter {name}: shard, from_slot and count are known")),
            }
        }
        Ok(parsed)
    }
}

fn ask_sample(shard: &ShardHandle, from_slot: u32, count: usize) -> Receiver<Vec<ConnectionInfo>> {
    let (reply, answer): (Sender<_>, _) = bounded(1);
    shard.send(Request::Sample { from_slot, count, reply });
    answer
}

fn show(info: &ConnectionInfo) -> Value {
    json!({
        "id": show_id(info.connection),
        "shard": info.connection.shard(),
        "slot": info.connection.slot(),
        "state": format!("{:?}", info.state).to_lowercase(),
        "worker": info.worker.as_deref(),
        "routing_hash": info.routing_hash.map(|hash| format!("{hash:016x}")),
        "partition": info.routing_hash.map(hash::partition_of),
        "session": info.session.map(|session| format!("{session:016x}")),
        "idle_ms": info.idle_ms,
        "outbox_bytes": info.outbox_bytes,
        "spill_bytes": info.spill_bytes,
        "blocked": info.blocked,
    })
}

fn show_id(connection: ConnectionId) -> String {
    format!("{:016x}", connection.to_bits())
}

fn parse_id(text: &str) -> Option<ConnectionId> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok().map(ConnectionId::from_bits))?
}

fn silent(shard: usize) -> Answer {
    error(StatusCode::GATEWAY_TIMEOUT, &format!("shard {shard} does not answer"))
}

pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    (status, json!({ "error": message }))
}
