//! The tasks of one TCP connection: handshake, then a reader and a writer.

use std::{rc::Rc, time::Duration};

use roost_protocol::link::{self, LinkError, LinkType, Refusal, Split, handshake::NONCE_BYTES};
use tokio::sync::Notify;
use tokio_uring::buf::BoundedBuf;

use super::{
    Server,
    stream::{HandshakeCut, Stream},
    streams::StreamId,
};
use crate::{
    core::{Attachment, Handler, LinkFailure},
    session::handshake::PAYLOAD_BYTES_MAX,
    stats::Stat,
};

/// Bytes asked for per read; a longer frame gets a longer buffer.
const READ_BYTES: usize = 256 * 1024;
/// Bytes per write, about.
const WRITE_BYTES: usize = 256 * 1024;

/// How long a gateway that is refused has to read why.
const REFUSE_LINGER: Duration = Duration::from_millis(1_000);
/// Reads of what it still says, at most; nobody looks at it.
const REFUSE_READS_MAX: u32 = 64;

/// Why a link's TCP connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the peer closed the connection")]
    Eof,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Link(#[from] LinkFailure),
    #[error("the gateway refused this worker: {0}")]
    RefusedByPeer(Refusal),
    #[error("no complete handshake in time")]
    Timeout,
    #[error("too many connections in the handshake")]
    CrowdedOut,
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Self::Link(error.into())
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Link(refusal.into())
    }
}

/// Serves one accepted connection until it ends.
pub(super) async fn serve<H: Handler>(server: Rc<Server<H>>, stream: Rc<Stream>, id: StreamId) {
    let mut reader = Reader {
        stream: stream.clone(),
        buffer: Vec::new(),
        start: 0,
        read_bytes: PAYLOAD_BYTES_MAX as usize,
    };
    let handshake = handshake(&server, &mut reader).await;
    server.streams.borrow_mut().handshake_ended(id);
    let attachment = match handshake {
        Ok(attachment) => attachment,
        Err(ended) => {
            let ended = match stream.handshake_cut.get() {
                Some(HandshakeCut::Overdue) => Ended::Timeout,
                Some(HandshakeCut::CrowdedOut) => Ended::CrowdedOut,
                None => ended,
            };
            server.stats.add(Stat::LinksRefused, 1);
            tracing::warn!(peer = stream.peer, "link not established: {ended}");
            if let Ended::Link(LinkFailure::Refused(refusal)) = ended {
                refuse(&mut reader, refusal).await;
            }
            stream.shut_down();
            return;
        }
    };
    reader.read_bytes = READ_BYTES;
    let wake = Rc::new(Notify::new());
    server.enter(attachment, stream.clone(), wake.clone());
    let writer = tokio_uring::spawn(write(server.clone(), stream.clone(), attachment, wake.clone()));
    let ended = read(&server, &mut reader, attachment).await;
    server.stats.add(Stat::LinkBreaks, 1);
    if let Ended::Link(LinkFailure::Protocol(_)) = ended {
        server.stats.add(Stat::LinkErrors, 1);
        tracing::warn!(peer = stream.peer, "link closed: {ended}");
    } else {
        tracing::info!(peer = stream.peer, "link closed: {ended}");
    }
    server.leave(attachment);
    stream.shut_down();
    wake.notify_one();
    let _ = writer.await;
}

