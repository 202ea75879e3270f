//! The body of a request: bounded in bytes and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

/// From the end of the head to the end of the body. Shorter than the connection's own deadline, so
/// that its client hears why.
const BODY_WITHIN: Duration = Duration::from_secs(4);
/// Bytes beyond the limit that are read and dropped, so that a client which is still writing reads
/// the answer: a socket that is closed with bytes unread resets.
const DROPPED_BYTES_MAX: u64 = 1 << 20;

/// What a request brought.
pub type Body = Result<Bytes, BodyError>;

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than the service takes.
    #[error("the body is too long")]
    TooLong,
    /// It did not come in time.
    #[error("the body did not come within 4 seconds")]
    Late,
    /// It ended early, or its framing is broken.
    #[error("the body is broken")]
    Broken,
}

/// Reads a body of at most so many bytes.
pub(super) async fn read(body: Incoming, bytes_max: usize) -> Body {
    if body.size_hint().lower() > bytes_max as u64 + DROPPED_BYTES_MAX {
        return Err(BodyError::TooLong);
    }
    timeout(BODY_WITHIN, collect(body, bytes_max)).await.unwrap_or(Err(BodyError::Late))
}

async fn collect(mut body: Incoming, bytes_max: usize) -> Body {
    let (mut all, mut dropped_bytes) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if dropped_bytes == 0 && all.len() + data.len() <= bytes_max {
            all.extend_from_slice(&data);
            continue;
        }
        all.clear();
        dropped_bytes += data.len() as u64;
        if dropped_bytes > DROPPED_BYTES_MAX {
            break;
        }
    }
    if dropped_bytes > 0 { Err(BodyError::TooLong) } else { Ok(all.freeze()) }
}
