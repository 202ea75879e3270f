//! The way into a running worker from other threads.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, ready},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    core::{Context, JoinError, SendError},
    id::Client,
};

/// Pushes that run before other tasks of the worker get their turn.
const BATCH: usize = 64;

/// Why nothing was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// As many pushes, or as many bytes of payload, wait for the worker as may: try later.
    #[error("the queue into the worker is full")]
    Full,
    /// The worker has ended, or will never run.
    #[error("the worker has ended")]
    Closed,
}

/// A way to push into a worker from any thread: to send to clients, or to run code with a [`Context`].
///
/// Cheap to clone. Pushes of one handle, and of its clones on one thread, run in order, on the worker's
/// thread, between the calls of its handler. None of the methods waits: where the queue is full, they
/// say so. The queue holds [`WorkerConfig::pushes_max`](crate::WorkerConfig::pushes_max) pushes and
/// [`WorkerConfig::push_bytes_max`](crate::WorkerConfig::push_bytes_max) bytes of payload.
///
/// A push to a gateway that is there, but takes less than it is sent, waits in the queue until it has
/// caught up. A gateway that is away, or takes nothing, is not waited for: what is sent to it beyond
/// `pending_bytes_max` is refused and counted in [`Stat::SendsRefused`](crate::Stat::SendsRefused). One push
/// may queue what one call of a handler may ([`Context`]).
/// What was queued for a client whose link is cut reaches it once, when the link is up again.
///
/// Success of a typed send means that the worker will try. Who must know what became of it uses
/// [`WorkerHandle::call`].
///
/// ```
/// use roost_router::{Listener, Worker, WorkerConfig, handlers, shutdown};
///
/// let worker = Worker::new(WorkerConfig::default());
/// let handle = worker.handle();
/// let listener = Listener::bind(&"127.0.0.1:0".parse()?)?;
/// let (stop, stopped) = shutdown();
/// let thread = std::thread::spawn(move || worker.run(handlers::Route, vec![listener], stopped));
///
/// handle.send_to_key("alice", "you have mail")?;
/// handle.broadcast("to everybody", true)?;
/// let devices = handle.call(|ctx| ctx.clients_of(b"alice").len())?.wait()?;
/// assert_eq!(devices, 0);
///
/// stop.stop();
/// thread.join().expect("the worker does not panic")?;
/// assert_eq!(handle.send_to_key("alice", "late"), Err(roost_router::PushError::Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    sender: mpsc::Sender<Push>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// What comes back from [`WorkerHandle::call`]: await it, or [`wait`](Self::wait) for it.
#[derive(Debug)]
pub struct Answer<R>(oneshot::Receiver<R>);

impl<R> Answer<R> {
    /// Blocks this thread until the call has run. Must not be called on a thread of an async runtime.
    ///
    /// # Errors
    /// [`PushError::Closed`]: the worker ended before the call was run.
    pub fn wait(self) -> Result<R, PushError> {
        self.0.blocking_recv().map_err(|_| PushError::Closed)
    }
}

impl<R> Future for Answer<R> {
    type Output = Result<R, PushError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(task));
        Poll::Ready(answer.map_err(|_| PushError::Closed))
    }
}

impl WorkerHandle {
    /// Runs code on the worker's thread. It holds up every link while it runs, and must not panic.
    ///
    /// ```
    /// # use roost_router::{Client, PushError, WorkerHandle};
    /// fn hang_up(handle: &WorkerHandle, client: Client) -> Result<(), PushError> {
    ///     handle.post(move |ctx| ctx.close(client, roost_protocol::Reason::WorkerClosed, 0))
    /// }
    /// ```
    ///
    /// # Errors
    /// The queue is full, or the worker has ended; the code has not run and will not.
    pub fn post(&self, work: impl FnOnce(&mut Context<'_>) + Send + 'static) -> Result<(), PushError> {
        self.push(Push::Work(Box::new(work), 0))
    }

    /// Runs code on the worker's thread, as [`Self::post`] does, and brings back what it returns.
    ///
    /// ```
    /// # use roost_router::{PushError, SendError, WorkerHandle};
    /// async fn notify(handle: &WorkerHandle, user: &'static [u8]) -> Result<bool, PushError> {
    ///     let sent = handle.call(move |ctx| ctx.send_to_key(user, b"you have mail"))?.await?;
    ///     Ok(sent != Err(SendError::Closed))
    /// }
    /// ```
    ///
    /// # Errors
    /// As for [`Self::post`].
    pub fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Context<'_>) -> R + Send + 'static,
    ) -> Result<Answer<R>, PushError> {
        self.call_of(0, work)
    }

