//! A link's send queue against a worker that counts: whatever breaks, every sequenced frame
//! arrives once, in order and whole, within the window.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};
use roost_protocol::{
    ConnectionId,
    link::{self, Header, LinkType, Split},
};

use super::{memory, pattern, read};
use crate::{
    core::{
        link::tx::{TxQueue, frames_in},
        pool::{Class, Pools},
    },
    sim::Hands,
};

/// Small, so that frames cross blocks.
const BLOCK_BYTES: u32 = 256;
const WINDOW_BYTES: u32 = 1_500;

#[derive(Clone, Debug)]
enum Action {
    Data(usize),
    Ack,
    /// The kernel takes a part, per mille, of what is offered.
    Take(usize),
    /// The completion of that send is reaped.
    Complete,
    /// The worker acknowledges, per mille of what it may.
    Acknowledge(usize),
    /// TCP breaks; the worker states a position, per mille between acknowledged and handled.
    Break(usize),
    /// The session ends.
    EndSession,
}

fn action() -> impl Strategy<Value = Action> {
    let per_mille = 0..=1_000usize;
    prop_oneof![
        8 => (8..600usize).prop_map(Action::Data),
        2 => Just(Action::Ack),
        8 => per_mille.clone().prop_map(Action::Take),
        8 => Just(Action::Complete),
        4 => per_mille.clone().prop_map(Action::Acknowledge),
        2 => per_mille.prop_map(Action::Break),
        1 => Just(Action::EndSession),
    ]
}

/// The other end, and all that must be true of what it gets.
#[derive(Default)]
struct Worker {
    /// Bytes of an incomplete frame on this connection.
    wire: Vec<u8>,
    /// The numbers of the session's sequenced frames, by position.
    numbers: Vec<u64>,
    /// Sequenced frames received on this connection, counted from the session's beginning.
    received: usize,
    handled: usize,
    acknowledged: usize,
    /// Sizes of the frames received and not acknowledged on this connection.
    outstanding: VecDeque<usize>,
    last_ack: u64,
}

impl Worker {
    fn on_bytes(&mut self, bytes: &[u8]) {
        self.wire.extend(bytes);
        while let Ok(Split::Frame { header, payload }) = link::split(&self.wire, u32::MAX) {
            let number = u64::from_be_bytes(*payload.first_chunk().expect("8 bytes"));
            if header.link_type == LinkType::Ack {
                assert!(number > self.last_ack, "an acknowledgement comes twice or late");
                self.last_ack = number;
            } else {
                assert_eq!(Some(&number), self.numbers.get(self.received), "another frame was next");
                assert_eq!(payload[8..], pattern(number, payload.len() - 8), "other bytes");
                self.received += 1;
                self.handled = self.handled.max(self.received);
                self.outstanding.push_back(header.frame_bytes());
                let bytes: usize = self.outstanding.iter().sum();
                assert!(bytes <= WINDOW_BYTES as usize || self.outstanding.len() == 1, "{bytes} outstanding");
            }
            self.wire.drain(..header.frame_bytes());
        }
    }

    fn between(&self, per_mille: usize, end: usize) -> usize {
        self.acknowledged + (end - self.acknowledged) * per_mille / 1_000
    }
}

fn append(queue: &mut TxQueue, hands: &mut Hands, pools: &mut Pools, link_type: LinkType, payload: &[u8]) {
    let header = Header::new(link_type, ConnectionId::from_bits(0), payload.len() as u32);
    queue.begin(hands, pools, header);
    queue.put_bytes(hands, pools, payload);
}

/// The kernel takes the first `per_mille` of what is offered, and the worker reads it.
fn take(queue: &mut TxQueue, hands: &Hands, worker: &mut Worker, per_mille: usize) -> Option<u32> {
    let span = queue.next_send(WINDOW_BYTES)?;
    let len = (span.len as usize * per_mille / 1_000).max(1) as u32;
    worker.on_bytes(&read(hands, span.block, span.offset, len));
    Some(len)
}

