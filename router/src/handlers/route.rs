//! Passes messages between users by key, whichever worker serves them.
//!
//! A user is known by the routing hash of the key, which is all that REOPEN brings; see
//! `router/README.md` for the messages.

use roost_protocol::{SessionRef, edge::KEY_BYTES_MAX, hash::routing_hash};

use crate::{
    core::{Context, Handler, Opened, SendError},
    id::{Client, Origin},
};

/// Client to worker: op, id u32, key length u16, key, body.
pub const OP_SEND: u8 = 1;
/// Worker to client: op, flags u8, id u32, sender u64, body.
pub const OP_DELIVER: u8 = 2;
/// Worker to client: op, status u8, id u32.
pub const OP_RECEIPT: u8 = 3;
/// Flag of DELIVER: this may have been delivered before.
pub const FLAG_REPEATED: u8 = 0x01;

/// What became of a message, in RECEIPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Queued to at least one connection of the receiver.
    Delivered = 0,
    /// The receiver is not connected.
    Offline = 1,
    /// The way to the receiver is congested or down: try later.
    Busy = 2,
    /// The message does not follow the layout.
    Malformed = 3,
    /// The message is too long to be passed on.
    TooLong = 4,
}

/// Passes messages between users.
#[derive(Clone, Copy, Debug, Default)]
pub struct Route;

struct Send<'a> {
    id: u32,
    receiver: u64,
    body: &'a [u8],
}

impl Handler for Route {
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        if let Opened::New(opening) = opened {
            ctx.accept(client, SessionRef(opening.routing_hash));
        }
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], resent: bool) {
        let Some(SessionRef(sender)) = ctx.session(client) else { return };
        let Some(send) = parse_send(payload) else {
            let id = payload.get(1..5).map_or(0, |id| u32::from_be_bytes(id.try_into().expect("4 bytes")));
            receipt(ctx, client, id, Status::Malformed);
            return;
        };
        let flags = if resent { FLAG_REPEATED } else { 0 };
        let head = deliver_head(flags, send.id, sender);
        match deliver(ctx, send.receiver, &[&head, send.body]) {
            // Not here: the worker that serves the key knows. It may turn out to be this one.
            Status::Offline => {
                if let Err(error) = ctx.relay(send.receiver, &[&head, send.body]) {
                    receipt(ctx, client, send.id, status_of(error));
                }
            }
            status => receipt(ctx, client, send.id, status),
        }
    }

    /// A worker passes on a DELIVER, or a RECEIPT for it, in the same layouts as clients get.
    fn on_relay(&mut self, ctx: &mut Context<'_>, _: Origin, user: u64, payload: &[u8]) {
        let status = deliver(ctx, user, &[payload]);
        if let Some((id, sender)) = parse_deliver_head(payload) {
            let receipt = receipt_bytes(id, status);
            if deliver(ctx, sender, &[&receipt]) == Status::Offline {
                // Should that fail, the sender gets no receipt and may repeat the message.
                let _ = ctx.relay(sender, &[&receipt]);
            }
        }
    }
}

/// Sends to all connections of a user here.
fn deliver(ctx: &mut Context<'_>, user: u64, parts: &[&[u8]]) -> Status {
    ctx.send_parts_to_hash(user, parts).map_or_else(status_of, |_| Status::Delivered)
}

fn receipt(ctx: &mut Context<'_>, client: Client, id: u32, status: Status) {
    // A sender that has gone needs none.
    let _ = ctx.send(client, &receipt_bytes(id, status));
}

fn receipt_bytes(id: u32, status: Status) -> [u8; 6] {
    let [a, b, c, d] = id.to_be_bytes();
    [OP_RECEIPT, status as u8, a, b, c, d]
}

fn deliver_head(flags: u8, id: u32, sender: u64) -> [u8; 14] {
    let mut head = [0; 14];
    head[0] = OP_DELIVER;
    head[1] = flags;
    head[2..6].copy_from_slice(&id.to_be_bytes());
    head[6..].copy_from_slice(&sender.to_be_bytes());
    head
}

/// Id and sender, if it is a DELIVER.
fn parse_deliver_head(payload: &[u8]) -> Option<(u32, u64)> {
    let (&[op, _flags], rest) = payload.split_first_chunk()?;
    let (&id, rest) = rest.split_first_chunk()?;
    let &sender = rest.first_chunk()?;
    (op == OP_DELIVER).then(|| (u32::from_be_bytes(id), u64::from_be_bytes(sender)))
}

fn parse_send(payload: &[u8]) -> Option<Send<'_>> {
    let (&[op], rest) = payload.split_first_chunk()?;
    let (&id, rest) = rest.split_first_chunk()?;
    let (&key_bytes, rest) = rest.split_first_chunk()?;
    let key_bytes = usize::from(u16::from_be_bytes(key_bytes));
    let (key, body) = rest.split_at_checked(key_bytes)?;
    (op == OP_SEND && key_bytes <= KEY_BYTES_MAX).then(|| Send {
        id: u32::from_be_bytes(id),
        receiver: routing_hash(key),
        body,
    })
}

fn status_of(error: SendError) -> Status {
    match error {
        SendError::Closed => Status::Offline,
        SendError::Full(_) => Status::Busy,
        SendError::TooLong => Status::TooLong,
    }
}
