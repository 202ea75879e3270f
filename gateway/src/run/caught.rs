//! Signals, caught from the first instruction of the process on: none of them ends a start half way,
//! and what comes before somebody can act on it is kept.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Result;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    iterator::Signals,
    low_level,
};

/// SIGTERM and SIGINT, which end, and SIGHUP, which reloads.
#[derive(Debug)]
pub struct CaughtSignals {
    signals: Signals,
    defaults: Arc<AtomicBool>,
    reload: bool,
    ends: u32,
}

/// A signal has asked for the end of a process that did not serve yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndedEarly;

impl fmt::Display for EndedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended by a signal before it served")
    }
}

impl std::error::Error for EndedEarly {}

impl CaughtSignals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// What sigaction(2) says.
    pub fn catch() -> io::Result<Self> {
        let defaults = Arc::new(AtomicBool::new(false));
        let caught = [SIGTERM, SIGINT, SIGHUP];
        for signal in caught {
            flag::register_conditional_default(signal, Arc::clone(&defaults))?;
        }
        Ok(Self { signals: Signals::new(caught)?, defaults, reload: false, ends: 0 })
    }

    /// Lets them do from now on what they do to any process, for one that serves nobody.
    pub fn let_go(mut self) {
        self.defaults.store(true, Relaxed);
        if self.ends() > 0 {
            drop(low_level::emulate_default_handler(SIGTERM));
        }
    }

    fn look(&mut self) {
        for signal in self.signals.pending() {
            match signal {
                SIGHUP => self.reload = true,
                _ => self.ends += 1,
            }
        }
    }

    /// Whether SIGHUP has come since the last call.
    pub(super) fn take_reload(&mut self) -> bool {
        self.look();
        std::mem::take(&mut self.reload)
    }

    /// How often the end was asked for.
    pub(super) fn ends(&mut self) -> u32 {
        self.look();
        self.ends
    }

    /// Whether a start may go on.
    ///
    /// # Errors
    /// [`EndedEarly`] when the end was asked for.
    pub(super) fn go_on(&mut self) -> Result<()> {
        match self.ends() {
            0 => Ok(()),
            _ => Err(EndedEarly.into()),
        }
    }
}
