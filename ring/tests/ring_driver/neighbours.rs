//! Closing some connections of a ring while others of it stay parked: where kernels differ.

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use roost_ring::{
    Features,
    op::{Driver, Op, Sock, errno},
};
use rustix::event::epoll;

use super::{
    bank::{at_size, park},
    figures,
    rig::{LIMIT, Rig, recv},
};

const CLIENTS: u32 = 1500;
/// Every third client is closed: 500 of them, each between two neighbours that stay.
const STEP: usize = 3;

/// How long a peer may wait for its end. A second is the requirement, which `scripts/kernel-matrix`
/// sets by `ROOST_CLOSE_MS_MAX`; without it there is room for machines that are shared.
fn end_max() -> Duration {
    let ms = env::var("ROOST_CLOSE_MS_MAX").map_or(10_000, |text| text.parse().expect("milliseconds"));
    Duration::from_millis(ms)
}

/// Reads each stream to its end on a thread of its own, and sends when each of them came to it.
fn watch(mut streams: Vec<TcpStream>) -> mpsc::Receiver<Instant> {
    let (send, ends) = mpsc::channel();
    thread::spawn(move || {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        for (index, stream) in streams.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, stream.as_fd(), data, epoll::EventFlags::IN).expect("added");
        }
        let mut events = Vec::with_capacity(64);
        for _ in 0..streams.len() {
            if events.is_empty() {
                epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).expect("events");
            }
            let event: epoll::Event = events.pop().expect("one at least");
            let stream = &mut streams[event.data.u64() as usize];
            assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
            epoll::delete(&epoll, stream.as_fd()).expect("deleted");
            send.send(Instant::now()).expect("somebody listens");
        }
    });
    ends
}

#[test]
fn peers_see_the_end_at_once_with_a_thousand_parked_neighbours() {
    at_size(CLIENTS, |setup| {
        let mut rig = Rig::new(setup);
        let (streams, polls) = park(&mut rig, CLIENTS);
        let closed: Vec<usize> = (0..CLIENTS as usize).step_by(STEP).collect();
        let (mut neighbours, mut leavers) = (Vec::new(), Vec::new());
        for (slot, stream) in streams.into_iter().enumerate() {
            match slot % STEP {
                0 => leavers.push(stream),
                _ => neighbours.push((slot, stream)),
            }
        }
        let peers = leavers.len();
        let ends = watch(leavers);

        let start = Instant::now();
        let cancels: Vec<_> = closed
            .iter()
            .map(|&slot| {
                (slot, rig.start(Op::Cancel { sock: Sock::Client(slot as u32), target: polls[slot] }))
            })
            .collect();
        for (slot, cancel) in cancels {
            assert_eq!(rig.finish(cancel), 0);
            assert_eq!(rig.finish(polls[slot]), -errno::ECANCELED);
        }
        let closes: Vec<_> =
            closed.iter().map(|&slot| rig.start(Op::Close { sock: Sock::Client(slot as u32) })).collect();
        for close in closes {
            assert_eq!(rig.finish(close), 0);
        }
        // From the first cancel on, for each peer.
        let mut waits: Vec<Duration> = (0..peers)
            .map(|seen| {
                let end = ends.recv_timeout(LIMIT);
                end.unwrap_or_else(|_| panic!("only {seen} of {peers} peers saw the end")) - start
            })
            .collect();
        waits.sort();
        let (median, slowest) = (waits[peers / 2], waits[peers - 1]);
        let features = Features::detect(setup.features).expect("io_uring");
        figures::figure(format_args!(
            "close tier={} descriptors={} ring_slots={} neighbours={} closed={peers} median_ms={:.1} \
             slowest_ms={:.1}",
            setup.features,
            figures::descriptors(&features),
            rig.driver.slots_per_ring(),
            neighbours.len(),
            median.as_secs_f64() * 1e3,
            slowest.as_secs_f64() * 1e3,
        ));
        assert!(slowest <= end_max(), "the slowest of {peers} peers saw the end after {slowest:?}");

        // The neighbours are unharmed.
        assert!(rig.done.is_empty());
        for (slot, stream) in &mut neighbours {
            stream.write_all(b"x").expect("sent");
            assert!(rig.finish(polls[*slot]) > 0, "slot {slot}");
        }
        // And the freed slots take new clients.
        for &slot in closed.iter().take(50) {
            let mut client = rig.client(slot as u32);
            client.write_all(b"new").expect("sent");
            assert_eq!(rig.run(recv(Sock::Client(slot as u32), 0, true)), 3);
        }
    });
}
