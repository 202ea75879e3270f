//! HTTP/1.1 on a thread of its own, bounded in connections and time, so that whoever plays with a
//! public metrics port harms nobody else.

use std::{
    convert::Infallible,
    net::TcpListener,
    pin::pin,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::routes::Routes;

/// Connections served at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// From a request's first byte, or from the last answer, to the end of its head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// After this a connection is asked to end, so that none holds its place for ever.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long it then has.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the sender is dropped.
pub(super) fn start(
    listeners: Vec<TcpListener>,
    routes: Routes,
) -> Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(1))
        .thread_stack_size(256 * 1024)
        .build()
        .context("no runtime for the admin side")?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(serve(listeners, Arc::new(routes), stopped));
            // Whatever still waits for a shard need not be waited for.
            runtime.shutdown_background();
        })
        .context("no thread for the admin side")?;
    Ok((stop, thread))
}

async fn serve(listeners: Vec<TcpListener>, routes: Arc<Routes>, stopped: oneshot::Receiver<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&places), Arc::clone(&routes)));
    }
    // The sender is never used, only dropped.
    drop(stopped.await);
    accepting.abort_all();
}

async fn accept(listener: TcpListener, places: Arc<Semaphore>, routes: Arc<Routes>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener and a reactor");
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let routes = Arc::clone(&routes);
                connections.spawn(async move {
                    connection(stream, routes).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin side cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Arc<Routes>) {
    let service = service_fn(|request: Request<Incoming>| {
        let routes = Arc::clone(&routes);
        async move {
            let uri = request.uri();
            let query = uri.query().unwrap_or("");
            Ok::<_, Infallible>(routes.answer(request.method(), uri.path(), query, request.headers()).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // How a connection ends matters only to its client.
    if timeout(LIFETIME, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        drop(timeout(LAST_ANSWER_WITHIN, connection).await);
    }
}
