//! One share of clients over one TUN device: bytes to packets, packets to bytes.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    address::Subnet,
    device::Device,
    loss::Loss,
    packet::{Endpoint, MTU_BYTES, Packet, Segment, Unreadable, build, parse},
    stats::queue_drops,
    tcp::{Tcp, TcpConfig, Wire},
};
use crate::transport::{Close, Counts, Events, Transport};

/// Clients served and packets read per turn, so that the caller with its schedule comes next.
/// More is read than can be written: what waits in the device must not grow without bound.
const SERVED_PER_TURN: usize = 512;
const READ_PER_TURN: usize = 2048;
/// How exactly timers are kept while any is set.
const TIMER_WAIT: Duration = Duration::from_millis(10);

/// The clients of one share.
pub struct TunTransport {
    tcp: Tcp,
    link: Link,
    started: Instant,
    buffer: Box<[u8; MTU_BYTES]>,
    foreign_packets: u64,
    bad_packets: u64,
}

/// Where segments become packets.
struct Link {
    device: Device,
    subnet: Subnet,
    target: Endpoint,
    loss: Loss,
    buffer: Box<[u8; MTU_BYTES]>,
    refused_packets: u64,
    /// What kept the device from working; told by the next poll.
    broken: Option<io::Error>,
}

impl Wire for Link {
    fn transmit(&mut self, client: u32, segment: &Segment<'_>) {
        if self.loss.strikes() {
            return;
        }
        let source = self.subnet.endpoint(client);
        let packet = Packet { source, destination: self.target, segment: *segment };
        let length = build(&packet, &mut self.buffer);
        match self.device.write(&self.buffer[..length]) {
            Ok(taken) => self.refused_packets += u64::from(!taken),
            Err(error) => self.broken = Some(error),
        }
    }
}

impl TunTransport {
    /// Clients behind a device, which must be configured for their subnet.
    pub(super) fn new(device: Device, subnet: Subnet, target: Endpoint, loss: Loss, tcp: TcpConfig) -> Self {
        Self {
            tcp: Tcp::new(tcp),
            link: Link {
                device,
                subnet,
                target,
                loss,
                buffer: Box::new([0; MTU_BYTES]),
                refused_packets: 0,
                broken: None,
            },
            started: Instant::now(),
            buffer: Box::new([0; MTU_BYTES]),
            foreign_packets: 0,
            bad_packets: 0,
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Takes in what waits in the device; true if there may be more.
    fn read(&mut self, events: &mut Events) -> anyhow::Result<bool> {
        let mut now_us = self.now_us();
        for count in 1..=READ_PER_TURN {
            let read = self.link.device.read(&mut self.buffer[..]);
            let Some(length) = read.with_context(|| format!("reading from {}", self.link.device.name()))?
            else {
                return Ok(false);
            };
            if self.link.loss.strikes() {
                continue;
            }
            // One look at the clock is enough for a few microseconds' worth of packets.
            if count % 16 == 0 {
                now_us = self.now_us();
            }
            self.take(now_us, length, events);
        }
        Ok(true)
    }

    fn take(&mut self, now_us: u64, length: usize, events: &mut Events) {
        let packet = match parse(&self.buffer[..length]) {
            Ok(packet) => packet,
            Err(Unreadable::Foreign) => {
                self.foreign_packets += 1;
                return;
            }
            Err(_) => {
                self.bad_packets += 1;
                return;
            }
        };
        match self.link.subnet.client(packet.destination) {
            Some(client) if packet.source == self.link.target => {
                self.tcp.on_segment(now_us, client, &packet.segment, &mut self.link, events);
            }
            _ => self.foreign_packets += 1,
        }
    }

    fn turn(&mut self, events: &mut Events) -> anyhow::Result<bool> {
        let now_us = self.now_us();
        self.tcp.run_timers(now_us, &mut self.link, events);
        let more_to_do = self.tcp.turn(now_us, SERVED_PER_TURN, &mut self.link, events);
        let more_to_read = self.read(events)?;
        if let Some(error) = self.link.broken.take() {
            return Err(error).with_context(|| format!("writing to {}", self.link.device.name()));
        }
        Ok(more_to_do || more_to_read)
    }
}

impl Transport for TunTransport {
    fn connect(&mut self, client: u32) {
        self.tcp.connect(client);
    }

    fn send(&mut self, client: u32, bytes: &[u8]) {
        self.tcp.send(client, bytes);
    }

    fn close(&mut self, client: u32, how: Close) {
        self.tcp.close(client, how);
    }

    fn set_reading(&mut self, client: u32, reading: bool) {
        self.tcp.set_reading(client, reading);
    }

    fn poll(&mut self, wait: Duration, events: &mut Events) -> anyhow::Result<()> {
        let already = events.len();
        let end = Instant::now() + wait;
        loop {
            let more = self.turn(events)?;
            let left = end.saturating_duration_since(Instant::now());
            if events.len() > already || left.is_zero() {
                return Ok(());
            }
            if !more && !self.tcp.has_queued() {
                let limit = if self.tcp.has_timers() { left.min(TIMER_WAIT) } else { left };
                self.link.device.wait(limit).context("waiting for the TUN device")?;
            }
        }
    }

    fn counts(&self) -> Counts {
        let stats = self.tcp.stats();
        let mut details = vec![
            ("tcp_segments_out", stats.segments_out),
            ("tcp_segments_in", stats.segments_in),
            ("tcp_retransmits", stats.retransmits),
            ("tcp_fast_retransmits", stats.fast_retransmits),
            ("tcp_syn_retransmits", stats.syn_retransmits),
            ("tcp_out_of_order", stats.out_of_order),
            ("tcp_unacceptable", stats.unacceptable),
            ("tcp_window_probes", stats.window_probes),
            ("tcp_resets_in", stats.resets_in),
            ("tcp_resets_out", stats.resets_out),
            ("tcp_timeouts", stats.timeouts),
            ("tcp_discarded_bytes", stats.discarded_bytes),
            ("tun_dropped_on_purpose", self.link.loss.dropped()),
            ("tun_refused_packets", self.link.refused_packets),
            ("tun_bad_packets", self.bad_packets),
            ("tun_foreign_packets", self.foreign_packets),
        ];
        if let Some(drops) = queue_drops(self.link.device.name()) {
            details.push(("tun_queue_drops", drops));
        }
        Counts {
            connecting: u64::from(self.tcp.connecting()),
            connected: u64::from(self.tcp.connected()),
            unsent_bytes: self.tcp.unsent_bytes(),
            details,
        }
    }

    fn user_bytes(&self) -> u64 {
        (self.tcp.heap_bytes() + 2 * MTU_BYTES + size_of::<Self>()) as u64
    }
}
