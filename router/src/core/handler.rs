//! What an application implements.

use std::net::SocketAddr;

use roost_protocol::{
    Reason, SessionRef,
    link::{Framing, Reopen},
};

use super::Context;
use crate::id::{Client, Origin};

/// An application behind a worker. Called on the worker's thread, one frame at a time: a call
/// that blocks holds up every link.
///
/// A frame of a gateway is acknowledged only after its call has returned, and after what the call
/// sent on the same link. So a frame is handled at least once, whatever dies; and exactly once as
/// long as worker and gateway live, however often TCP breaks between them.
///
/// Presence of a client, as these calls tell it:
///
/// | what happened | call |
/// |---|---|
/// | a client has connected, and asks for a session | [`on_open`](Self::on_open) with [`Opened::New`] |
/// | the handler accepts it | none |
/// | the handler rejects it | none: [`on_close`](Self::on_close) does not follow |
/// | its key has too many connections, and the newest is refused | none; [`on_close`](Self::on_close) where it was refused after `on_open` |
/// | an open connection has come from another worker, which drains, has died, or is not the owner of its key any more | [`on_open`](Self::on_open) with [`Opened::Moved`] |
/// | it has come so, and its key has too many connections | none: it is closed |
/// | its client has left, was too slow, was silent for too long, ... | [`on_close`](Self::on_close) with [`Closed::Ended`] |
/// | it was closed from here, and its gateway has done so | [`on_close`](Self::on_close) with [`Closed::Ended`] |
/// | it goes on at another worker | [`on_close`](Self::on_close) with [`Closed::Moved`] |
/// | the link breaks, and is resumed | none |
/// | its gateway has given up the link's session, and begins a new one | [`on_close`](Self::on_close) with [`Closed::Lost`], when it does |
/// | its gateway stays away for `session_ttl_ms` | [`on_close`](Self::on_close) with [`Closed::Lost`], then |
/// | this worker ends or dies | none here; [`on_open`](Self::on_open) with [`Opened::Moved`] at others |
///
/// ```
/// use std::collections::HashMap;
/// use roost_protocol::SessionRef;
/// use roost_router::{Client, Closed, Context, Handler, Opened};
///
/// /// Counts the connections of each user that are here.
/// #[derive(Default)]
/// struct Presence {
///     here: HashMap<SessionRef, u32>,
/// }
///
/// impl Handler for Presence {
///     fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
///         if let Opened::New(opening) = opened {
///             ctx.accept(client, SessionRef(opening.routing_hash));
///         }
///         // Also of one that `accept` has refused: `on_close` follows.
///         if let Some(user) = ctx.session(client) {
///             *self.here.entry(user).or_default() += 1;
///         }
///     }
///     fn on_close(&mut self, _: &mut Context<'_>, _: Client, user: Option<SessionRef>, closed: Closed) {
///         let Some(user) = user else { return };
///         let Some(connections) = self.here.get_mut(&user) else { return };
///         *connections -= 1;
///         if *connections == 0 {
///             self.here.remove(&user);
///             match closed {
///                 Closed::Ended(reason) => println!("{user:?} has gone: {}", reason.label()),
///                 Closed::Moved | Closed::Lost => println!("{user:?} may be elsewhere"),
///             }
///         }
///     }
///     fn on_message(&mut self, _: &mut Context<'_>, _: Client, _: &[u8], _resent: bool) {}
/// }
/// ```
pub trait Handler: 'static {
    /// A connection has come; `opened` says how.
    ///
    /// [`Opened::New`]: a client wants a session. Answer with [`Context::accept`] or [`Context::reject`];
    /// messages to the client may follow the former at once. The answer may also be given in a later call,
    /// but should the worker die in between, the client is closed with `handshake_timeout`.
    ///
    /// [`Opened::Moved`]: another worker had the connection. It is open: send, have it
    /// [join](Context::join) what it had joined, or [close](Context::close) it.
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>);

    /// A message of an open connection. `resent` is set when it may have been handled before by
    /// another worker, which died or stayed away before it acknowledged it.
    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], resent: bool);

    /// A connection has gone from here; `closed` says where to, as far as is known. `session` is what it
    /// was accepted with, if it was. Called exactly once for every connection that
    /// [`on_open`](Self::on_open) was called for and that the handler has not rejected; nothing can be sent
    /// to it any more, and it has left its topics.
    fn on_close(
        &mut self,
        ctx: &mut Context<'_>,
        client: Client,
        session: Option<SessionRef>,
        closed: Closed,
    ) {
        let _ = (ctx, client, session, closed);
    }

    /// How often [`on_tick`](Self::on_tick) is to be called, in milliseconds; 0: never. Asked once, before
    /// the first call.
    fn tick_ms(&self) -> u64 {
        0
    }

    /// [`tick_ms`](Self::tick_ms) have passed by the worker's clock, in which pauses of the process do not
    /// count. Ticks that a busy worker was late for are left out. Nothing waits for a gateway here: what is
    /// sent to one that has `pending_bytes_max` to take already is refused with
    /// [`Limit::Queue`](crate::Limit::Queue).
    ///
    /// ```
    /// use roost_router::{Client, Context, Handler, Opened};
    /// use roost_protocol::SessionRef;
    ///
    /// /// Tells everybody the time, every second.
    /// struct SpeakingClock;
    ///
    /// impl Handler for SpeakingClock {
    ///     fn tick_ms(&self) -> u64 {
    ///         1_000
    ///     }
    ///     fn on_tick(&mut self, ctx: &mut Context<'_>) {
    ///         ctx.broadcast(format!("{} s", ctx.now_ms() / 1_000).as_bytes(), false);
    ///     }
    ///     fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
    ///         if let Opened::New(opening) = opened {
    ///             ctx.accept(client, SessionRef(opening.routing_hash));
    ///         }
    ///     }
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: Client, _: &[u8], _resent: bool) {}
    /// }
    /// ```
    fn on_tick(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// A timer that [`Context::after`] has set is due, by the worker's clock. Timers are handled in the order
    /// in which they are due, some at a time, and links are read in between. As for
    /// [`on_tick`](Self::on_tick), nothing waits for a gateway here.
    fn on_timer(&mut self, ctx: &mut Context<'_>, token: u64) {
        let _ = (ctx, token);
    }

    /// Whether [`Context::clients_of`] is to find clients; asked once, before the first call. Costs
    /// memory per connection: 8 bytes and an entry in a hash table.
    fn finds_clients_by_key(&self) -> bool {
        true
    }

    /// A payload that a worker relayed to whoever serves `routing_hash`, to all workers, or back to
    /// this one. [`Context::relay_back`] answers whoever sent it.
    fn on_relay(&mut self, ctx: &mut Context<'_>, origin: Origin, routing_hash: u64, payload: &[u8]) {
        let _ = (ctx, origin, routing_hash, payload);
    }
}

/// How a connection has come to this worker.
#[derive(Clone, Copy, Debug)]
pub enum Opened<'a> {
    /// Its client has connected, and asks for a session.
    New(Opening<'a>),
    /// Another worker had it (REOPEN); `session` is what that one accepted it with.
    Moved(Reopen),
}

/// What became of a connection that has gone from this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It has ended, for this reason; never [`Reason::Moved`].
    Ended(Reason),
    /// It is open, and another worker has it now.
    Moved,
    /// Its gateway has given up the link's session, or stays away: another worker has the connection, or it
    /// has ended. Nobody tells this worker which.
    Lost,
}

/// What a client stated in HELLO, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// [`roost_protocol::hash::routing_hash`] of the key.
    pub routing_hash: u64,
    /// The client's address; none where it came over a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The routing key.
    pub key: &'a [u8],
    /// The auth token.
    pub token: &'a [u8],
    /// The index of the gateway's listener.
    pub listener: u16,
    /// How the client frames what it says.
    pub framing: Framing,
    /// Lines `name: value`, each ended by CRLF, about the client's request or certificate; empty where
    /// the listener speaks the edge protocol over plain TCP.
    pub meta: &'a [u8],
}
