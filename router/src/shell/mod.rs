//! What the programs of roost share of their outside: the gateway, the reference worker, and any
//! worker that wants the same. A library that only speaks the link protocol needs none of it.
//!
//! * [`log`]: lines to stderr from a bounded queue, written by a thread of its own.
//! * [`say`]: standard output and last words, without a panic and without waiting for ever.
//! * [`http`]: figures and health over HTTP, where slow clients harm nobody.
//! * [`exposition`]: which text format of metrics a scraper gets.
//!
//! One rule holds for all of them: saying never costs serving. Whoever reads a log, a pipe or a
//! page may stop reading, and nobody who serves clients waits for it.

pub mod exposition;
pub mod http;
pub mod log;
pub mod say;

use std::{io, os::fd::BorrowedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, write},
};

/// Writes everything, waiting for the reader where it must.
///
/// The streams of the standard library have locks: a thread that waits for a stalled reader would
/// hold one, and whoever wants to say its last words would wait for that.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Another process has made the shared pipe or terminal non-blocking.
            Err(Errno::AGAIN) => {
                let mut wanted = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                match poll(&mut wanted, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
