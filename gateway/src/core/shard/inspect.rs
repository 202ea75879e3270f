//! What the simulation's shadow model may see of a core, and what it may not change.

use std::collections::BTreeSet;

use roost_protocol::InstanceId;

pub use crate::core::connection::SlotView;
use crate::{
    core::{
        link::{LinkState, link_bit},
        pool::Class,
        record::State,
        shard::{ShardCore, kind},
    },
    op::{Block, Token},
};

/// A link, as a plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// Which worker it goes to: the hash of its name.
    pub worker_hash: u64,
    /// The worker has left; the next new one may have the link.
    pub vacant: bool,
    /// The configuration names the worker no more.
    pub retired: bool,
    /// Connections can be routed to it.
    pub routable: bool,
    /// Where its TCP connection is in its life.
    pub state: LinkState,
    /// A send is in the kernel.
    pub is_sending: bool,
    /// The worker of its session.
    pub session: Option<InstanceId>,
    /// The worker has been silent too long, or is hopeless: its session is to be given up.
    pub is_gone: bool,
    /// A failed session's connections are being moved.
    pub failing_over: bool,
    /// Queued or not yet acknowledged, in bytes.
    pub retained_bytes: u64,
    /// Frames of failed sessions that wait for room, in bytes.
    pub resend_bytes: u64,
    /// Connections that the worker is to let go and has not.
    pub moves: usize,
    /// The worker has said that it wants to leave.
    pub draining: bool,
    /// Sequenced frames queued or not yet acknowledged.
    pub lag_frames: u64,
    /// Sequenced frames acknowledged in this session.
    pub acked_frames: u64,
    /// Sequenced frames of this session that TCP has been given on this connection.
    pub offered_frames: u64,
    /// TCP has taken everything that is queued.
    pub all_sent: bool,
    /// What the worker grants, in bytes.
    pub window_bytes: u32,
    /// Connections routed to it.
    pub connections: u32,
}

impl ShardCore {
    /// The tokens of all ops that the core believes to be in the kernel.
    pub fn ops_in_kernel(&self) -> Vec<Token> {
        let link = [
            (link_bit::CONNECT, kind::LINK_CONNECT),
            (link_bit::RECV, kind::LINK_RECV),
            (link_bit::SEND, kind::LINK_SEND),
            (link_bit::CANCEL, kind::LINK_CANCEL),
            (link_bit::CLOSE, kind::LINK_CLOSE),
        ];
        let mut tokens: Vec<Token> = self.connections.ops_in_kernel().collect();
        for (index, state) in self.links.iter().enumerate() {
            let set = link.iter().filter(|(bit, _)| state.ops & bit != 0);
            tokens.extend(set.map(|&(_, kind)| Token::new(kind, index as u32, state.generation)));
        }
        tokens
    }

    /// Every slot that was ever used.
    pub fn slot_views(&self) -> impl Iterator<Item = SlotView> {
        self.connections.views()
    }

    /// Every link.
    pub fn link_views(&self) -> impl Iterator<Item = LinkView> {
        self.links.iter().map(|link| LinkView {
            worker_hash: link.worker_hash,
            vacant: link.vacant,
            retired: link.retired,
            routable: link.is_routable(),
            state: link.state,
            is_sending: link.ops & link_bit::SEND != 0,
            session: link.session.map(|session| session.worker),
            is_gone: self.is_gone(link),
            failing_over: link.failover.is_some(),
            retained_bytes: link.tx.retained_bytes(),
            resend_bytes: link.resend.bytes(),
            moves: link.moves.len(),
            draining: link.draining,
            lag_frames: link.tx.lag_frames(),
            acked_frames: link.tx.acked_frames(),
            offered_frames: link.tx.offered_frames(),
            all_sent: link.tx.is_all_sent(),
            window_bytes: link.session.map_or(0, |session| session.window_bytes),
            connections: link.connections,
        })
    }

    /// First and longest time for which a worker is held down.
    pub fn link_hold_ms(&self) -> (u32, u32) {
        self.ctx.cfg.link_hold_ms
    }

    /// Whether nobody in the core holds this block.
    pub fn is_free_block(&self, block: Block) -> bool {
        self.ctx.pools.holders(block) == 0
    }

    /// The time of the last turn, in milliseconds: what all deadlines are compared with.
    pub fn now_ms(&self) -> u64 {
        self.ctx.now_ms
    }

    /// How much a turn does.
    pub fn bounds(&self) -> &crate::core::bounds::Bounds {
        &self.ctx.cfg.bounds
    }

    /// Who waits for a receive buffer, first come first: slots and generations.
    pub fn buffer_waiters(&self) -> Vec<(u32, u32)> {
        self.connections.buffer_waiters()
    }

    /// Receive blocks whose frames wait for a later turn.
    pub fn blocks_postponed(&self) -> usize {
        self.connections.blocks_postponed()
    }

    /// Blocks in use, by class, in the order of the classes.
    pub fn blocks_in_use(&self) -> [u32; 6] {
        [Class::Rx, Class::Outbox, Class::Spill, Class::LinkRx, Class::LinkTx, Class::Fanout]
            .map(|class| self.ctx.pools.in_use(class))
    }

    /// Connections that are accepted and have not begun to end.
    pub fn connections_alive(&self) -> u32 {
        let alive = |view: &SlotView| matches!(view.state, State::Handshaking | State::Opening | State::Open);
        self.slot_views().filter(alive).count() as u32
    }

    /// Connections counted against the process's cap, if there is one.
    pub fn cap_held(&self) -> Option<u32> {
        self.ctx.cfg.cap.as_ref().map(|cap| cap.held())
    }

    /// Connections counted by address, if they are.
    pub fn per_ip_counted(&self) -> Option<u64> {
        self.ctx.cfg.per_ip.as_ref().map(|per_ip| per_ip.counted())
    }

    /// Connections that hold a cell of the per-address table.
    pub fn per_ip_holders(&self) -> u64 {
        self.connections.per_ip_holders()
    }

    /// Blocked connections that stand on no list from which they would ever be resumed.
    pub fn forgotten(&self) -> Vec<u32> {
        let lists = self.links.iter().flat_map(|link| link.blocked.iter().chain(&link.holding));
        let listed: BTreeSet<(u32, u32)> = lists.copied().collect();
        self.connections.forgotten(|id| listed.contains(&(id.slot(), id.generation())))
    }
}
