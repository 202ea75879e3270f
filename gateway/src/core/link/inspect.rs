//! What the simulation's shadow model may see of links, and what it may not change.

use roost_protocol::InstanceId;

use super::{Link, LinkState, Links, state::OPS, state::op_bit};
use crate::{
    core::{config::CoreConfig, context::Context},
    op::Token,
};

/// A link, as a plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// Which worker it goes to: the hash of its name.
    pub worker_hash: u64,
    /// The worker has left; the next new one may have the link.
    pub vacant: bool,
    /// The configuration names the worker no more.
    pub removed: bool,
    /// Connections can be routed to it.
    pub routable: bool,
    /// Frames can be queued for it: it has a session that is not being cleared away.
    pub takes_frames: bool,
    /// Where its TCP connection is in its life.
    pub state: LinkState,
    /// A send is in the kernel.
    pub is_sending: bool,
    /// The worker of its session.
    pub session: Option<InstanceId>,
    /// The worker has been silent too long, or its session is poisoned: it is to be given up.
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

impl Links {
    /// Every link.
    pub(crate) fn views(&self, ctx: &Context) -> impl Iterator<Item = LinkView> {
        self.links.iter().map(|link| link.view(&ctx.cfg, ctx.now_ms))
    }

    /// The tokens of all ops that are believed to be in the kernel.
    pub(crate) fn ops_in_kernel(&self) -> impl Iterator<Item = Token> {
        self.links.iter().flat_map(|link| {
            let in_kernel = OPS.iter().filter(|(bit, _)| link.ops & bit != 0);
            in_kernel.map(|&(_, kind)| link.token(kind))
        })
    }
}

impl Link {
    fn view(&self, cfg: &CoreConfig, now_ms: u64) -> LinkView {
        LinkView {
            worker_hash: self.worker_hash,
            vacant: self.vacant,
            removed: self.removed,
            routable: self.is_routable(),
            takes_frames: self.takes_frames(),
            state: self.state,
            is_sending: self.ops & op_bit::SEND != 0,
            session: self.session.map(|session| session.worker),
            is_gone: self.is_gone(cfg, now_ms),
            failing_over: self.failing_over,
            retained_bytes: self.tx.retained_bytes(),
            resend_bytes: self.resend.bytes(),
            moves: self.moves.len(),
            draining: self.draining,
            lag_frames: self.tx.lag_frames(),
            acked_frames: self.tx.acked_frames(),
            offered_frames: self.tx.offered_frames(),
            all_sent: self.tx.is_all_sent(),
            window_bytes: self.session.map_or(0, |session| session.window_bytes),
            connections: self.connections,
        }
    }
}
