//! Sockets, tasks and timers: one thread, one io_uring, a reader and a writer task per link.

mod address;
mod clock;
mod handle;
mod link;
mod shutdown;
mod stream;
mod streams;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use roost_protocol::{InstanceId, auth};
use tokio::sync::Notify;

pub use address::{Address, AddressError, BindError, Listener};
pub use handle::{Answer, PushError, WorkerHandle};
pub use shutdown::{Shutdown, ShutdownHandle, shutdown};

use crate::{
    config::{SESSION_TTL_MS, WorkerConfig},
    core::{Attachment, Core, Handler},
    id::LinkId,
    stats::{Stat, Stats},
};
use clock::Clock;
use handle::Intake;
use shutdown::Phase;
use stream::Stream;
use streams::Streams;

/// How often time-driven work is done, at least.
const TICK_MAX_MS: u64 = 250;
/// The longest sleep until the next timer, in milliseconds: a day.
const TIMERS_SLEEP_MAX_MS: u64 = 24 * 60 * 60 * 1_000;
/// Pause after a failed accept (out of descriptors): the cause does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long links get, in the end, to finish what they are doing.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// A worker that is ready to run.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    stats: Arc<Stats>,
    handle: WorkerHandle,
    intake: Intake,
}

impl Worker {
    /// A worker with this configuration.
    pub fn new(config: WorkerConfig) -> Self {
        let (handle, intake) = handle::queue(config.pushes_max, config.push_bytes_max);
        Self { config, stats: Arc::default(), handle, intake }
    }

    /// A way to push into this worker, for any thread. What is pushed before [`Self::run`] waits for it.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Its figures, for any thread to read.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Serves links on the calling thread until asked to stop.
    ///
    /// # Errors
    ///
    /// If io_uring or randomness cannot be had, the secret is shorter than 16 bytes, or a listener cannot
    /// be used. What goes wrong with
    /// single links is logged and counted, and ends those links only.
    pub fn run<H: Handler>(self, handler: H, listeners: Vec<Listener>, shutdown: Shutdown) -> io::Result<()> {
        // Whoever embeds a worker is held to the same.
        if let Some(secret) = &self.config.secret {
            auth::secret(secret).map_err(|short| io::Error::new(io::ErrorKind::InvalidInput, short))?;
        }
        let mut instance = [0; 16];
        getrandom::fill(&mut instance)?;
        let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(256))
            .map_err(roost_ring::Error::refused)?;
        let core = Core::new(self.config.clone(), InstanceId(instance), handler, self.stats.clone());
        let server = Rc::new(Server {
            core: RefCell::new(core),
            stats: self.stats,
            sockets: RefCell::default(),
            streams: RefCell::default(),
            pump: Notify::new(),
            pushes: Notify::new(),
            timers: Notify::new(),
            timers_wake_ms: Cell::new(0),
            clock: Clock::new(tick_ms(&self.config)),
            handshake_timeout_ms: self.config.handshake_timeout_ms,
            handshakes_max: self.config.handshakes_max,
        });
        runtime.block_on(serve_until_shutdown(server, self.intake, listeners, self.config, shutdown))
    }
}

/// Serves links on the calling thread: [`Worker::run`] in one call.
pub fn serve<H: Handler>(
    config: WorkerConfig,
    handler: H,
    listener: Listener,
    shutdown: Shutdown,
) -> io::Result<()> {
    Worker::new(config).run(handler, vec![listener], shutdown)
}

/// What the tasks share.
struct Server<H> {
    core: RefCell<Core<H>>,
    stats: Arc<Stats>,
    /// The connections that carry links.
    sockets: RefCell<HashMap<LinkId, LinkSocket>>,
    /// All connections, also those in the handshake.
    streams: RefCell<Streams>,
    pump: Notify,
    /// Pushes that waited for a queue may go on.
    pushes: Notify,
    /// A timer is due earlier than the task of the timers wakes.
    timers: Notify,
    /// When that is; at once, while it is awake.
    timers_wake_ms: Cell<u64>,
    clock: Clock,
    handshake_timeout_ms: u64,
    handshakes_max: usize,
}

/// The TCP connection that carries a link.
struct LinkSocket {
    attachment: Attachment,
    stream: Rc<Stream>,
    wake: Rc<Notify>,
}

impl<H: Handler> Server<H> {
    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// A link is up; an older connection of the same session ends here.
    fn enter(&self, attachment: Attachment, stream: Rc<Stream>, wake: Rc<Notify>) {
        let socket = LinkSocket { attachment, stream, wake };
        if let Some(older) = self.sockets.borrow_mut().insert(attachment.link, socket) {
            older.stream.shut_down();
            older.wake.notify_one();
        }
        self.close_discarded();
        self.wake_links();
    }

    /// A link's connection has ended.
    fn leave(&self, attachment: Attachment) {
        let mut sockets = self.sockets.borrow_mut();
        if sockets.get(&attachment.link).is_some_and(|socket| socket.attachment == attachment) {
            sockets.remove(&attachment.link);
        }
        drop(sockets);
        self.core.borrow_mut().detach(attachment, self.now_ms());
        self.wake_links();
    }

    /// Wakes whoever has something to do after a change to the core.
    fn wake_links(&self) {
        self.wake_writers();
        self.unblocked();
    }

    /// Wakes the writers of the links that have something to send, and ends broken links.
    fn wake_writers(&self) {
        let mut core = self.core.borrow_mut();
        let sockets = self.sockets.borrow();
        for link in core.take_dirty() {
            if let Some(socket) = sockets.get(&link) {
                socket.wake.notify_one();
            }
        }
        for link in core.take_broken() {
            if let Some(socket) = sockets.get(&link) {
                socket.stream.shut_down();
            }
        }
        if core.next_due_ms().is_some_and(|due_ms| due_ms < self.timers_wake_ms.get()) {
            self.timers.notify_one();
        }
    }

