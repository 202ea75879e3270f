//! What a MESSAGE carries: content that follows from (seed, sender, sequence), so that whoever
//! receives it can tell whose it is, which one it is, and whether a single bit is wrong.
//!
//! Layout: sender u32, sequence u32 (big-endian), then a key stream to the end. With at least
//! eight bytes of key stream, bytes that were never sent do not pass for a message.

/// The smallest payload that names its message and proves it, in bytes.
pub const BYTES_MIN: usize = 16;
/// Bytes before the key stream.
const NAME_BYTES: usize = 8;

/// One message of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The sender's number among all users of the run.
    pub sender: u32,
    /// The message's number among those of its sender, from 0.
    pub sequence: u32,
}

/// Appends the payload of a message. Panics below [`BYTES_MIN`].
pub fn write(seed: u64, name: Name, payload_bytes: usize, out: &mut Vec<u8>) {
    assert!(payload_bytes >= BYTES_MIN);
    let end = out.len() + payload_bytes;
    out.extend(name.sender.to_be_bytes());
    out.extend(name.sequence.to_be_bytes());
    let mut stream = Stream::new(seed, name);
    while out.len() < end {
        let word = stream.next();
        out.extend(&word[..(end - out.len()).min(8)]);
    }
}

/// Whose message this is; none if it is not one of this run, or was changed.
pub fn read(seed: u64, payload: &[u8]) -> Option<Name> {
    if payload.len() < BYTES_MIN {
        return None;
    }
    let (name, rest) = payload.split_at(NAME_BYTES);
    let [sender, sequence] =
        [&name[..4], &name[4..]].map(|field| u32::from_be_bytes(field.try_into().expect("four bytes")));
    let name = Name { sender, sequence };
    let mut stream = Stream::new(seed, name);
    rest.chunks(8).all(|chunk| stream.next()[..chunk.len()] == *chunk).then_some(name)
}

/// SplitMix64 (Steele, Lea, Flood 2014), started from a mix of the three numbers.
struct Stream(u64);

impl Stream {
    const fn new(seed: u64, name: Name) -> Self {
        Self(mix(seed ^ mix((name.sender as u64) << 32 | name.sequence as u64)))
    }

    const fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0).to_le_bytes()
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection of 64 bits in which every input bit moves every output bit.
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_payload_names_its_message(seed: u64, sender: u32, sequence: u32, bytes in BYTES_MIN..200_usize) {
            let name = Name { sender, sequence };
            let mut payload = Vec::new();
            write(seed, name, bytes, &mut payload);
            prop_assert_eq!(payload.len(), bytes);
            prop_assert_eq!(read(seed, &payload), Some(name));
        }

        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(seed: u64, bytes in BYTES_MIN..100_usize, bit in 0..800_usize) {
            let mut payload = Vec::new();
            write(seed, Name { sender: 7, sequence: 9 }, bytes, &mut payload);
            let bit = bit % (8 * bytes);
            payload[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read(seed, &payload), None);
        }
    }

    #[test]
    fn another_seed_does_not_read_it() {
        let mut payload = Vec::new();
        write(1, Name { sender: 7, sequence: 9 }, 64, &mut payload);
        assert_eq!(read(2, &payload), None);
        assert_eq!(read(1, &payload[..8]), None);
    }
}
