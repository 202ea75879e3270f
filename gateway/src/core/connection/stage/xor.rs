//! A cipher that hides nothing: records of a length and bytes that are changed by their position. It
//! shows that a stage may stand between sockets and frames, wherever TCP cuts the stream.

use roost_protocol::Reason;

/// Bytes before a record's own: their number.
const HEADER_BYTES: usize = 2;
/// The most bytes in a record.
pub const RECORD_BYTES_MAX: usize = 1_000;

fn change(bytes: &mut [u8]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte ^= (at as u8).wrapping_mul(29) ^ 0xa5;
    }
}

/// Appends `plain` to `out` in records of at most `record_bytes`.
pub fn seal(plain: &[u8], record_bytes: usize, out: &mut Vec<u8>) {
    for piece in plain.chunks(record_bytes.clamp(1, RECORD_BYTES_MAX)) {
        out.extend((piece.len() as u16).to_be_bytes());
        let from = out.len();
        out.extend(piece);
        change(&mut out[from..]);
    }
}

/// Opens the whole records in `bytes`, in place. Returns how many bytes of theirs stand at the front,
/// and how many bytes are done with.
pub fn open(bytes: &mut [u8]) -> Result<(usize, usize), Reason> {
    let (mut plain, mut used) = (0, 0);
    while let Some(&header) = bytes[used..].first_chunk::<HEADER_BYTES>() {
        let len = usize::from(u16::from_be_bytes(header));
        if len == 0 || len > RECORD_BYTES_MAX {
            return Err(Reason::Malformed);
        }
        let from = used + HEADER_BYTES;
        let Some(record) = bytes.get_mut(from..from + len) else { break };
        change(record);
        bytes.copy_within(from..from + len, plain);
        (plain, used) = (plain + len, from + len);
    }
    Ok((plain, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_wherever_it_is_cut() {
        let plain: Vec<u8> = (0..2_500u32).map(|at| (at * 7) as u8).collect();
        for record_bytes in [1, 7, 999, 5_000] {
            let mut sealed = Vec::new();
            seal(&plain, record_bytes, &mut sealed);
            for cut in [0, 1, 2, 3, 500, 1_001, 1_002, 1_003, sealed.len()] {
                let (first, second) = sealed.split_at(cut.min(sealed.len()));
                let mut bytes = first.to_vec();
                let (plain_bytes, used) = open(&mut bytes).unwrap();
                let mut rest = [&first[used..], second].concat();
                let (more, all) = open(&mut rest).unwrap();
                assert_eq!(all, rest.len());
                assert_eq!([&bytes[..plain_bytes], &rest[..more]].concat(), plain, "{record_bytes}, {cut}");
            }
        }
    }

    #[test]
    fn what_can_be_no_record_is_refused_at_its_length() {
        for bytes in [[0, 0], [0xff, 0xff], [3, 0xe9]] {
            assert_eq!(open(&mut bytes.clone()), Err(Reason::Malformed));
        }
    }
}
