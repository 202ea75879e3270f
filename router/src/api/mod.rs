//! The HTTP API of the reference worker: push to users, look for them, close them, and broadcast.
//!
//! * [`guard`]: who may ask.
//! * [`request`]: what is asked.
//! * [`answer`]: what is answered.
//!
//! It runs on a thread of its own and reaches the worker through a [`WorkerHandle`]: no lock is shared
//! with the worker's thread, and what waits for it is bounded in number and bytes. `docs/worker-http.md`
//! describes it, and `router/openapi.json` states it.

mod answer;
mod guard;
mod request;

use std::{
    io,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Response, StatusCode, http::request::Parts};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    core::Context,
    server::{PushError, WorkerHandle},
    shell::http::{Body, Server, Service},
    stats::{Stat, Stats},
};
use answer::Refusal;
use guard::Guard;
use request::Action;

/// The longest body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of messages that may wait for the worker.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// How long a request waits for the worker to take it up.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(2);

/// Serves the API until what this gives back is dropped. Whoever asks must have `token`; where there is
/// none, whoever reaches the listener may ask, web pages excepted.
///
/// # Errors
/// There is no thread or no descriptor for it.
pub fn serve(
    listener: TcpListener,
    worker: WorkerHandle,
    stats: Arc<Stats>,
    token: Option<Vec<u8>>,
) -> io::Result<Server> {
    let waiting_bytes = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
    let mut server = Server::start("api", Api { worker, stats, guard: Guard::new(token), waiting_bytes })?;
    server.serve(listener)?;
    Ok(server)
}

/// Every method and path that is served; `{key}` stands for a key.
pub fn routes() -> impl Iterator<Item = (Method, &'static str)> {
    let all =
        |&(path, _, actions): &request::Route| actions.iter().map(move |(method, _)| (method.clone(), path));
    request::ROUTES.iter().flat_map(all)
}

struct Api {
    worker: WorkerHandle,
    stats: Arc<Stats>,
    guard: Guard,
    /// What is left of [`WAITING_BYTES_MAX`].
    waiting_bytes: Arc<Semaphore>,
}

impl Service for Api {
    fn body_bytes_max(&self, head: &Parts) -> usize {
        let may_bring_one = self.guard.admit(&head.headers).is_ok()
            && matches!(
                request::route(&head.method, head.uri.path()),
                Ok((Action::Send | Action::Broadcast, _))
            );
        if may_bring_one { BODY_BYTES_MAX } else { 0 }
    }

    async fn answer(&self, head: &Parts, body: Body) -> Response<Full<Bytes>> {
        match self.act(head, body).await {
            Ok(value) => answer::json(StatusCode::OK, &value),
            Err(refusal) => refusal.response(),
        }
    }
}

impl Api {
    async fn act(&self, head: &Parts, body: Body) -> Result<Value, Refusal> {
        self.guard.admit(&head.headers)?;
        let (action, key) = request::route(&head.method, head.uri.path())?;
        match action {
            Action::Send => self.send(key, request::message(&head.headers, body?)?).await,
            Action::Broadcast => self.broadcast(request::message(&head.headers, body?)?).await,
            Action::Look => {
                let connections = self.call(0, move |ctx| ctx.clients_of(&key).len()).await?;
                if connections == 0 {
                    return Err(Refusal::NOT_HERE);
                }
                Ok(json!({ "online": true, "connections": connections, "where": "here" }))
            }
            Action::Close => {
                let (reason, retry_after_ms) = request::closing(head.uri.query())?;
                let close = move |ctx: &mut Context<'_>| {
                    let clients = ctx.clients_of(&key);
                    let count = clients.len();
                    clients.for_each(|client| ctx.close(client, reason, retry_after_ms));
                    count
                };
                match self.call(0, close).await? {
                    0 => Err(Refusal::NOT_HERE),
                    closed => Ok(json!({ "closed": closed })),
                }
            }
        }
    }

    async fn send(&self, key: Vec<u8>, message: Bytes) -> Result<Value, Refusal> {
        let bytes = message.len();
        let delivered = self.call(bytes, move |ctx| ctx.send_to_key(&key, &message)).await??;
        Ok(json!({ "delivered": delivered }))
    }

    async fn broadcast(&self, message: Bytes) -> Result<Value, Refusal> {
        let stats = Arc::clone(&self.stats);
        let bytes = message.len();
        let broadcast = move |ctx: &mut Context<'_>| {
            let Some(bytes_max) = ctx.message_bytes_max_of_all() else { return Err(Refusal::NO_LINK) };
            if message.len() > bytes_max as usize {
                return Err(
                    Refusal::TOO_LONG.because("the message is longer than some gateway's frame_bytes_max")
                );
            }
            // Only this thread counts there.
            let before = stats.get(Stat::SendsRefused);
            let links = ctx.broadcast(&message, true);
            Ok((links, stats.get(Stat::SendsRefused) - before))
        };
        match self.call(bytes, broadcast).await?? {
            (0, _) => {
                Err(Refusal::FULL.because("every gateway is away and its queue is full: nothing was sent"))
            }
            (links, refused) => Ok(json!({ "links": links, "refused": refused })),
        }
    }

    /// Runs `work`, which keeps so many bytes, on the worker's thread. Where that does not take it up in
    /// time it will never run: an error says that nothing was done.
    async fn call<R: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&mut Context<'_>) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let permits = u32::try_from(bytes).map_err(|_| PushError::Full)?;
        let waiting = Arc::clone(&self.waiting_bytes).try_acquire_many_owned(permits);
        let waiting = waiting.map_err(|_| PushError::Full)?;
        // Set by whoever comes first: the worker, or the end of our patience.
        let claimed = Arc::new(AtomicBool::new(false));
        let by_worker = Arc::clone(&claimed);
        let mut answer = self.worker.call(move |ctx| {
            let result = (!by_worker.swap(true, AcqRel)).then(|| work(ctx));
            drop(waiting);
            result
        })?;
        let result = match timeout(TAKEN_UP_WITHIN, &mut answer).await {
            Ok(result) => result?,
            Err(_) if !claimed.swap(true, AcqRel) => None,
            // It is at it.
            Err(_) => answer.await?,
        };
        result
            .ok_or(Refusal::FULL.because("the worker did not take it up within 2 seconds: nothing was done"))
    }
}
