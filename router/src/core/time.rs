//! Calls that time causes: ticks and timers.

use super::{
    Core, Handler,
    context::Context,
    timers::{TimerId, TimersFull},
};
use crate::stats::Stat;

/// Timers that are handled at a time, before links are read again.
const TIMERS_SLICE: usize = 256;

impl Context<'_> {
    /// The time by the worker's clock, in milliseconds since it began. Pauses of the process do not count.
    pub fn now_ms(&self) -> u64 {
        self.timers.now_ms()
    }

    /// Has [`on_timer`](crate::Handler::on_timer) called with `token` after `delay_ms` milliseconds, at least
    /// one. It belongs to the worker, not to a connection: a timer about one that has gone is for the handler
    /// to ignore or to [cancel](Self::cancel).
    ///
    /// ```
    /// use roost_router::{Client, Context, Handler, Opened};
    /// use roost_protocol::{Reason, SessionRef};
    ///
    /// /// Lets nobody stay for longer than a minute.
    /// #[derive(Default)]
    /// struct Minute {
    ///     next: u64,
    ///     clients: std::collections::HashMap<u64, Client>,
    /// }
    ///
    /// impl Handler for Minute {
    ///     fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
    ///         if let Opened::New(opening) = opened {
    ///             ctx.accept(client, SessionRef(opening.routing_hash));
    ///         }
    ///         self.next += 1;
    ///         match ctx.after(60_000, self.next) {
    ///             Ok(_) => drop(self.clients.insert(self.next, client)),
    ///             Err(_) => ctx.close(client, Reason::WorkerClosed, 1_000),
    ///         }
    ///     }
    ///     fn on_timer(&mut self, ctx: &mut Context<'_>, token: u64) {
    ///         if let Some(client) = self.clients.remove(&token) {
    ///             ctx.close(client, Reason::WorkerClosed, 0); // nothing, if it has gone
    ///         }
    ///     }
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: Client, _: &[u8], _: bool) {}
    /// }
    /// ```
    ///
    /// # Errors
    /// [`timers_max`](crate::WorkerConfig::timers_max) timers are set.
    pub fn after(&mut self, delay_ms: u64, token: u64) -> Result<TimerId, TimersFull> {
        let set = self.timers.set(delay_ms, token);
        self.note_timers();
        set
    }

    /// Takes a timer back. False: it has been handled, or was cancelled before.
    ///
    /// ```
    /// # use roost_router::{Context, TimersFull};
    /// fn change_of_mind(ctx: &mut Context<'_>) -> Result<(), TimersFull> {
    ///     let timer = ctx.after(1_000, 7)?;
    ///     assert!(ctx.cancel(timer));
    ///     assert!(!ctx.cancel(timer));
    ///     Ok(())
    /// }
    /// ```
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let cancelled = self.timers.cancel(timer);
        self.note_timers();
        cancelled
    }

    fn note_timers(&self) {
        self.stats.set(Stat::Timers, self.timers.len() as u64);
    }
}

impl<H: Handler> Core<H> {
    /// Tells the time, for calls that bring none. It never goes back.
    pub fn time_is(&mut self, now_ms: u64) {
        self.timers.time_is(now_ms);
    }

    /// When [`Self::run_due`] has something to do; none: whenever a timer has been set.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.timers.next_due_ms()
    }

    /// Calls the handler for a tick and for timers that are due, a bounded number. Says whether there are
    /// more.
    pub fn run_due(&mut self, now_ms: u64) -> bool {
        self.time_is(now_ms);
        if self.timers.take_tick() {
            let (handler, mut ctx) = self.call(None);
            handler.on_tick(&mut ctx);
        }
        for _ in 0..TIMERS_SLICE {
            let Some(token) = self.timers.take_due() else { break };
            let (handler, mut ctx) = self.call(None);
            ctx.note_timers();
            handler.on_timer(&mut ctx, token);
        }
        self.timers.next_due_ms().is_some_and(|due_ms| due_ms <= self.timers.now_ms())
    }
}
