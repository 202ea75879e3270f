//! Identifiers that travel on links.

/// Names one connection of one gateway instance: slot, generation and shard.
///
/// On the wire a big-endian u64: shard in the top 8 bits, slot in the next 24, generation in the
/// low 32. A slot's generation changes with every connection, so a late reply can never reach a
/// newer client in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Slots per shard that an id can name.
    pub const SLOTS_MAX: u32 = 1 << 24;

    /// Packs the three parts. Panics if `slot` is not below [`Self::SLOTS_MAX`].
    pub const fn new(shard: u8, slot: u32, generation: u32) -> Self {
        assert!(slot < Self::SLOTS_MAX);
        Self((shard as u64) << 56 | (slot as u64) << 32 | generation as u64)
    }

    /// The id as it stands on the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Any u64 is an id, though perhaps of no connection.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The gateway shard that owns the connection.
    pub const fn shard(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The index in that shard's connection table.
    pub const fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & (Self::SLOTS_MAX - 1)
    }

    /// The slot's generation.
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }
}

/// Identifies one run of a gateway or worker process; random at start, never reused.
///
/// All zero means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InstanceId(pub [u8; 16]);

impl InstanceId {
    /// No instance: the peer is not known yet.
    pub const NONE: Self = Self([0; 16]);
}

/// What a worker stores with a connection; opaque to the gateway.
///
/// It must mean the same to every worker of the fleet, since after a failover another worker
/// gets it back in REOPEN and knows nothing else about the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionRef(pub u64);

#[cfg(test)]
mod tests {
    use super::ConnectionId;

    #[test]
    fn parts_round_trip_at_the_limits() {
        for (shard, slot, generation) in [(0, 0, 0), (255, (1 << 24) - 1, u32::MAX), (7, 9, 11)] {
            let id = ConnectionId::new(shard, slot, generation);
            assert_eq!((id.shard(), id.slot(), id.generation()), (shard, slot, generation));
            assert_eq!(ConnectionId::from_bits(id.to_bits()), id);
        }
    }
}
