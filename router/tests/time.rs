//! Ticks and timers of a running worker.

mod support;

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use roost_protocol::SessionRef;
use roost_router::{Client, Context, Handler, Opened, WorkerConfig};
use support::{Link, PATIENCE, peer::Peer, start};

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Tick(u64),
    Timer(u64, u64),
    Message(Vec<u8>),
}

/// Tells what happens, and when by the worker's clock.
struct Teller {
    tick_ms: u64,
    to: Sender<Event>,
}

impl Teller {
    fn new(tick_ms: u64) -> (Self, Receiver<Event>) {
        let (to, events) = channel();
        (Self { tick_ms, to }, events)
    }
}

impl Handler for Teller {
    fn tick_ms(&self) -> u64 {
        self.tick_ms
    }
    fn on_tick(&mut self, ctx: &mut Context<'_>) {
        let _ = self.to.send(Event::Tick(ctx.now_ms()));
    }
    fn on_timer(&mut self, ctx: &mut Context<'_>, token: u64) {
        let _ = self.to.send(Event::Timer(ctx.now_ms(), token));
        ctx.broadcast(&token.to_be_bytes(), false);
    }
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, _: Opened<'_>) {
        ctx.accept(client, SessionRef(1));
    }
    fn on_message(&mut self, _: &mut Context<'_>, _: Client, payload: &[u8], _: bool) {
        let _ = self.to.send(Event::Message(payload.to_vec()));
    }
}

#[test]
fn an_idle_worker_ticks() {
    let (handler, events) = Teller::new(20);
    let worker = start(WorkerConfig { keepalive_ms: 0, ..WorkerConfig::default() }, handler);
    let ticks: Vec<u64> = (0..10)
        .map(|_| match events.recv_timeout(PATIENCE) {
            Ok(Event::Tick(at_ms)) => at_ms,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(ticks[0] >= 20 && ticks.windows(2).all(|pair| pair[1] - pair[0] >= 20), "{ticks:?}");
    worker.stop();
}

#[test]
fn a_timer_wakes_an_idle_worker_and_sends() {
    let (handler, events) = Teller::new(0);
    let worker = start(WorkerConfig { keepalive_ms: 0, ..WorkerConfig::default() }, handler);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    link.peer.open(link.peer.id(1), b"alice");
    link.run_until("alice is connected", |peer| peer.inbox.len() == 1 && peer.unacknowledged() == 0);
    // The later one first: the earlier one must cut the sleep short.
    let begun = Instant::now();
    let far = worker.push.call(|ctx| ctx.after(3_600_000, 1).unwrap()).unwrap().wait().unwrap();
    let set_ms = worker.push.call(|ctx| (ctx.now_ms(), ctx.after(50, 2).unwrap()).0).unwrap().wait().unwrap();
    link.run_until("it has sent", |peer| peer.inbox.len() == 2);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert_eq!(link.peer.inbox[1].payload[4..], 2u64.to_be_bytes());
    match events.recv_timeout(PATIENCE) {
        Ok(Event::Timer(at_ms, 2)) => assert!(at_ms >= set_ms + 50),
        other => panic!("{other:?}"),
    }
    assert!(worker.push.call(move |ctx| ctx.cancel(far)).unwrap().wait().unwrap());
    worker.stop();
}

/// What happens to timers while the worker's thread does not run. A pause is left out by the clock. One right behind
/// another counts, since a worker that is always late must see time go on: then all timers are due at once.
#[test]
fn after_a_pause_links_are_read_before_timers_run() {
    let (handler, events) = Teller::new(0);
    let worker = start(WorkerConfig::default(), handler);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    let id = link.peer.id(1);
    link.peer.open(id, b"alice");
    link.run_until("alice is connected", |peer| peer.inbox.len() == 1 && peer.unacknowledged() == 0);
    for pause in 0..2u64 {
        if pause == 1 {
            worker.push.post(|_| std::thread::sleep(Duration::from_millis(1_000))).unwrap();
        }
        let (begun, has_begun) = channel();
        worker
            .push
            .post(move |ctx| {
                for token in 0..100 {
                    ctx.after(1 + token, pause * 100 + token).unwrap();
                }
                begun.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(1_000));
            })
            .unwrap();
        has_begun.recv_timeout(PATIENCE).unwrap();
        link.peer.message(id, &[pause as u8], false);
        link.turn();
        link.run_until("it has been read", |peer| peer.unacknowledged() == 0);
        assert_eq!(events.recv_timeout(PATIENCE), Ok(Event::Message(vec![pause as u8])), "it comes first");
        for token in 0..100 {
            match events.recv_timeout(PATIENCE) {
                Ok(Event::Timer(_, found)) => assert_eq!(found, pause * 100 + token),
                other => panic!("{other:?}"),
            }
        }
    }
    worker.stop();
}