proptest! {
    #[test]
    fn every_frame_arrives_once_in_order_within_the_window(actions in vec(action(), 1..150)) {
        let (mut hands, mut pools) = memory();
        let mut queue = TxQueue::new(BLOCK_BYTES, 1_000);
        let mut worker = Worker::default();
        let mut in_kernel = None;
        let mut numbers = 1u64..;
        for action in actions {
            match action {
                Action::Data(len) => {
                    let number = numbers.next().expect("endless");
                    let mut payload = number.to_be_bytes().to_vec();
                    payload.extend(pattern(number, len - 8));
                    append(&mut queue, &mut hands, &mut pools, LinkType::Data, &payload);
                    worker.numbers.push(number);
                }
                Action::Ack => {
                    let number = numbers.next().expect("endless");
                    append(&mut queue, &mut hands, &mut pools, LinkType::Ack, &number.to_be_bytes());
                }
                Action::Take(per_mille) if in_kernel.is_none() => {
                    in_kernel = take(&mut queue, &hands, &mut worker, per_mille);
                }
                Action::Complete => {
                    if let Some(len) = in_kernel.take() {
                        queue.on_sent(&mut pools, len);
                    }
                }
                Action::Acknowledge(per_mille) => {
                    let position = worker.between(per_mille, worker.received.max(worker.acknowledged));
                    prop_assert!(queue.on_ack(&mut pools, position as u64).is_ok());
                    worker.outstanding.drain(..position - worker.acknowledged);
                    worker.acknowledged = position;
                    let beyond = worker.numbers.len() as u64 + 1;
                    prop_assert!(queue.on_ack(&mut pools, beyond).is_err(), "nobody has sent that much");
                }
                Action::Break(per_mille) => {
                    // What is in the kernel ends before the next connection begins.
                    if let Some(len) = in_kernel.take() {
                        queue.on_sent(&mut pools, len);
                    }
                    let stated = worker.between(per_mille, worker.handled);
                    prop_assert!(queue.resume(&mut pools, stated as u64).is_ok());
                    worker.wire.clear();
                    worker.outstanding.clear();
                    (worker.received, worker.acknowledged) = (stated, stated);
                }
                Action::EndSession => {
                    if let Some(len) = in_kernel.take() {
                        queue.on_sent(&mut pools, len);
                    }
                    let unacked = queue.take_unacked(&hands, &mut pools);
                    let number = |payload: &[u8]| u64::from_be_bytes(*payload.first_chunk().expect("8 bytes"));
                    let saved: Vec<u64> = frames_in(&unacked).map(|(_, payload)| number(payload)).collect();
                    prop_assert_eq!(&saved[..], &worker.numbers[worker.acknowledged..]);
                    prop_assert_eq!(pools.in_use(Class::LinkTx), 0);
                    worker = Worker { last_ack: worker.last_ack, ..Worker::default() };
                }
                Action::Take(_) => {}
            }
            // An acknowledgement counts once the completion of its send has been reaped.
            if in_kernel.is_none() {
                prop_assert_eq!(queue.lag_frames() as usize, worker.numbers.len() - worker.acknowledged);
            }
        }
        // Once the worker keeps up, everything arrives and nothing is retained.
        loop {
            let received = worker.received.max(worker.acknowledged);
            prop_assert!(queue.on_ack(&mut pools, received as u64).is_ok());
            worker.outstanding.drain(..received - worker.acknowledged);
            worker.acknowledged = received;
            let sent = in_kernel.take().or_else(|| take(&mut queue, &hands, &mut worker, 1_000));
            let Some(len) = sent else { break };
            queue.on_sent(&mut pools, len);
        }
        prop_assert_eq!(worker.acknowledged, worker.numbers.len());
        prop_assert_eq!((queue.retained_bytes(), pools.in_use(Class::LinkTx)), (0, 0));
    }
}