    /// As [`Self::call`], for work that carries `bytes` bytes.
    fn call_of<R: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&mut Context<'_>) -> R + Send + 'static,
    ) -> Result<Answer<R>, PushError> {
        let (sender, receiver) = oneshot::channel();
        let work = move |ctx: &mut Context<'_>| {
            // Whoever asked may have gone.
            let _ = sender.send(work(ctx));
        };
        self.push(Push::Work(Box::new(work), bytes))?;
        Ok(Answer(receiver))
    }

    /// Sends a message to a connection: [`Context::send`].
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn send(&self, client: Client, payload: impl Into<Bytes>) -> Result<(), PushError> {
        self.push(Push::Send(client, payload.into()))
    }

    /// Sends a message to all connections of a key here: [`Context::send_to_key`].
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn send_to_key(&self, key: impl Into<Bytes>, payload: impl Into<Bytes>) -> Result<(), PushError> {
        self.push(Push::SendToKey(key.into(), payload.into()))
    }

    /// Sends one message to many connections: [`Context::multicast`].
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn multicast(&self, clients: Vec<Client>, payload: impl Into<Bytes>) -> Result<(), PushError> {
        self.push(Push::Multicast(clients, payload.into()))
    }

    /// Sends one message to all connections served here, or with `all_workers` to all connections of
    /// all linked gateways: [`Context::broadcast`].
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn broadcast(&self, payload: impl Into<Bytes>, all_workers: bool) -> Result<(), PushError> {
        self.push(Push::Broadcast(payload.into(), all_workers))
    }

    /// Sends one message to all members of a topic: [`Context::publish`]. The answer, which need not be looked
    /// at, says for how many of them it was queued.
    ///
    /// ```
    /// # use roost_router::{PushError, SendError, WorkerHandle};
    /// async fn goal(handle: &WorkerHandle) -> Result<(), PushError> {
    ///     handle.publish("match/17", "1:0")?; // never mind how many hear it
    ///     match handle.publish("match/17", "1:1")?.await? {
    ///         Ok(members) => println!("{members} hear of it"),
    ///         Err(SendError::Full(_)) => println!("later"),
    ///         Err(error) => println!("{error}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn publish(
        &self,
        topic: impl Into<Bytes>,
        payload: impl Into<Bytes>,
    ) -> Result<Answer<Result<usize, SendError>>, PushError> {
        let (topic, payload) = (topic.into(), payload.into());
        self.call_of(topic.len() + payload.len(), move |ctx| ctx.publish(&topic, &payload))
    }

    /// Has a connection join a topic: [`Context::join`].
    ///
    /// ```
    /// # use roost_router::{JoinError, PushError, WorkerHandle};
    /// /// All connections of a user that are here now. Those that come later join in `on_open`.
    /// fn join_all(handle: &WorkerHandle, user: &'static str) -> Result<Result<(), JoinError>, PushError> {
    ///     let devices = handle.call(move |ctx| Vec::from_iter(ctx.clients_of(user.as_bytes())))?;
    ///     for device in devices.wait()? {
    ///         if let Err(error) = handle.join(device, "news")?.wait()? {
    ///             return Ok(Err(error));
    ///         }
    ///     }
    ///     Ok(Ok(()))
    /// }
    /// ```
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn join(
        &self,
        client: Client,
        topic: impl Into<Bytes>,
    ) -> Result<Answer<Result<bool, JoinError>>, PushError> {
        let topic = topic.into();
        self.call_of(topic.len(), move |ctx| ctx.join(client, &topic))
    }

    /// Has a connection leave a topic: [`Context::leave`].
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn leave(&self, client: Client, topic: impl Into<Bytes>) -> Result<Answer<bool>, PushError> {
        let topic = topic.into();
        self.call_of(topic.len(), move |ctx| ctx.leave(client, &topic))
    }

    /// The members of a topic: [`Context::topic_members`].
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn topic_members(&self, topic: impl Into<Bytes>) -> Result<Answer<Vec<Client>>, PushError> {
        let topic = topic.into();
        self.call_of(topic.len(), move |ctx| ctx.topic_members(&topic))
    }

    fn push(&self, push: Push) -> Result<(), PushError> {
        let bytes = push.bytes();
        let waiting_bytes = self.bytes.fetch_add(bytes, Relaxed);
        // One that is longer than what may wait goes where nothing else waits.
        let pushed = if waiting_bytes > 0 && waiting_bytes.saturating_add(bytes) > self.bytes_max {
            Err(if self.sender.is_closed() { PushError::Closed } else { PushError::Full })
        } else {
            self.sender.try_send(push).map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => PushError::Full,
                mpsc::error::TrySendError::Closed(_) => PushError::Closed,
            })
        };
        if pushed.is_err() {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
        pushed
    }
}

