//! What failed sessions left, on its way to other workers.

use roost_protocol::link::{HEADER_BYTES, Header};

use super::tx::frames_in;

/// Whole frames, one behind the other, that are to be sent again in this order.
#[derive(Debug, Default)]
pub(crate) struct Resend {
    bytes: Vec<u8>,
    /// Where the first frame begins.
    at: usize,
}

impl Resend {
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The first frame.
    pub(crate) fn front(&self) -> Option<(Header, &[u8])> {
        frames_in(&self.bytes[self.at..]).next()
    }

    /// Removes the first frame.
    pub(crate) fn pop(&mut self) {
        if let Some((header, _)) = self.front() {
            self.at += header.frame_bytes();
        }
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Adds a frame at the end.
    pub(crate) fn push(&mut self, header: Header, payload: &[u8]) {
        self.bytes.reserve(HEADER_BYTES + payload.len());
        self.bytes.extend(header.encode());
        self.bytes.extend(payload);
    }

    /// Puts frames before all others.
    pub(crate) fn prepend(&mut self, mut first: Vec<u8>) {
        first.extend(&self.bytes[self.at..]);
        *self = Self { bytes: first, at: 0 };
    }

    /// Takes all frames out.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut taken = std::mem::take(self);
        taken.bytes.drain(..taken.at);
        taken.bytes
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::{ConnectionId, link::LinkType};

    use super::*;

    #[test]
    fn what_failed_later_goes_before_what_it_was_still_to_be_sent() {
        let frame = |slot: u32, payload: &[u8]| {
            let id = ConnectionId::new(0, slot, 0);
            (Header::new(LinkType::Data, id, payload.len() as u32), payload.to_vec())
        };
        let mut resend = Resend::default();
        for (slot, payload) in [(1, b"a".as_slice()), (2, b"bb"), (3, b"")] {
            let (header, payload) = frame(slot, payload);
            resend.push(header, &payload);
        }
        resend.pop();
        let (header, payload) = frame(1, b"a");
        let mut first = header.encode().to_vec();
        first.extend(payload);
        resend.prepend(first);
        let mut order = Vec::new();
        while let Some((header, payload)) = resend.front() {
            order.push((header.connection.slot(), payload.len()));
            resend.pop();
        }
        assert_eq!(order, [(1, 1), (2, 2), (3, 0)]);
        assert!(resend.is_empty() && resend.bytes() == 0 && resend.take().is_empty());
    }
}
