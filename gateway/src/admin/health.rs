//! Whether every shard answers: asked for at most ten times a second, whoever wants to know.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

use super::api::{Api, blocking};

/// How long an answer holds. A shard is woken for each, so clients of `/healthz` must not set the
/// pace.
const FRESH: Duration = Duration::from_millis(100);

/// What `/healthz` says.
#[derive(Debug)]
pub(super) struct Health {
    api: Api,
    /// When the shards were asked last, and the first that did not answer.
    last: Mutex<Option<(Instant, Option<usize>)>>,
}

impl Health {
    pub(super) fn new(api: Api) -> Self {
        Self { api, last: Mutex::new(None) }
    }

    /// The first shard that does not answer.
    pub(super) async fn silent_shard(&self) -> Option<usize> {
        // Whoever comes meanwhile waits for the answer that is on its way.
        let mut last = self.last.lock().await;
        if let Some((asked, silent)) = *last
            && asked.elapsed() < FRESH
        {
            return silent;
        }
        let asked = Instant::now();
        let api = self.api.clone();
        let silent = blocking(move || api.silent_shard()).await;
        // A wait for a silent shard is no reason to ask again at once.
        *last = Some((if silent.is_some() { Instant::now() } else { asked }, silent));
        silent
    }
}
