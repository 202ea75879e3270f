//! Floods one worker over one link, as a gateway shard would, and checks every reply of `echo`.
//!
//! ```text
//! roost-router --listen unix:/tmp/w --metrics 127.0.0.1:7501 &
//! cargo run --release -p roost-router --example flood -- unix:/tmp/w 5000000 1000
//! curl -s 127.0.0.1:7501/stats
//! ```
//!
//! Arguments: address, number of 64-byte messages, messages per burst (each burst is answered
//! before the next is sent), and optionally how many connections to open first.
#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use roost_protocol::{
    ConnectionId, InstanceId, edge,
    link::{
        Header, LinkHello, LinkProof, LinkType, Open, Split, handshake::encode_frame, payload_bytes_max,
        split,
    },
};
use roost_router::Address;

const PAYLOAD_BYTES: usize = 64;
const FRAME_BYTES_MAX: u32 = 64 * 1024;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Link {
    stream: Box<dyn Stream>,
    incoming: Vec<u8>,
    received: u64,
}

impl Link {
    /// Reads once and gives each whole frame to `on_frame`; acknowledges what is sequenced.
    fn read(&mut self, mut on_frame: impl FnMut(Header, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let length = self.incoming.len();
        self.incoming.resize(length + 256 * 1024, 0);
        let bytes = self.stream.read(&mut self.incoming[length..]).context("reading")?;
        ensure!(bytes > 0, "the worker closed the link");
        self.incoming.truncate(length + bytes);
        let (mut taken, before) = (0, self.received);
        while let Split::Frame { header, payload } =
            split(&self.incoming[taken..], payload_bytes_max(FRAME_BYTES_MAX))?
        {
            on_frame(header, payload)?;
            self.received += u64::from(header.link_type.is_sequenced());
            taken += header.frame_bytes();
        }
        self.incoming.drain(..taken);
        if self.received > before {
            let mut ack = Header::new(LinkType::Ack, ConnectionId::from_bits(0), 8).encode().to_vec();
            ack.extend(self.received.to_be_bytes());
            self.stream.write_all(&ack)?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut arg = |name: &str| args.next().with_context(|| format!("missing argument: {name}"));
    let address: Address = arg("address")?.parse()?;
    let messages: u64 = arg("messages")?.parse()?;
    let burst: u64 = arg("burst")?.parse()?;
    let connections: u32 = arg("connections").map_or(Ok(1_000), |text| text.parse())?;

    let mut link = connect(&address)?;
    let opening = Instant::now();
    for first in (0..connections).step_by(1_000) {
        let slots = first..(first + 1_000).min(connections);
        let expected = slots.len();
        link.stream.write_all(&slots.flat_map(open).collect::<Vec<u8>>())?;
        let mut accepted = 0;
        while accepted < expected {
            link.read(|header, _| {
                accepted += usize::from(header.link_type == LinkType::Accept);
                Ok(())
            })?;
        }
    }
    println!("{connections} connections opened in {:.2} s", opening.elapsed().as_secs_f64());

    let start = Instant::now();
    let (mut sent, mut answered, mut acknowledged) = (0u64, 0u64, 0u64);
    let mut out = Vec::new();
    while answered < messages {
        out.clear();
        let until = (sent + burst).min(messages);
        for number in sent..until {
            message(number, connections, &mut out);
        }
        sent = until;
        link.stream.write_all(&out)?;
        while answered < sent {
            link.read(|header, payload| {
                match header.link_type {
                    LinkType::Data => {
                        let number = payload.get(4..12).context("a reply that no echo sends")?;
                        let number = u64::from_be_bytes(number.try_into().expect("8 bytes"));
                        ensure!(number == answered, "reply {number} instead of {answered}");
                        ensure!(header.connection == connection(number, connections), "misdelivered");
                        answered += 1;
                    }
                    LinkType::Ack => acknowledged += 1,
                    other => bail!("unexpected {other:?}"),
                }
                Ok(())
            })?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{messages} messages echoed in {seconds:.2} s: {:.0}/s, {acknowledged} acknowledgements",
        messages as f64 / seconds
    );
    Ok(())
}

fn connect(address: &Address) -> anyhow::Result<Link> {
    let stream: Box<dyn Stream> = match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path)?),
    };
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)?;
    let hello = LinkHello {
        shard: 0,
        shards: 1,
        gateway: InstanceId(instance),
        nonce: instance,
        expected_worker: InstanceId::NONE,
        received_position: 0,
        window_bytes: 64 * 1024 * 1024,
        frame_bytes_max: FRAME_BYTES_MAX,
        capabilities: 0,
        link_failover_ms: 10_000,
        link_keepalive_ms: 10_000,
        idle_timeout_ms: 150_000,
        messages_per_s_max: 0,
    };
    let mut out = Vec::new();
    encode_frame(LinkType::LinkHello, &hello.encode_payload(), &mut out);
    let mut link = Link { stream, incoming: Vec::new(), received: 0 };
    link.stream.write_all(&out)?;
    let mut welcomed = false;
    while !welcomed {
        link.read(|header, _| {
            ensure!(header.link_type == LinkType::LinkWelcome, "refused: {header:?}");
            welcomed = true;
            Ok(())
        })?;
    }
    out.clear();
    encode_frame(LinkType::LinkProof, &LinkProof { proof: None }.encode_payload(), &mut out);
    link.stream.write_all(&out)?;
    Ok(link)
}

fn connection(number: u64, connections: u32) -> ConnectionId {
    ConnectionId::new(0, (number % u64::from(connections)) as u32, 1)
}

fn open(slot: u32) -> Vec<u8> {
    let key = slot.to_be_bytes();
    let open = Open::edge(roost_protocol::hash::routing_hash(&key), None, &key, b"");
    let mut payload = Vec::new();
    open.encode_payload(&mut payload);
    let header = Header::new(LinkType::Open, ConnectionId::new(0, slot, 1), payload.len() as u32);
    [&header.encode()[..], &payload].concat()
}

fn message(number: u64, connections: u32, out: &mut Vec<u8>) {
    let payload_bytes = (edge::HEADER_BYTES + PAYLOAD_BYTES) as u32;
    out.extend(Header::new(LinkType::Data, connection(number, connections), payload_bytes).encode());
    let mut body = [0; PAYLOAD_BYTES];
    body[..8].copy_from_slice(&number.to_be_bytes());
    edge::encode_frame(edge::FrameType::Message, &body, out);
}