/// One push.
pub(super) enum Push {
    /// Code, and the bytes that it carries.
    Work(Box<dyn FnOnce(&mut Context<'_>) + Send>, usize),
    Send(Client, Bytes),
    SendToKey(Bytes, Bytes),
    Multicast(Vec<Client>, Bytes),
    Broadcast(Bytes, bool),
}

impl Push {
    /// What it counts against `push_bytes_max`.
    fn bytes(&self) -> usize {
        match self {
            Self::Work(_, bytes) => *bytes,
            Self::Send(_, payload) | Self::Broadcast(payload, _) => payload.len(),
            Self::SendToKey(key, payload) => key.len() + payload.len(),
            Self::Multicast(clients, payload) => payload.len() + size_of::<Client>() * clients.len(),
        }
    }

    /// Does it. What is refused is counted there; nobody is left to be told.
    pub(super) fn run(self, ctx: &mut Context<'_>) {
        match self {
            Self::Work(work, _) => work(ctx),
            Self::Send(client, payload) => drop(ctx.send(client, &payload)),
            Self::SendToKey(key, payload) => drop(ctx.send_to_key(&key, &payload)),
            Self::Multicast(clients, payload) => drop(ctx.multicast(&clients, &payload)),
            Self::Broadcast(payload, all_workers) => drop(ctx.broadcast(&payload, all_workers)),
        }
    }
}

/// The worker's end of its handles.
pub(super) struct Intake {
    receiver: mpsc::Receiver<Push>,
    bytes: Arc<AtomicUsize>,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

/// A queue for `pushes_max` pushes and `bytes_max` bytes of payload.
pub(super) fn queue(pushes_max: usize, bytes_max: usize) -> (WorkerHandle, Intake) {
    let (sender, receiver) = mpsc::channel(pushes_max.max(1));
    let bytes = Arc::new(AtomicUsize::new(0));
    (WorkerHandle { sender, bytes: bytes.clone(), bytes_max }, Intake { receiver, bytes })
}

impl Intake {
    /// Waits for pushes and appends some of them to `batch`. False: no handle is left.
    pub(super) async fn receive(&mut self, batch: &mut Vec<Push>) -> bool {
        self.receiver.recv_many(batch, BATCH).await > 0
    }

    /// A push is about to run, and waits no more.
    pub(super) fn taken(&self, push: &Push) {
        self.bytes.fetch_sub(push.bytes(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_and_an_ended_worker_are_told_apart() {
        let (handle, intake) = queue(2, 100);
        assert_eq!(handle.broadcast(vec![0; 60], false), Ok(()));
        assert_eq!(handle.clone().broadcast(vec![0; 60], false), Err(PushError::Full), "too many bytes");
        assert_eq!(handle.broadcast(vec![0; 40], false), Ok(()));
        assert_eq!(handle.post(|_| ()), Err(PushError::Full), "too many pushes");
        assert_eq!(handle.bytes.load(Relaxed), 100, "what was refused does not count");
        drop(intake);
        assert_eq!(handle.post(|_| ()), Err(PushError::Closed));
        assert_eq!(handle.broadcast(vec![0; 60], false), Err(PushError::Closed));
    }

    #[test]
    fn what_is_longer_than_the_queue_goes_alone() {
        let (handle, mut intake) = queue(10, 100);
        assert_eq!(handle.broadcast(vec![0; 1_000], false), Ok(()));
        assert_eq!(handle.broadcast("x", false), Err(PushError::Full));
        let mut batch = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(intake.receive(&mut batch)));
        intake.taken(&batch[0]);
        assert_eq!(handle.broadcast("x", false), Ok(()));
    }

    #[test]
    fn a_call_that_never_runs_is_answered() {
        let (handle, intake) = queue(10, 100);
        let answer = handle.call(|_| 7).unwrap();
        drop(intake);
        assert_eq!(answer.wait(), Err(PushError::Closed));
    }
}
