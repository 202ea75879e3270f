//! Standard output and last words: what a program says besides its log.
//!
//! `println!` and `eprintln!` panic where nobody reads and wait where somebody reads slowly. Here
//! an error is given back or left, and only [`output`] waits, for a program that has nothing else
//! to do.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io,
    os::fd::BorrowedFd,
    panic,
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use super::{log, write_all};

/// How long a start waits for whoever reads its announcement.
const ANNOUNCE_WITHIN: Duration = Duration::from_millis(100);
/// How long an end waits for whoever reads its last words.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// Writes what a program was called for to standard output. Waits for the reader.
///
/// # Errors
/// It cannot be written: a full disk, a closed pipe.
pub fn output(text: &str) -> io::Result<()> {
    write_all(rustix::stdio::stdout(), text.as_bytes())
}

/// Tells on standard output how a program has started. Where nobody reads it, it is lost.
pub fn announce(text: impl Into<String>) {
    write_within(rustix::stdio::stdout(), text.into(), ANNOUNCE_WITHIN);
}

/// Writes why a program ends to standard error, after what it has logged. Where nobody reads it,
/// it is lost; it is waited for at most a second.
pub fn last_words(text: impl Into<String>) {
    log::flush(log::FLUSH_WITHIN);
    let mut text = text.into();
    text.push('\n');
    write_within(rustix::stdio::stderr(), text, LAST_WORDS_WITHIN);
}

/// Lets panics say their message by [`last_words`]: a process that breaks must end, also where
/// nobody reads its log.
pub fn bound_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let mut text = format!("\nthread '{}' {info}", thread.name().unwrap_or("<unnamed>"));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text += &format!("\nstack backtrace:\n{backtrace}");
        }
        last_words(text);
    }));
}

/// Writes on a thread of its own, which alone waits for the reader if that takes longer.
fn write_within(to: BorrowedFd<'static>, text: String, within: Duration) {
    let (done, written) = sync_channel(1);
    let writes = thread::Builder::new().name("say".to_owned()).stack_size(64 * 1024).spawn(move || {
        // Nobody is left to be told of an error.
        let _ = write_all(to, text.as_bytes());
        let _ = done.try_send(());
    });
    if writes.is_ok() {
        let _ = written.recv_timeout(within);
    }
}
