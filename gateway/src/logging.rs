//! Logs: lines for people or JSON, to stderr, with a level that can change while running.
//!
//! [`roost_router::shell::log`] writes them, on a thread of its own that nobody waits for.

use anyhow::{Context, Result};
use roost_router::shell::log;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{LogFormat, LogLevel};

/// Changes the level of the running process.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl LevelHandle {
    /// Lets lines of `level` and above through from now on.
    pub fn set(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and with it the logs.
        let _ = self.0.reload(filter(level));
    }
}

/// Installs the process's log. [`log::flush`] at the end of the process.
///
/// # Errors
/// There is one already, or no thread for it.
pub fn init(level: LogLevel, format: LogFormat) -> Result<LevelHandle> {
    let (level, handle) = reload::Layer::new(filter(level));
    let lines = log::layer(match format {
        LogFormat::Text => log::LineFormat::Text,
        LogFormat::Json => log::LineFormat::Json,
    })
    .context("no log")?;
    Registry::default().with(level).with(lines).try_init().context("no log")?;
    Ok(LevelHandle(handle))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
