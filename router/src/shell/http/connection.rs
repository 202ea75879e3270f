//! One connection: requests in order, each with deadlines.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request,
    body::{Body as _, Incoming},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Service, body,
    places::{Place, Stage},
};

/// From the accept, or from the last answer, to the end of the next request's head; and from there to
/// the end of a body that is read.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// From there until the answer is known.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// From there until the client has taken it.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// After this a connection is asked to end, so that none holds its place for ever.
const LIFETIME: Duration = Duration::from_secs(60);
/// The longest head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves a connection until its client, a deadline or a newcomer ends it.
pub(super) async fn serve<S: Service>(stream: TcpStream, place: Place, service: Arc<S>) {
    let place = Arc::new(place);
    let answering = Arc::clone(&place);
    let service = service_fn(move |request: Request<Incoming>| {
        let (place, service) = (Arc::clone(&answering), Arc::clone(&service));
        async move {
            let (head, incoming) = request.into_parts();
            let body = match service.body_bytes_max(&head) {
                // It is not waited for: with no use for it, the connection ends.
                0 => {
                    drop(incoming);
                    Ok(Bytes::new())
                }
                bytes_max => {
                    // Its client keeps us waiting, as with a head.
                    place.set_stage(Stage::Head);
                    body::read(incoming, bytes_max).await
                }
            };
            place.set_stage(Stage::Answer);
            let response = service.answer(&head, body).await;
            let bytes = response.body().size_hint().exact().unwrap_or(0);
            place.write(usize::try_from(bytes).unwrap_or(usize::MAX));
            Ok::<_, Infallible>(response)
        }
    });
    let io = Watched { io: TokioIo::new(stream), place: Arc::clone(&place) };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut asked = false;
    let asks_at = Instant::now() + LIFETIME;
    // How a connection ends matters only to its client.
    while let Some(deadline) = deadline(&place) {
        let until = if asked { deadline } else { deadline.min(asks_at) };
        if timeout_at(until, connection.as_mut()).await.is_ok() {
            return;
        }
        let now = Instant::now();
        if !asked && now >= asks_at {
            asked = true;
            connection.as_mut().graceful_shutdown();
        }
        // The deadline may have been another one's, of a request that has been answered since.
        if self::deadline(&place).is_none_or(|deadline| deadline <= now) {
            return;
        }
    }
}

/// When the connection has kept us waiting too long; none once it has had to give way.
fn deadline(place: &Place) -> Option<Instant> {
    place.stage().map(|(stage, since)| {
        since
            + match stage {
                Stage::Head => HEAD_WITHIN,
                Stage::Answer => ANSWER_WITHIN,
                Stage::Write => WRITE_WITHIN,
            }
    })
}

/// A stream that notes when everything written has been taken.
struct Watched {
    io: TokioIo<TcpStream>,
    place: Arc<Place>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once its own buffers are empty.
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        if flushed.is_ready() {
            self.place.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }
}
