//! Outboxes against byte queues: whatever is queued leaves in order, and nothing leaks.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};

use super::{filled, memory, pattern, read};
use crate::core::{
    CoreConfig,
    connection::{outbox::Outboxes, rank::FLOOR_BYTES},
    index::Slot,
    pool::Class,
};

const OWNERS: usize = 3;

#[derive(Clone, Debug)]
enum Action {
    Copy(usize),
    Bytes(usize),
    Share(usize),
    /// Per mille of what is offered leaves.
    Send(usize),
    Detach,
    /// All but what is being sent.
    Trim,
    Discard,
}

fn action() -> impl Strategy<Value = (usize, Action)> {
    let len = 1..6_000usize;
    let action = prop_oneof![
        3 => len.clone().prop_map(Action::Copy),
        2 => (1..40usize).prop_map(Action::Bytes),
        1 => len.prop_map(Action::Share),
        6 => (0..=1_000usize).prop_map(Action::Send),
        2 => Just(Action::Detach),
        1 => Just(Action::Trim),
        1 => Just(Action::Discard),
    ];
    (0..OWNERS, action)
}

proptest! {
    #[test]
    fn bytes_leave_in_order_and_nothing_leaks(actions in vec(action(), 1..120)) {
        let (mut hands, mut pools) = memory();
        let mut outboxes = Outboxes::new();
        let mut handles = [0u32; OWNERS];
        let mut models: [VecDeque<u8>; OWNERS] = Default::default();
        for (salt, (owner, action)) in actions.into_iter().enumerate() {
            let handle = handles[owner];
            let model = &mut models[owner];
            match action {
                // A link's block begins an outbox; behind something unsent it is copied.
                Action::Copy(len) => {
                    let bytes = pattern(salt as u64, len);
                    let span = filled(&mut hands, &mut pools, Class::LinkRx, &bytes).expect("a block");
                    if handle == 0 {
                        handles[owner] = outboxes.open(Slot::new(owner as u32), span, 0);
                        model.extend(bytes);
                    } else {
                        let room = pools.available(Class::Outbox) * CoreConfig::CHUNK_BYTES;
                        match outboxes.push_copy(&mut hands, &mut pools, handle, span, 0) {
                            Ok(()) => model.extend(bytes),
                            Err(_) => prop_assert!((room as usize) < len, "there was room"),
                        }
                        pools.release(span.block);
                    }
                }
                Action::Bytes(len) if handle != 0 => {
                    let bytes = pattern(salt as u64, len);
                    match outboxes.push_bytes(&mut hands, &mut pools, handle, &bytes, 0) {
                        Ok(()) => model.extend(bytes),
                        Err(_) => prop_assert_eq!(pools.available(Class::Outbox), 0),
                    }
                }
                Action::Share(len) if handle != 0 => {
                    let bytes = pattern(salt as u64, len);
                    if let Some(span) = filled(&mut hands, &mut pools, Class::Fanout, &bytes) {
                        outboxes.push_shared(&mut pools, handle, span);
                        pools.release(span.block);
                        model.extend(bytes);
                    }
                }
                Action::Send(per_mille) if handle != 0 => {
                    let front = outboxes.front(handle);
                    let sent = (front.len as usize * per_mille / 1_000) as u32;
                    let left = read(&hands, front.block, front.offset, sent);
                    prop_assert!(model.drain(..sent as usize).eq(left), "other bytes leave");
                    if outboxes.advance(&mut pools, handle, sent, 1) {
                        handles[owner] = 0;
                        prop_assert!(model.is_empty());
                    }
                }
                Action::Detach if handle != 0 => {
                    let let_go = outboxes.detach(&mut hands, &mut pools, handle, 0).is_ok();
                    let own = outboxes.front(handle).block.class() == Class::Outbox as usize;
                    prop_assert_eq!(own, let_go);
                }
                Action::Trim if handle != 0 => {
                    outboxes.trim(&mut pools, handle);
                    model.truncate(outboxes.front(handle).len as usize);
                }
                Action::Discard if handle != 0 => {
                    outboxes.discard(&mut pools, handle);
                    handles[owner] = 0;
                    model.clear();
                }
                _ => {}
            }
            for (handle, model) in handles.iter().zip(&models).filter(|(handle, _)| **handle != 0) {
                prop_assert_eq!(outboxes.bytes(*handle) as usize, model.len());
            }
            let (total, count) = (models.iter().map(VecDeque::len).sum::<usize>(), handles.iter().filter(|h| **h != 0));
            prop_assert_eq!((outboxes.bytes_total(), outboxes.count()), (total as u64, count.count()));
            let most = handles.iter().filter(|h| **h != 0).map(|&h| outboxes.held(h)).max().unwrap_or(0);
            match outboxes.largest() {
                Some((owner, held)) => prop_assert_eq!((held, outboxes.held(handles[owner.index()])), (most, most)),
                None => prop_assert!(most <= FLOOR_BYTES),
            }
        }
        for handle in handles.into_iter().filter(|&handle| handle != 0) {
            outboxes.discard(&mut pools, handle);
        }
        for class in [Class::Outbox, Class::LinkRx, Class::Fanout] {
            prop_assert_eq!(pools.in_use(class), 0, "{:?} leaks", class);
        }
    }
}
