//! Logs: lines for people or JSON, to stderr, with a level that can change while running and a
//! cap on how many lines a second may have.

use std::{
    io::{self, IsTerminal},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, Filter, SubscriberExt},
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{LogFormat, LogLevel};

/// Lines of one second beyond which further ones are only counted. Errors always pass.
const LINES_PER_S_MAX: u64 = 100;

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

/// Installs the process's log.
///
/// # Errors
/// There is one already.
pub fn init(level: LogLevel, format: LogFormat) -> Result<LevelHandle, TryInitError> {
    let (level, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let limited = Limited::new(LINES_PER_S_MAX, format);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(level).with(lines.with_filter(limited)).try_init()?;
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

/// Passes so many events per second, and says afterwards how many it did not.
struct Limited {
    per_s_max: u64,
    format: LogFormat,
    window: Mutex<Window>,
    suppressed: AtomicU64,
}

struct Window {
    began: Instant,
    passed: u64,
}

impl Limited {
    fn new(per_s_max: u64, format: LogFormat) -> Self {
        let window = Mutex::new(Window { began: Instant::now(), passed: 0 });
        Self { per_s_max, format, window, suppressed: AtomicU64::new(0) }
    }

    /// Whether an event at `now` passes, and how many did not in the window that ended with it.
    fn admit(&self, now: Instant) -> (bool, u64) {
        let mut window = self.window.lock().expect("no panic while it is held");
        let mut suppressed = 0;
        if now.saturating_duration_since(window.began) >= Duration::from_secs(1) {
            *window = Window { began: now, passed: 0 };
            suppressed = self.suppressed.swap(0, Relaxed);
        }
        let passes = window.passed < self.per_s_max;
        if passes {
            window.passed += 1;
        } else {
            self.suppressed.fetch_add(1, Relaxed);
        }
        (passes, suppressed)
    }
}

impl<S: Subscriber> Filter<S> for Limited {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() == Level::ERROR {
            return true;
        }
        let (passes, suppressed) = self.admit(Instant::now());
        if suppressed > 0 {
            // Not through tracing: this is inside it.
            match self.format {
                LogFormat::Text => eprintln!("{suppressed} log lines of a second before were left out"),
                LogFormat::Json => {
                    eprintln!(r#"{{"level":"WARN","message":"log lines left out","lines":{suppressed}}}"#);
                }
            }
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Limited;
    use crate::config::LogFormat;

    #[test]
    fn a_second_has_so_many_lines_and_the_next_one_says_how_many_more_there_were() {
        let limited = Limited::new(3, LogFormat::Text);
        let start = Instant::now();
        let admitted = |after_ms| limited.admit(start + Duration::from_millis(after_ms));
        for _ in 0..3 {
            assert_eq!(admitted(10), (true, 0));
        }
        assert_eq!(admitted(20), (false, 0));
        assert_eq!(admitted(900), (false, 0));
        assert_eq!(admitted(1_100), (true, 2));
        assert_eq!(admitted(2_200), (true, 0));
    }
}
