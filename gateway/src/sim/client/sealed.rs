//! A client's end of a listener's cipher.

use roost_protocol::Reason;

use crate::{
    core::connection::stage::xor::{self, RECORD_BYTES_MAX},
    sim::rng::Rng,
};

/// What a client has between its frames and its socket.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Bytes to come that go as they are: a PROXY header, or noise.
    pub(super) clear_bytes: usize,
    /// The last byte of what is written next stays away, and all that would follow it.
    pub(super) cuts: bool,
    is_cut: bool,
    /// Bytes for the socket.
    wire: Vec<u8>,
    /// Bytes from the socket that are no whole record yet.
    unopened: Vec<u8>,
    rng: Rng,
}

impl Sealed {
    pub(super) fn new(seed: u64) -> Self {
        let (wire, unopened) = (Vec::new(), Vec::new());
        Self { clear_bytes: 0, cuts: false, is_cut: false, wire, unopened, rng: Rng::new(seed) }
    }

    /// Seals all of `out` once everything before has been written. Gives the bytes for the socket.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>) -> &mut Vec<u8> {
        if self.is_cut {
            // The next record would be taken for the end of this one.
            out.clear();
        }
        if self.wire.is_empty() && !out.is_empty() {
            let clear = self.clear_bytes.min(out.len());
            self.clear_bytes -= clear;
            self.wire.extend(out.drain(..clear));
            let record_bytes = self.rng.log_range(1, RECORD_BYTES_MAX as u64) as usize;
            xor::seal(out, record_bytes, &mut self.wire);
            out.clear();
            if self.cuts {
                self.wire.pop();
                self.is_cut = true;
            }
        }
        &mut self.wire
    }

    /// The frames' bytes in what was received.
    pub(super) fn open(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Reason> {
        self.unopened.extend(bytes);
        let (plain, used) = xor::open(&mut self.unopened)?;
        let opened = self.unopened[..plain].to_vec();
        self.unopened.drain(..used);
        Ok(opened)
    }

    /// Whether a record is incomplete.
    pub(super) fn is_pending(&self) -> bool {
        !self.unopened.is_empty()
    }

    /// Whether everything is written.
    pub(super) fn is_written(&self) -> bool {
        self.wire.is_empty()
    }
}