/// Sends LINK_REFUSE, and gives the peer time to read it: to close a socket with unread input would
/// take it back.
async fn refuse(reader: &mut Reader, refusal: Refusal) {
    let sent = async {
        let _ = reader.stream.write_all(refusal.encode().to_vec()).await;
        reader.stream.end_sending();
        for _ in 0..REFUSE_READS_MAX {
            let bytes = reader.bytes().len();
            reader.take(bytes);
            if reader.more().await.is_err() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(REFUSE_LINGER, sent).await;
}

async fn handshake<H: Handler>(server: &Server<H>, reader: &mut Reader) -> Result<Attachment, Ended> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(std::io::Error::from)?;
    let payload = reader.handshake_frame(LinkType::LinkHello).await?;
    let (handshake, welcome) = server.core.borrow().hello(&payload, nonce)?;
    reader.stream.write_all(welcome).await.0?;
    let payload = reader.handshake_frame(LinkType::LinkProof).await?;
    let now_ms = server.now_ms();
    let attachment = server.core.borrow_mut().proof(&handshake, &payload, now_ms)?;
    tracing::info!(
        peer = reader.stream.peer,
        gateway = %handshake.hello.gateway.0[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        shard = handshake.hello.shard,
        resumed = handshake.resumed.is_some(),
        "link up"
    );
    Ok(attachment)
}

async fn read<H: Handler>(server: &Server<H>, reader: &mut Reader, attachment: Attachment) -> Ended {
    loop {
        let now_ms = server.now_ms();
        let received = server.core.borrow_mut().receive(attachment, reader.bytes(), now_ms);
        server.wake_links();
        match received {
            Ok(taken_bytes) => reader.take(taken_bytes),
            Err(failure) => return failure.into(),
        }
        match reader.more().await {
            Ok(bytes) => {
                server.stats.add(Stat::LinkReads, 1);
                server.stats.add(Stat::LinkBytesReceived, bytes as u64);
            }
            Err(ended) => return ended,
        }
    }
}

/// Writes whatever there is, as much as there is at a time. Ends when the connection does.
async fn write<H: Handler>(
    server: Rc<Server<H>>,
    stream: Rc<Stream>,
    attachment: Attachment,
    wake: Rc<Notify>,
) {
    let mut out = Vec::with_capacity(WRITE_BYTES);
    loop {
        out.clear();
        if server.core.borrow_mut().fill(attachment, &mut out, WRITE_BYTES).is_err() {
            return;
        }
        if out.is_empty() {
            wake.notified().await;
            continue;
        }
        server.stats.add(Stat::LinkWrites, 1);
        server.stats.add(Stat::LinkBytesSent, out.len() as u64);
        let (written, buffer) = stream.write_all(out).await;
        if written.is_err() {
            // The reader sees the end of the connection too, and says so.
            stream.shut_down();
            return;
        }
        out = buffer;
        server.unblocked();
    }
}

/// Reads into one buffer and keeps what has not been taken.
struct Reader {
    stream: Rc<Stream>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been taken.
    start: usize,
    /// Bytes to ask for, at least a quarter of them.
    read_bytes: usize,
}

impl Reader {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn take(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.buffer.len() {
            self.start = 0;
            self.buffer.clear();
        }
    }

    /// Waits for more bytes: at least one.
    async fn more(&mut self) -> Result<usize, Ended> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let length = self.buffer.len();
        if self.buffer.capacity() - length < self.read_bytes / 4 {
            self.buffer.reserve(self.read_bytes);
        }
        let (read, slice) = self.stream.read(std::mem::take(&mut self.buffer).slice(length..)).await;
        self.buffer = slice.into_inner();
        match read? {
            0 => Err(Ended::Eof),
            bytes => Ok(bytes),
        }
    }

    /// The payload of the next frame, which must be of this type.
    async fn handshake_frame(&mut self, expected: LinkType) -> Result<Vec<u8>, Ended> {
        loop {
            match link::split(self.bytes(), PAYLOAD_BYTES_MAX).map_err(|_| Refusal::Malformed)? {
                Split::Frame { header, payload } => {
                    let (link_type, aux, payload) = (header.link_type, header.aux, payload.to_vec());
                    self.take(header.frame_bytes());
                    return match link_type {
                        LinkType::LinkRefuse => Err(Ended::RefusedByPeer(Refusal::from_code(aux))),
                        _ if link_type == expected => Ok(payload),
                        _ => Err(Refusal::Malformed.into()),
                    };
                }
                Split::Need { .. } => self.more().await?,
            };
        }
    }
}
