//! The one link, by two tasks: one reads it, one writes it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use roost_protocol::{
    ConnectionId, InstanceId, Reason,
    edge::{Hello, Welcome},
    hash::routing_hash,
    link::{
        Frame, Header, LinkHello, LinkProof, LinkType, LinkWelcome, Open, Split, WINDOW_BYTES_DEFAULT,
        handshake, multicast_ids, payload_bytes_max, split, split_multicast,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval},
};

use crate::{FRAME_BYTES_MAX, slots::Slots};

/// Messages taken from clients for one write, at most.
const BATCH_MAX: usize = 1024;
/// What one read of the link takes at most, in bytes.
const READ_BYTES: usize = 256 * 1024;
/// How long an acknowledgement waits for messages to ride on, as roost's does.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// With so many bytes handled and not acknowledged it waits no longer.
const ACK_BYTES: usize = WINDOW_BYTES_DEFAULT as usize / 4;

/// From a client's task to the link.
pub(crate) enum ToLink {
    /// A client has said HELLO.
    Open { id: ConnectionId, peer: SocketAddr, hello: Bytes },
    /// A client's whole MESSAGE frame.
    Data { id: ConnectionId, frame: Bytes },
    /// A client has ended.
    Closed { id: ConnectionId, reason: Reason },
}

/// What the two tasks share.
struct Link {
    /// Lengths of sequenced frames on the way that the worker has not acknowledged.
    unacknowledged: RefCell<VecDeque<u32>>,
    outstanding_bytes: Cell<usize>,
    /// Sequenced frames sent.
    sent: Cell<u64>,
    window_bytes: usize,
    /// Sequenced frames of the worker that were handled.
    handled: Cell<u64>,
    /// Bytes of those of them that have not been acknowledged.
    owed_bytes: Cell<usize>,
    pongs: RefCell<Vec<u8>>,
    /// A PONG is due, so is an ACK for [`ACK_BYTES`], or the window has opened.
    wake: Notify,
}

/// Shakes hands. The future that it returns runs the link until it breaks.
pub(crate) async fn start(
    stream: TcpStream,
    from_clients: mpsc::Receiver<ToLink>,
    slots: Rc<RefCell<Slots>>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let (mut read, mut write) = stream.into_split();
    let mut bytes = BytesMut::new();
    let window_bytes =
        shake_hands(&mut read, &mut write, &mut bytes).await.context("handshake with the worker")?;
    let link = Link {
        unacknowledged: RefCell::default(),
        outstanding_bytes: Cell::new(0),
        sent: Cell::new(0),
        window_bytes: window_bytes as usize,
        handled: Cell::new(0),
        owed_bytes: Cell::new(0),
        pongs: RefCell::default(),
        wake: Notify::new(),
    };
    Ok(async move {
        tokio::select! {
            ended = link.read(read, bytes, &slots) => ended,
            ended = link.write(write, from_clients) => ended,
        }
    })
}

async fn shake_hands(
    read: &mut OwnedReadHalf,
    write: &mut OwnedWriteHalf,
    bytes: &mut BytesMut,
) -> anyhow::Result<u32> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let [gateway, nonce] = [0, 16].map(|at| random[at..at + 16].try_into().expect("16 bytes"));
    let hello = LinkHello {
        shard: 0,
        shards: 1,
        gateway: InstanceId(gateway),
        nonce,
        expected_worker: InstanceId([0; 16]),
        received_position: 0,
        window_bytes: WINDOW_BYTES_DEFAULT,
        frame_bytes_max: FRAME_BYTES_MAX,
        capabilities: 0,
        link_failover_ms: 10_000,
        link_keepalive_ms: 10_000,
        idle_timeout_ms: 0,
        messages_per_s_max: 0,
    };
    let mut out = Vec::new();
    handshake::encode_frame(LinkType::LinkHello, &hello.encode_payload(), &mut out);
    write.write_all(&out).await?;
    loop {
        match split(bytes, handshake::PAYLOAD_BYTES_MAX)? {
            Split::Need { .. } => ensure!(read.read_buf(bytes).await? > 0, "the worker closed"),
            Split::Frame { header, payload } => {
                ensure!(header.link_type == LinkType::LinkWelcome, "the worker said {:?}", header.link_type);
                let welcome = LinkWelcome::decode(payload)?;
                let frame_bytes = header.frame_bytes();
                bytes.advance(frame_bytes);
                out.clear();
                handshake::encode_frame(
                    LinkType::LinkProof,
                    &LinkProof { proof: None }.encode_payload(),
                    &mut out,
                );
                write.write_all(&out).await?;
                return Ok(welcome.window_bytes);
            }
        }
    }
}

impl Link {
    async fn read(
        &self,
        mut read: OwnedReadHalf,
        mut bytes: BytesMut,
        slots: &RefCell<Slots>,
    ) -> anyhow::Result<()> {
        loop {
            let was_full = !self.has_room();
            loop {
                let frame_bytes = match split(&bytes, payload_bytes_max(FRAME_BYTES_MAX))? {
                    Split::Need { .. } => break,
                    Split::Frame { header, .. } => header.frame_bytes(),
                };
                let whole = bytes.split_to(frame_bytes).freeze();
                self.on_frame(&whole, &mut slots.borrow_mut())?;
            }
            if was_full || self.owed_bytes.get() >= ACK_BYTES || !self.pongs.borrow().is_empty() {
                self.wake.notify_one();
            }
            bytes.reserve(READ_BYTES);
            ensure!(read.read_buf(&mut bytes).await? > 0, "the worker closed the link");
        }
    }

