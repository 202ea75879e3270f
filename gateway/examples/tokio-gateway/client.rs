//! The task of one client.

use std::{io, net::SocketAddr, rc::Rc};

use bytes::{Bytes, BytesMut};
use roost_protocol::{
    ConnectionId, Reason,
    edge::{FrameType, Hello, Split, encode_frame, split},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};

use crate::{FRAME_BYTES_MAX, Shared, link::ToLink};

/// Frames for one client that wait for its task. One whose queue is full is too slow, and goes.
const TO_CLIENT_MAX: usize = 64;

/// Serves the client until it leaves, errs or is too slow.
pub(crate) async fn run(stream: TcpStream, peer: SocketAddr, shared: Rc<Shared>) {
    let (to_client, from_link) = mpsc::channel(TO_CLIENT_MAX);
    let id = shared.slots.borrow_mut().insert(to_client);
    let mut client = Client { stream, peer, id, shared, from_link, rest: BytesMut::new(), greeted: false };
    let reason = client.serve().await.unwrap_or(Reason::ClientReset);
    client.shared.slots.borrow_mut().remove(id);
    if client.greeted {
        // Fails only when the link is gone, and with it all there was to tell.
        let _ = client.shared.to_link.send(ToLink::Closed { id, reason }).await;
    }
}

struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    id: ConnectionId,
    shared: Rc<Shared>,
    from_link: mpsc::Receiver<Bytes>,
    /// A frame's first part; no memory while there is none.
    rest: BytesMut,
    greeted: bool,
}

impl Client {
    async fn serve(&mut self) -> io::Result<Reason> {
        self.stream.set_nodelay(true)?;
        loop {
            tokio::select! {
                ready = self.stream.readable() => {
                    ready?;
                    if let Some(reason) = self.read().await? {
                        return Ok(reason);
                    }
                }
                frame = self.from_link.recv() => match frame {
                    Some(frame) => self.write(frame).await?,
                    // The link dropped this client: its queue was full, or the worker closed it.
                    None => return Ok(Reason::SlowConsumer),
                },
            }
        }
    }

    /// Reads what has come and hands its whole frames to the link.
    async fn read(&mut self) -> io::Result<Option<Reason>> {
        let mut bytes = {
            let mut buffer = self.shared.read_buffer.borrow_mut();
            let got = match self.stream.try_read(&mut buffer) {
                Ok(0) => return Ok(Some(Reason::ClientEof)),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            if self.rest.is_empty() {
                Bytes::copy_from_slice(&buffer[..got])
            } else {
                self.rest.extend_from_slice(&buffer[..got]);
                std::mem::take(&mut self.rest).freeze()
            }
        };
        loop {
            match split(&bytes, FRAME_BYTES_MAX) {
                Err(error) => return Ok(Some(error.reason())),
                Ok(Split::Need { .. }) => {
                    self.rest = BytesMut::from(&bytes[..]);
                    return Ok(None);
                }
                Ok(Split::Frame { frame_type, frame }) => {
                    let frame_bytes = frame.len();
                    if let Some(reason) = self.on_frame(frame_type, bytes.split_to(frame_bytes)).await? {
                        return Ok(Some(reason));
                    }
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn on_frame(&mut self, frame_type: FrameType, frame: Bytes) -> io::Result<Option<Reason>> {
        let payload = frame.slice(roost_protocol::edge::HEADER_BYTES..);
        let id = self.id;
        let message = match frame_type {
            FrameType::Message if self.greeted => ToLink::Data { id, frame },
            FrameType::Hello if !self.greeted => {
                if let Err(error) = Hello::decode(&payload) {
                    return Ok(Some(error.reason()));
                }
                self.greeted = true;
                ToLink::Open { id, peer: self.peer, hello: payload }
            }
            FrameType::Ping if self.greeted => {
                let mut pong = Vec::new();
                encode_frame(FrameType::Pong, &payload, &mut pong);
                self.stream.write_all(&pong).await?;
                return Ok(None);
            }
            FrameType::Pong if self.greeted => return Ok(None),
            FrameType::Close => return Ok(Some(Reason::ClientClosed)),
            _ => return Ok(Some(Reason::UnexpectedFrame)),
        };
        let sent = self.shared.to_link.send(message).await;
        Ok(sent.is_err().then_some(Reason::NoWorker))
    }

    /// Writes a frame, and with it all that wait behind it.
    async fn write(&mut self, frame: Bytes) -> io::Result<()> {
        match self.from_link.try_recv() {
            Err(_) => self.stream.write_all(&frame).await,
            Ok(next) => {
                let mut all = BytesMut::from(&frame[..]);
                all.extend_from_slice(&next);
                while let Ok(next) = self.from_link.try_recv() {
                    all.extend_from_slice(&next);
                }
                self.stream.write_all(&all).await
            }
        }
    }
}
