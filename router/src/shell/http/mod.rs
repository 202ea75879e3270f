//! HTTP/1.1 for figures, health and the worker's API, each server on a thread of its own, where whoever
//! plays with a public port harms nobody else.
//!
//! * [`places`]: how many connections are served, and who gives way to a newcomer.
//! * [`connection`]: one connection and its deadlines.
//! * [`body`]: what a request brings, bounded in bytes and time.
//! * [`access`]: what those share who decide whether a request may pass.
//!
//! Connections are taken as they come: a probe does not wait in the listener's queue behind those
//! that do nothing. Where places run out, the address that holds most of them gives one back: the
//! one on which its client has kept us waiting longest.

pub mod access;
mod body;
mod connection;
mod places;

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    http::request::Parts,
};
use rustix::process::{Resource, getrlimit};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

pub use body::{Body, BodyError};
use places::Places;

/// Connections served at once where a process may have so many descriptors (RLIMIT_NOFILE): a
/// sixteenth of them, 16 to 64. Clients and links have the rest.
pub fn connections_max(nofile: u64) -> u64 {
    (nofile / 16).clamp(16, 64)
}

/// How long those that have been let in may take for their answers when the server ends.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_millis(250);
/// Pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause whenever so many connections have had to give way. So a newcomer has a fifth of a second
/// for its request before it has to go itself, and waits a millisecond for each in the queue.
const EVICT_PAUSE: Duration = Duration::from_millis(4);
const EVICTED_BEFORE_PAUSE: u32 = 4;
/// Connections that wait to be accepted; the kernel allows net.core.somaxconn of them. One that
/// finds the queue full would come again a second later.
const BACKLOG: i32 = 4_096;

/// What is served.
pub trait Service: Send + Sync + 'static {
    /// Bytes of this request's body that are read; with 0 it is not looked at, and counts as empty.
    fn body_bytes_max(&self, request: &Parts) -> usize {
        let _ = request;
        0
    }

    /// The answer to a request. A future that is not done in time is dropped, and its connection
    /// with it.
    fn answer(&self, request: &Parts, body: Body) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Copies of those that are served.
    listeners: Vec<TcpListener>,
    // In this order: the thread ends when the sender is gone.
    serves: Option<UnboundedSender<TcpListener>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a thread with this name; it serves nothing before [`Self::serve`].
    ///
    /// # Errors
    /// There is no thread or no descriptor for it.
    pub fn start(name: &str, service: impl Service) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(8)
            .thread_keep_alive(Duration::from_secs(1))
            .thread_stack_size(256 * 1024)
            .build()?;
        let (serves, listeners) = unbounded_channel();
        let service = Arc::new(service);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(serve(listeners, service));
            // Whatever still waits for somebody else need not be waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { listeners: Vec::new(), serves: Some(serves), thread: Some(thread) })
    }

    /// Serves this one, too. Its queue is made as long as the kernel allows.
    ///
    /// # Errors
    /// A descriptor cannot be copied, or this is no listener.
    pub fn serve(&mut self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, BACKLOG)?;
        self.listeners.push(listener.try_clone()?);
        if let Some(serves) = &self.serves {
            // The thread ends with the sender, not before.
            let _ = serves.send(listener);
        }
        Ok(())
    }

    /// The sockets that it serves.
    pub fn listeners(&self) -> &[TcpListener] {
        &self.listeners
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.serves.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and this may be unwinding itself.
            drop(thread.join());
        }
    }
}

async fn serve<S: Service>(mut listeners: UnboundedReceiver<TcpListener>, service: Arc<S>) {
    // Without a limit there is enough for all.
    let nofile = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let places = Places::new(connections_max(nofile) as usize);
    let (closing, closes) = watch::channel(());
    let mut accepting = JoinSet::new();
    while let Some(listener) = listeners.recv().await {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let (places, service) = (Arc::clone(&places), Arc::clone(&service));
                accepting.spawn(accept(listener, places, service, closes.clone()));
            }
            Err(error) => tracing::error!(%error, "figures and health are not served"),
        }
    }
    // Whoever has been let in is answered; who waits in a queue may be another process's.
    drop(closing);
    while accepting.join_next().await.is_some() {}
}

async fn accept<S: Service>(
    listener: tokio::net::TcpListener,
    places: Arc<Places>,
    service: Arc<S>,
    mut closes: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    let mut evictions = 0;
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closes.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (place, evicted) = places.enter(peer.ip());
                let key = place.key();
                let task = connections.spawn(connection::serve(stream, place, Arc::clone(&service)));
                places.set_task(key, task);
                evictions += u32::from(evicted);
                if evictions == EVICTED_BEFORE_PAUSE {
                    evictions = 0;
                    sleep(EVICT_PAUSE).await;
                } else {
                    // It reads what has come already before the next one is let in.
                    yield_now().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no connection for figures and health can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drop(timeout(LAST_ANSWERS_WITHIN, async { while connections.join_next().await.is_some() {} }).await);
}

/// An answer with this body.
pub fn respond(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer in words.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, HeaderValue::from_static("text/plain; charset=utf-8"), body)
}

/// 405, with what is allowed instead.
pub fn method_not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Whether a request only reads: GET, or HEAD, whose body is left out by the server.
pub fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
