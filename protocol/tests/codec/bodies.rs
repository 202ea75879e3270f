//! What must hold for any bytes at all; shared by the property tests, the replay of the committed
//! corpus, and the fuzz targets in `protocol/fuzz`.
//!
//! An input is one control byte and a stream. The control byte says how the stream is cut into
//! reads and which frame limit holds. Every body returns what it saw, so that a test can tell
//! whether a corpus reaches all there is.

use std::collections::BTreeSet;

use roost_protocol::{edge, link};

/// Names of the frame types and errors that an input led to.
pub(crate) type Seen = BTreeSet<String>;

/// The limit and the size of the reads that the control byte asks for.
fn control(input: &[u8]) -> (u32, usize, &[u8]) {
    let Some((&control, stream)) = input.split_first() else { return (64, 1, input) };
    // Limits on both sides of what short streams hold; reads of 1 to 61 bytes.
    let frame_bytes_max =
        [64, 5, edge::FRAME_BYTES_MAX_DEFAULT, edge::FRAME_BYTES_LIMIT][control as usize % 4];
    let read_bytes = [1, 2, 3, 4, 5, 7, 15, 16, 17, 61][control as usize / 4 % 10];
    (frame_bytes_max, read_bytes, stream)
}

/// A whole edge frame as it came.
type EdgeFrame = (edge::FrameType, Vec<u8>);

/// An edge stream: all ways of reading it agree, frames that decode encode to what decodes the
/// same, and nothing panics.
pub(crate) fn edge(input: &[u8]) -> Seen {
    let (frame_bytes_max, read_bytes, stream) = control(input);
    let (frames, error, rest_bytes) = edge_at_once(stream, frame_bytes_max);

    let mut decoder = edge::Decoder::new(frame_bytes_max);
    let mut cut: Vec<EdgeFrame> = Vec::new();
    let result = stream
        .chunks(read_bytes)
        .try_for_each(|read| decoder.feed(read, |frame_type, frame| cut.push((frame_type, frame.to_vec()))));
    assert_eq!(cut, frames, "the same frames in reads of {read_bytes} bytes");
    assert_eq!(result.err(), error);
    if error.is_none() {
        assert_eq!(decoder.pending_bytes(), rest_bytes);
    }

    let mut seen: Seen = error.iter().map(|error| format!("{:?}", error.reason())).collect();
    for (frame_type, frame) in &frames {
        seen.insert(format!("{frame_type:?}"));
        match edge::Frame::decode_whole(*frame_type, frame) {
            Ok(decoded) => check_edge_frame(decoded, *frame_type, frame),
            Err(error) => {
                seen.insert(format!("{:?}", error.reason()));
            }
        }
    }
    seen
}

fn edge_at_once(stream: &[u8], frame_bytes_max: u32) -> (Vec<EdgeFrame>, Option<edge::FrameError>, usize) {
    let (mut rest, mut frames) = (stream, Vec::new());
    loop {
        match edge::split(rest, frame_bytes_max) {
            Ok(edge::Split::Frame { frame_type, frame }) => {
                assert!(frame.len() <= edge::HEADER_BYTES + frame_bytes_max.max(4358) as usize);
                frames.push((frame_type, frame.to_vec()));
                rest = &rest[frame.len()..];
            }
            Ok(edge::Split::Need { total_bytes }) => {
                assert!(total_bytes > rest.len(), "more is needed than is there");
                return (frames, None, rest.len());
            }
            Err(error) => return (frames, Some(error), rest.len()),
        }
    }
}

fn check_edge_frame(decoded: edge::Frame<'_>, frame_type: edge::FrameType, frame: &[u8]) {
    let mut encoded = Vec::new();
    decoded.encode(&mut encoded);
    assert_eq!(edge::Frame::decode_whole(frame_type, &encoded), Ok(decoded));
    if frame_type == edge::FrameType::Goaway {
        // A reason of a later version is the only field that does not come back as it was.
        encoded[edge::HEADER_BYTES] = frame[edge::HEADER_BYTES];
    }
    assert_eq!(encoded, frame);
}