    /// A queue may have become shorter, so that frames that were set aside can be handled.
    fn unblocked(&self) {
        let core = self.core.borrow();
        if core.has_held() {
            self.pump.notify_one();
        }
        if core.has_waiting_pushes() {
            self.pushes.notify_one();
        }
    }

    /// Ends the connections of sessions that are over.
    fn close_discarded(&self) {
        let core = self.core.borrow();
        self.sockets.borrow_mut().retain(|_, socket| {
            let live = core.is_current(socket.attachment);
            if !live {
                socket.stream.shut_down();
                socket.wake.notify_one();
            }
            live
        });
    }

    fn close_all(&self) {
        self.streams.borrow().shut_down();
    }
}

async fn serve_until_shutdown<H: Handler>(
    server: Rc<Server<H>>,
    intake: Intake,
    listeners: Vec<Listener>,
    config: WorkerConfig,
    mut shutdown: Shutdown,
) -> io::Result<()> {
    let mut tasks = vec![tokio_uring::spawn(tick(server.clone(), tick_ms(&config)))];
    tasks.push(tokio_uring::spawn(pump(server.clone())));
    tasks.push(tokio_uring::spawn(push(server.clone(), intake)));
    tasks.push(tokio_uring::spawn(timers(server.clone())));
    for listener in listeners {
        tasks.push(tokio_uring::spawn(accept(server.clone(), AsyncListener::new(listener)?)));
    }
    if shutdown.changed().await == Phase::Drain {
        tracing::info!("draining");
        server.core.borrow_mut().start_draining();
        server.wake_links();
        let drained = async {
            while !server.core.borrow().is_drained(server.now_ms()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = drained => tracing::info!("drained"),
            () = tokio::time::sleep(Duration::from_millis(config.drain_ms)) => {
                tracing::warn!("connections are left after the drain time");
            }
            _ = shutdown.changed() => tracing::info!("stopped while draining"),
        }
    }
    for task in &tasks {
        task.abort();
    }
    // The tasks of the links end with their connections.
    server.close_all();
    let closed = async {
        while Rc::strong_count(&server) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
    Ok(())
}

async fn tick<H: Handler>(server: Rc<Server<H>>, tick_ms: u64) {
    let mut interval = tokio::time::interval(Duration::from_millis(tick_ms));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        server.stats.add(Stat::Ticks, 1);
        let now_ms = server.now_ms();
        server.streams.borrow_mut().cut_overdue(now_ms, server.handshake_timeout_ms);
        server.core.borrow_mut().tick(now_ms);
        server.wake_links();
    }
}

/// Calls the handler when ticks and timers are due, in slices between which other tasks run.
///
/// After a pause of the process the clock, which leaves it out, says that nothing more is due than before.
/// What is due all the same, as after a long call, waits until what gateways said meanwhile has been read.
async fn timers<H: Handler>(server: Rc<Server<H>>) {
    loop {
        let due_ms = server.core.borrow().next_due_ms().unwrap_or(u64::MAX);
        let wait_ms = due_ms.saturating_sub(server.now_ms());
        if wait_ms > 0 {
            server.timers_wake_ms.set(due_ms);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms.min(TIMERS_SLEEP_MAX_MS))) => {}
                () = server.timers.notified() => {}
            }
            continue;
        }
        server.timers_wake_ms.set(0);
        // Once for the ring to be looked at, once for the readers that it wakes.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        server.core.borrow_mut().run_due(server.now_ms());
        server.wake_links();
    }
}

/// Handles frames that were set aside, in slices between which other tasks run.
async fn pump<H: Handler>(server: Rc<Server<H>>) {
    loop {
        server.pump.notified().await;
        loop {
            server.core.borrow_mut().time_is(server.now_ms());
            let more = server.core.borrow_mut().pump();
            server.wake_writers();
            if !more {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Runs what other threads push, in slices between which other tasks run.
async fn push<H: Handler>(server: Rc<Server<H>>, mut intake: Intake) {
    let mut batch = Vec::new();
    while intake.receive(&mut batch).await {
        for push in batch.drain(..) {
            while server.core.borrow_mut().pushes_wait() {
                server.wake_writers();
                server.pushes.notified().await;
            }
            intake.taken(&push);
            server.core.borrow_mut().time_is(server.now_ms());
            server.core.borrow_mut().push(|ctx| push.run(ctx));
        }
        server.wake_writers();
        tokio::task::yield_now().await;
    }
}

enum AsyncListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl AsyncListener {
    fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener).map(Self::Tcp)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                Stream::from_tcp(socket, peer.to_string())
            }
            Self::Unix(listener) => Stream::from_unix(listener.accept().await?.0),
        }
    }
}

async fn accept<H: Handler>(server: Rc<Server<H>>, listener: AsyncListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let stream = Rc::new(stream);
                let id = server.streams.borrow_mut().enter(&stream, server.handshakes_max, server.now_ms());
                let server = server.clone();
                tokio_uring::spawn(async move {
                    link::serve(server.clone(), stream, id).await;
                    server.streams.borrow_mut().leave(id);
                });
            }
            Err(error) => {
                tracing::warn!("accept failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn tick_ms(config: &WorkerConfig) -> u64 {
    let keepalive_ms = if config.keepalive_ms == 0 { u64::MAX } else { config.keepalive_ms };
    let session_ttl_ms = config.session_ttl_ms.unwrap_or(*SESSION_TTL_MS.start());
    (session_ttl_ms.min(keepalive_ms).min(config.handshake_timeout_ms) / 4).clamp(10, TICK_MAX_MS)
}
