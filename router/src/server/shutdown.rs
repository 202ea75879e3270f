//! Asking a worker to stop, from any thread.

use tokio::sync::watch;

/// How far a worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    Drain,
    Stop,
}

/// Asks a worker to stop. Dropping it does nothing.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(watch::Sender<Phase>);

/// The worker's end of a [`ShutdownHandle`].
#[derive(Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// A handle to stop a worker with, and what to give to the worker.
pub fn shutdown() -> (ShutdownHandle, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (ShutdownHandle(sender), Shutdown(receiver))
}

impl ShutdownHandle {
    /// Ask the gateways to move their connections away, wait until they have or `drain_ms` is
    /// over, then stop.
    pub fn drain(&self) {
        self.raise(Phase::Drain);
    }

    /// Stop now. Gateways will take it for a broken link.
    pub fn stop(&self) {
        self.raise(Phase::Stop);
    }

    fn raise(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let later = *current < phase;
            *current = phase.max(*current);
            later
        });
    }
}

impl Shutdown {
    /// Waits for the next phase.
    pub(super) async fn changed(&mut self) -> Phase {
        if self.0.changed().await.is_err() {
            // All handles are gone: nobody will ever ask.
            std::future::pending::<()>().await;
        }
        *self.0.borrow_and_update()
    }
}
