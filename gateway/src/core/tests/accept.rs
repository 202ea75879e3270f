//! Which listeners accepts are armed on.

use std::sync::Arc;

use crate::{
    core::{CoreConfig, ListenerConfig, ShardCore, pool::specs, stats::ShardStats},
    op::{Op, errno},
    sim::Hands,
};

#[test]
fn no_listener_takes_every_slot_while_another_is_being_looked_at() {
    let mut config = CoreConfig::lone(4, Vec::new());
    config.listeners = vec![ListenerConfig::default(); 2];
    config.counts_waiting = true;
    let mut hands = Hands::new(&specs(&config));
    let mut core =
        ShardCore::new(config, 4, Arc::new(ShardStats::default()), Box::new(|bytes| bytes.fill(7)));
    core.start(&mut hands, 1_000, 4);
    // A kernel that cannot say how many wait says so for one listener after the other.
    for listener in [1, 0] {
        let look = hands.take(|_, op| op == Op::CountWaiting { listener }).expect("it is looked at");
        core.begin_turn(1_000);
        let ended = hands.end(look, -errno::EOPNOTSUPP);
        core.on_completion(&mut hands, ended);
        core.end_turn(&mut hands);
    }
    for wanted in [0, 1] {
        let armed =
            hands.ops().any(|(_, op)| matches!(op, Op::Accept { listener, .. } if listener == wanted));
        assert!(armed, "nobody is ever accepted on listener {wanted}");
    }
}
