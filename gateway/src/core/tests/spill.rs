//! Spills against byte queues: what is spilled comes out in order, and nothing leaks.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};
use roost_protocol::edge;

use super::{filled, memory, pattern, read};
use crate::core::{
    CoreConfig,
    connection::{rank::FLOOR_BYTES, spill::Spills},
    index::Slot,
    pool::Class,
};

const OWNERS: usize = 3;

#[derive(Clone, Debug)]
enum Action {
    Push(usize),
    /// Per mille of what is there.
    Consume(usize),
    Discard,
}

fn action() -> impl Strategy<Value = (usize, Action)> {
    let action = prop_oneof![
        4 => (1..6_000usize).prop_map(Action::Push),
        2 => (1..40usize).prop_map(Action::Push),
        3 => (0..=1_000usize).prop_map(Action::Consume),
        1 => Just(Action::Discard),
    ];
    (0..OWNERS, action)
}

proptest! {
    #[test]
    fn bytes_come_out_in_order_and_nothing_leaks(actions in vec(action(), 1..120)) {
        let (mut hands, mut pools) = memory();
        let mut spills = Spills::new();
        let mut handles = [0u32; OWNERS];
        let mut models: [VecDeque<u8>; OWNERS] = Default::default();
        for (salt, (owner, action)) in actions.into_iter().enumerate() {
            let (handle, model) = (handles[owner], &mut models[owner]);
            match action {
                Action::Push(len) => {
                    let bytes = pattern(salt as u64, len);
                    let span = filled(&mut hands, &mut pools, Class::Rx, &bytes).expect("a block");
                    let room = pools.available(Class::Spill) * CoreConfig::CHUNK_BYTES;
                    match spills.push(&mut hands, &mut pools, handle, (Slot::new(owner as u32), 0), span) {
                        Ok(handle) => {
                            handles[owner] = handle;
                            model.extend(bytes);
                        }
                        Err(_) => prop_assert!((room as usize) < len, "there was room"),
                    }
                    pools.release(span.block);
                }
                Action::Consume(per_mille) if handle != 0 => {
                    let len = model.len() * per_mille / 1_000;
                    model.drain(..len);
                    let gone = spills.consume(&mut pools, handle, len as u32);
                    prop_assert_eq!(gone, model.is_empty());
                    if gone {
                        handles[owner] = 0;
                    }
                }
                Action::Discard if handle != 0 => {
                    spills.discard(&mut pools, handle);
                    handles[owner] = 0;
                    model.clear();
                }
                _ => {}
            }
            for (&handle, model) in handles.iter().zip(&models).filter(|(handle, _)| **handle != 0) {
                prop_assert_eq!(spills.bytes(handle) as usize, model.len());
                let mut held = Vec::new();
                spills.spans(handle, u32::MAX).for_each(|span| {
                    held.extend(read(&hands, span.block, span.offset, span.len));
                });
                prop_assert!(model.iter().eq(&held), "other bytes are held");
                let (header, filled) = spills.peek_header(&hands, handle);
                prop_assert_eq!(filled, model.len().min(edge::HEADER_BYTES));
                prop_assert_eq!(&header[..filled], &held[..filled]);
            }
            let total: usize = models.iter().map(VecDeque::len).sum();
            prop_assert_eq!(spills.bytes_total(), total as u64);
            let most = models.iter().map(VecDeque::len).max().unwrap_or(0) as u32;
            match spills.largest() {
                Some((owner, held)) => prop_assert_eq!((held, models[owner.index()].len()), (most, most as usize)),
                None => prop_assert!(most <= FLOOR_BYTES),
            }
            prop_assert_eq!(spills.count(), handles.iter().filter(|handle| **handle != 0).count());
        }
        for handle in handles.into_iter().filter(|&handle| handle != 0) {
            spills.discard(&mut pools, handle);
        }
        prop_assert_eq!(pools.in_use(Class::Spill), 0);
    }
}
