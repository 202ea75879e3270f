//! What a message to everybody may be.

use super::Context;

impl Context<'_> {
    /// The longest message, in bytes, that every gateway with a session here takes, as
    /// [`Self::broadcast`] needs it; none where no gateway has one.
    pub fn message_bytes_max_of_all(&self) -> Option<u32> {
        self.registry.iter().map(|link| link.session.frame_bytes_max()).min()
    }
}
