//! What a connection is: a record of 20 bytes, and a work record only while something is under
//! way.

use bytemuck::Zeroable;

use super::slab::Queue;
use crate::tun::packet::MSS_BYTES;

/// States of RFC 9293 section 3.3.2, without those that only a listening side has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// CLOSED: there is no connection.
    Absent = 0,
    /// The SYN is sent, or about to be.
    SynSent = 1,
    /// Both sides may send.
    Established = 2,
    /// Our FIN is sent and not acknowledged.
    FinWait1 = 3,
    /// Our FIN is acknowledged, the peer's is awaited.
    FinWait2 = 4,
    /// Both FINs are sent, ours is not acknowledged.
    Closing = 5,
    /// Over; answers late segments of the peer until the client connects again. It needs no
    /// timer, since the record is there anyway.
    TimeWait = 6,
    /// The peer's FIN has come; ours follows what is queued.
    CloseWait = 7,
    /// The peer's FIN has come and ours is sent.
    LastAck = 8,
}

impl State {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Absent,
            1 => Self::SynSent,
            2 => Self::Established,
            3 => Self::FinWait1,
            4 => Self::FinWait2,
            5 => Self::Closing,
            6 => Self::TimeWait,
            7 => Self::CloseWait,
            8 => Self::LastAck,
            _ => panic!("no such state"),
        }
    }
}

/// What else is true of a connection.
pub(super) mod flag {
    /// In the queue of clients that have something to do.
    pub(crate) const QUEUED: u8 = 1 << 0;
    /// The peer is owed an acknowledgement.
    pub(crate) const ACK_DUE: u8 = 1 << 1;
    /// The client does not read: bytes stay in its receive window.
    pub(crate) const PAUSED: u8 = 1 << 2;
    /// A FIN follows the queued bytes.
    pub(crate) const FIN_DUE: u8 = 1 << 3;
    /// The FIN has been sent.
    pub(crate) const FIN_SENT: u8 = 1 << 4;
    /// The client has ended the connection.
    pub(crate) const LOCAL: u8 = 1 << 5;
    /// By RST, which is about to be sent.
    pub(crate) const RST_DUE: u8 = 1 << 6;
}

/// All that an idle client costs.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub(super) struct Record {
    /// SND.UNA; with nothing in flight also SND.NXT. Of an absent client that was connected
    /// before: where its last connection ended.
    pub(super) snd_una: u32,
    /// RCV.NXT.
    pub(super) rcv_nxt: u32,
    /// Handle of the work record; 0: nothing is under way.
    pub(super) work: u32,
    /// SND.WND. Never scaled, since we do not offer the option.
    pub(super) snd_wnd: u16,
    /// What the peer's MSS option said.
    peer_mss: u16,
    state: u8,
    pub(super) flags: u8,
}

const _: () = assert!(size_of::<Record>() == 20);

impl Record {
    #[inline]
    pub(super) const fn state(&self) -> State {
        State::from_u8(self.state)
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }

    #[inline]
    pub(super) const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    pub(super) fn set_peer_mss(&mut self, mss: u16) {
        // A peer that offers less than a fragment's worth would cost a packet per few bytes.
        self.peer_mss = mss.clamp(64, MSS_BYTES as u16);
    }

    /// Bytes of the largest segment to this peer.
    pub(super) const fn mss(&self) -> u32 {
        self.peer_mss as u32
    }
}

/// What a connection needs while bytes, a SYN or a FIN are unacknowledged, while bytes wait to
/// be read, or while a timer runs.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Bytes from SND.UNA on: in flight first, then unsent.
    pub(super) tx: Queue,
    /// Received bytes that a paused client has not read.
    pub(super) rx: Queue,
    /// SND.NXT - SND.UNA: bytes, SYN or FIN sent and not acknowledged.
    pub(super) in_flight: u32,
    /// Recovery ends when this is acknowledged.
    pub(super) recover: u32,
    /// When the timer is due; 0: no timer.
    pub(super) deadline: u32,
    /// The tick of the wheel that the client is down for; 0: none.
    pub(super) wheel_tick: u32,
    /// The acknowledgement of this number ends the measurement of the round trip.
    pub(super) timed_seq: u32,
    /// When the measurement began; low half of the clock.
    pub(super) timed_from_us: u32,
    /// Congestion window in segments (RFC 5681). It is forgotten with the work record: a
    /// connection that was idle starts over, as section 4.1 asks.
    pub(super) congestion_window: u8,
    /// Slow-start threshold in segments.
    pub(super) slow_start_max: u8,
    /// Acknowledgements in a row that told nothing new.
    pub(super) duplicate_acks: u8,
    /// Doublings of the timeout.
    pub(super) backoff: u8,
    /// Timeouts since the peer was last heard of.
    pub(super) unheard: u8,
    /// What was in flight when a loss was noticed is being sent again.
    pub(super) recovering: bool,
    /// A measurement is under way.
    pub(super) timing: bool,
}

impl Work {
    /// Initial window (RFC 6928).
    const INITIAL_SEGMENTS: u8 = 10;
    /// More would not help: 64 KiB of the largest segments.
    pub(super) const SEGMENTS_MAX: u8 = 46;

    /// Queued bytes that were never sent.
    pub(super) fn unsent(&self, fin_sent: bool) -> u32 {
        self.tx.len() - (self.in_flight - u32::from(fin_sent && self.in_flight > 0))
    }

    /// Notes a loss: the window falls (RFC 5681 section 3.1) and everything in flight counts as
    /// in need of repair.
    pub(super) fn begin_recovery(&mut self, snd_una: u32, mss: u32, window: Option<u8>) {
        let half = (self.in_flight / mss / 2).clamp(2, u32::from(Self::SEGMENTS_MAX)) as u8;
        self.slow_start_max = half;
        self.congestion_window = window.unwrap_or(half);
        self.recovering = true;
        self.recover = snd_una.wrapping_add(self.in_flight);
        // A retransmitted segment cannot be timed (Karn).
        self.timing = false;
    }
}

impl Default for Work {
    fn default() -> Self {
        Self {
            tx: Queue::default(),
            rx: Queue::default(),
            in_flight: 0,
            recover: 0,
            deadline: 0,
            wheel_tick: 0,
            timed_seq: 0,
            timed_from_us: 0,
            congestion_window: Self::INITIAL_SEGMENTS,
            slow_start_max: Self::SEGMENTS_MAX,
            duplicate_acks: 0,
            backoff: 0,
            unheard: 0,
            recovering: false,
            timing: false,
        }
    }
}

const _: () = assert!(size_of::<Work>() <= 64);
