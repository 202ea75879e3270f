//! Tokens: what travels through the kernel's `user_data` and comes back.

/// Names what an op was for: a kind (meaning is the core's), an index (slot or link) and a
/// generation, packed as kind u8, index u24, generation u32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// Kinds from here on belong to drivers and never reach the core, except [`Token::WAKE`].
    pub const DRIVER_KIND: u8 = 0xf0;
    /// The completion that says: somebody called the waker.
    pub const WAKE: Token = Token::new(0xff, 0, 0);

    /// Packs a token. Panics if the index does not fit 24 bits.
    #[inline]
    pub const fn new(kind: u8, index: u32, generation: u32) -> Self {
        assert!(index < 1 << 24);
        Self((kind as u64) << 56 | (index as u64) << 32 | generation as u64)
    }

    /// The kind.
    #[inline]
    pub const fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The slot or link.
    #[inline]
    pub const fn index(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    /// The generation the slot or link had when the op was made.
    #[inline]
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }

    /// The value for `user_data`.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// From `user_data`.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({:#04x}:{}.{})", self.kind(), self.index(), self.generation())
    }
}