    fn on_frame(&self, whole: &Bytes, slots: &mut Slots) -> anyhow::Result<()> {
        let Split::Frame { header, payload } = split(whole, payload_bytes_max(FRAME_BYTES_MAX))? else {
            unreachable!("a whole frame")
        };
        let id = header.connection;
        // The frame itself, without a copy of it.
        let shared = |part: &[u8]| whole.slice_ref(part);
        match Frame::decode(&header, payload, FRAME_BYTES_MAX)? {
            Frame::Data(_) => deliver(slots, id, &shared(payload)),
            Frame::Accept(accept) => {
                let welcome = Welcome {
                    heartbeat_interval_ms: 60_000,
                    idle_timeout_ms: 0,
                    frame_bytes_max: FRAME_BYTES_MAX,
                    messages_per_s_max: 0,
                    session: accept.session,
                };
                slots.open(id);
                deliver(slots, id, &Bytes::copy_from_slice(&welcome.encode()));
            }
            Frame::Broadcast(_) => {
                let frame = shared(payload);
                slots.for_each_open(|client| client.try_send(frame.clone()).is_ok());
            }
            Frame::Multicast { ids, .. } => {
                let (_, frame) = split_multicast(payload)?;
                let frame = shared(frame);
                multicast_ids(ids).for_each(|id| deliver(slots, id, &frame));
            }
            Frame::Close(_) => slots.dismiss(id),
            Frame::Ack(position) => self.acknowledged(position),
            Frame::Ping(payload) => {
                Frame::Pong(payload).encode(no_connection(LinkType::Pong), &mut self.pongs.borrow_mut());
            }
            Frame::Pong(_) | Frame::Draining => {}
            other => bail!("this gateway does not do {:?}", other.link_type()),
        }
        if header.link_type.is_sequenced() {
            self.handled.set(self.handled.get() + 1);
            self.owed_bytes.set(self.owed_bytes.get() + whole.len());
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.outstanding_bytes.get() < self.window_bytes / 2
    }

    fn acknowledged(&self, position: u64) {
        let mut unacknowledged = self.unacknowledged.borrow_mut();
        let sent = self.sent.get();
        while unacknowledged.len() as u64 > sent.saturating_sub(position) {
            let bytes = unacknowledged.pop_front().expect("not empty");
            self.outstanding_bytes.set(self.outstanding_bytes.get() - bytes as usize);
        }
    }

    async fn write(
        &self,
        mut write: OwnedWriteHalf,
        mut from_clients: mpsc::Receiver<ToLink>,
    ) -> anyhow::Result<()> {
        let (mut batch, mut out) = (Vec::with_capacity(BATCH_MAX), Vec::new());
        let mut acknowledged = 0;
        let mut ack_due = interval(ACK_DELAY);
        ack_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                count = from_clients.recv_many(&mut batch, BATCH_MAX), if self.has_room() => ensure!(count > 0, "no more clients"),
                () = self.wake.notified() => {}
                _ = ack_due.tick() => {}
            }
            out.clear();
            for message in batch.drain(..) {
                let start = out.len();
                encode(&message, &mut out);
                let bytes = out.len() - start;
                self.outstanding_bytes.set(self.outstanding_bytes.get() + bytes);
                self.sent.set(self.sent.get() + 1);
                self.unacknowledged.borrow_mut().push_back(bytes as u32);
            }
            if self.handled.get() > acknowledged {
                acknowledged = self.handled.get();
                self.owed_bytes.set(0);
                Frame::Ack(acknowledged).encode(no_connection(LinkType::Ack), &mut out);
            }
            out.append(&mut self.pongs.borrow_mut());
            if !out.is_empty() {
                write.write_all(&out).await?;
            }
        }
    }
}

const fn no_connection(link_type: LinkType) -> Header {
    Header::new(link_type, ConnectionId::from_bits(0), 0)
}

/// Hands a client its frame; one whose queue is full is dismissed.
fn deliver(slots: &mut Slots, id: ConnectionId, frame: &Bytes) {
    if let Some(client) = slots.get(id)
        && client.try_send(frame.clone()).is_err()
    {
        slots.dismiss(id);
    }
}

fn encode(message: &ToLink, out: &mut Vec<u8>) {
    match message {
        ToLink::Data { id, frame } => {
            out.extend(Header::new(LinkType::Data, *id, frame.len() as u32).encode());
            out.extend_from_slice(frame);
        }
        ToLink::Open { id, peer, hello } => {
            let Hello { key, token } = Hello::decode(hello).expect("the client's task has checked it");
            let open = Open::edge(routing_hash(key), Some(*peer), key, token);
            Frame::Open(open).encode(Header::new(LinkType::Open, *id, 0), out);
        }
        ToLink::Closed { id, reason } => {
            out.extend(Header::new(LinkType::Closed, *id, 0).reason(*reason).encode());
        }
    }
}