/// A link stream: waiting for as many bytes as `split` asks for gives the same frames as having
/// all at once, frames that decode encode to what decodes the same, and nothing panics.
pub(crate) fn link(input: &[u8]) -> Seen {
    let (frame_bytes_max, read_bytes, stream) = control(input);
    let payload_bytes_max = link::payload_bytes_max(frame_bytes_max);

    let (mut rest, mut at_once) = (stream, Vec::new());
    let (error, rest_bytes) = loop {
        match link::split(rest, payload_bytes_max) {
            Ok(link::Split::Frame { header, payload }) => {
                at_once.push((header, payload.to_vec()));
                rest = &rest[header.frame_bytes()..];
            }
            Ok(link::Split::Need { total_bytes }) => {
                assert!(total_bytes > rest.len(), "more is needed than is there");
                break (None, rest.len());
            }
            Err(error) => break (Some(error), rest.len()),
        }
    };
    let cut = link_in_reads(stream, read_bytes, payload_bytes_max);
    assert_eq!(cut, (at_once.clone(), error, rest_bytes), "the same in reads of {read_bytes} bytes");

    let mut seen: Seen = error.iter().map(|error| name(&format!("{error:?}"))).collect();
    for (header, payload) in &at_once {
        seen.insert(format!("{:?}", header.link_type));
        match link::Frame::decode(header, payload, frame_bytes_max) {
            Ok(decoded) => check_link_frame(decoded, header, payload, frame_bytes_max),
            Err(error) => {
                seen.insert(name(&format!("{error:?}")));
            }
        }
    }
    seen
}

type LinkFrames = (Vec<(link::Header, Vec<u8>)>, Option<link::LinkError>, usize);

/// A reader that tries only when as many bytes are there as it was told to wait for.
fn link_in_reads(stream: &[u8], read_bytes: usize, payload_bytes_max: u32) -> LinkFrames {
    let (mut frames, mut buffer, mut wanted) = (Vec::new(), Vec::new(), 0);
    for (number, read) in stream.chunks(read_bytes).enumerate() {
        buffer.extend(read);
        while buffer.len() >= wanted {
            match link::split(&buffer, payload_bytes_max) {
                Ok(link::Split::Frame { header, payload }) => {
                    frames.push((header, payload.to_vec()));
                    buffer.drain(..header.frame_bytes());
                    wanted = 0;
                }
                Ok(link::Split::Need { total_bytes }) => wanted = total_bytes,
                Err(error) => {
                    let behind = (number + 1) * read_bytes;
                    return (frames, Some(error), buffer.len() + stream.len().saturating_sub(behind));
                }
            }
        }
    }
    (frames, None, buffer.len())
}

fn check_link_frame(decoded: link::Frame<'_>, header: &link::Header, payload: &[u8], frame_bytes_max: u32) {
    let mut encoded = Vec::new();
    decoded.encode(*header, &mut encoded);
    assert_eq!(decoded.link_type(), header.link_type);
    // An empty retry-after is written out, empty code and text are left out, and a refusal of a later
    // version becomes a known one.
    let implied = match decoded {
        link::Frame::Reject(ending) | link::Frame::Close(ending) => {
            ending.code == 0 && ending.text.is_empty() && payload.len() != 4
        }
        _ => false,
    };
    let unknown = decoded == link::Frame::LinkRefuse(link::Refusal::Malformed);
    if !implied && !unknown {
        assert_eq!(encoded, [header.encode().as_slice(), payload].concat());
    }
    match link::split(&encoded, u32::MAX) {
        Ok(link::Split::Frame { header, payload }) => {
            assert_eq!(link::Frame::decode(&header, payload, frame_bytes_max), Ok(decoded));
        }
        other => panic!("what was encoded is whole: {other:?}"),
    }
    if let link::Frame::Multicast { ids, .. } = decoded {
        assert_eq!(link::multicast_ids(ids).count(), ids.len() / 8);
    }
}

/// The variant's name, without its fields.
fn name(debug: &str) -> String {
    debug.split([' ', '(']).next().expect("split gives at least one").to_owned()
}
