//! What a run says: its report on standard output, notes on standard error.
//!
//! `println!` panics where nobody reads any more, as in `roost-loadgen ... | head -1`; a run that
//! has been measured must still write its files and judge.

use std::{
    fmt,
    io::{self, Write, stderr, stdout},
};

/// A line of the report. A reader that has seen enough and has left is none of our business.
///
/// # Errors
/// It cannot be written, such as to a full disk.
pub fn line(text: impl fmt::Display) -> io::Result<()> {
    let mut out = stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A note beside the report. Where nobody reads it, it is lost.
pub fn note(text: impl fmt::Display) {
    let _ = writeln!(stderr(), "{text}");
}
