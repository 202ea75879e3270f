//! Who owns which partition by the definition of SPEC.md, part 2: reckoned from what is seen of links,
//! not by the core's table.

use roost_protocol::hash::{self, PARTITIONS};

use crate::core::{ShardCore, shard::inspect::LinkView};

/// Partitions looked at each time.
const SAMPLE: u32 = 8;
/// From one to the next: odd, so that all have their turn.
const STEP: u32 = 5_077;

/// Which partition is looked at next.
#[derive(Debug, Default)]
pub(super) struct Placement {
    next: u32,
}

impl Placement {
    /// Compares the core's owners of some partitions with the definition's, others each time.
    pub(super) fn check(&mut self, core: &ShardCore) {
        let links: Vec<LinkView> = core.link_views().collect();
        for _ in 0..SAMPLE {
            let partition = (self.next % PARTITIONS) as u16;
            self.next = self.next.wrapping_add(STEP);
            let (routed, owner) = (core.owner(partition), owner(&links, partition));
            assert_eq!(
                routed, owner,
                "invariant placement: partition {partition} is routed to {routed:?}, and {owner:?} owns it"
            );
        }
    }
}

/// The link of the worker that owns a partition: the greatest weight among those that are up and want to
/// stay; where there is none, among those that are up.
fn owner(links: &[LinkView], partition: u16) -> Option<u8> {
    let heaviest = |is_up: fn(&LinkView) -> bool| {
        let up = (0..).zip(links).filter(|(_, link)| is_up(link));
        up.max_by_key(|(_, link)| hash::weight(partition, link.worker_hash)).map(|(index, _)| index)
    };
    heaviest(|link| link.takes_frames && !link.draining && !link.removed)
        .or_else(|| heaviest(|link| link.takes_frames))
}
