//! What a listener's clients pass between their socket and their frames: plain values. What they do
//! stands in `core::connection`.

use roost_protocol::link;

/// What clients of a listener pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerConfig {
    /// A PROXY header comes first.
    pub proxy: bool,
    /// Behind that, the cipher.
    pub cipher: Cipher,
    /// How frames are marked.
    pub framing: Framing,
}

/// What stands between the socket and frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cipher {
    /// Nothing: frames stand in the stream as they are.
    #[default]
    None,
    /// Records with a length, each byte changed: what the simulation proves the seam with.
    #[cfg(any(test, feature = "sim"))]
    Xor,
}

/// How frames are marked in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// The edge protocol's own (SPEC.md, part 1).
    #[default]
    Edge,
}

impl Framing {
    /// What OPEN and REOPEN call it.
    pub(crate) const fn on_links(self) -> link::Framing {
        match self {
            Self::Edge => link::Framing::Edge,
        }
    }
}
