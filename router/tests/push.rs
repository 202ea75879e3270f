//! What comes into a running worker from other threads.

mod support;

use roost_router::{Listener, PushError, SendError, Stat, Worker, WorkerConfig, handlers, shutdown};

use support::{Link, PATIENCE, peer::Peer, start, wait_until};

/// A worker, and a link over which alice is connected.
fn with_alice(config: WorkerConfig) -> (support::Running, Link) {
    let worker = start(config, handlers::Route);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    link.peer.open(link.peer.id(1), b"alice");
    link.run_until("alice is connected", |peer| peer.inbox.len() == 1 && peer.unacknowledged() == 0);
    (worker, link)
}

#[test]
fn a_push_to_an_idle_client_wakes_the_worker() {
    let (worker, mut link) = with_alice(WorkerConfig { keepalive_ms: 0, ..WorkerConfig::default() });
    let id = link.peer.id(1);
    for number in 1..=20 {
        let from_outside = worker.push.clone();
        std::thread::spawn(move || from_outside.send_to_key("alice", "mail").unwrap());
        link.run_until("the mail is there", |peer| peer.messages(id).len() == number);
    }
    let answer = worker.push.call(|ctx| ctx.clients_of(b"alice").collect::<Vec<_>>()).unwrap();
    let clients = answer.wait().unwrap();
    assert_eq!(clients.iter().map(|client| client.connection).collect::<Vec<_>>(), [id]);
    worker.push.send(clients[0], "to the connection").unwrap();
    worker.push.multicast(clients, "to many").unwrap();
    worker.push.broadcast("to all", false).unwrap();
    link.run_until("all kinds are there", |peer| peer.inbox.len() == 24);
    worker.stop();
}

#[test]
fn what_is_pushed_while_the_link_is_cut_arrives_once_and_in_order() {
    let (worker, mut link) = with_alice(WorkerConfig::default());
    let id = link.peer.id(1);
    let expected = link.push_over_cuts(20, |body| worker.push.send_to_key("alice", body).unwrap());
    link.run_until("all is there", |peer| peer.messages(id).len() >= expected.len());
    assert_eq!(link.peer.messages(id), expected);
    assert!(link.peer.resumes >= 20 && link.peer.sessions == 1, "{} resumes", link.peer.resumes);
    worker.stop();
}

#[test]
fn a_slow_gateway_fills_the_queue_and_nothing_is_lost_of_what_was_taken() {
    let config = WorkerConfig { pending_bytes_max: 10_000, pushes_max: 100, ..WorkerConfig::default() };
    let worker = start(config, handlers::Route);
    let mut link = Link::new(Peer::new(1, 0).with_window(20_000), &worker.addresses[0]);
    link.up();
    let id = link.peer.id(1);
    link.peer.open(id, b"alice");
    link.run_until("alice is connected", |peer| peer.inbox.len() == 1 && peer.unacknowledged() == 0);
    let (mut taken, mut refused) = (0u32, 0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while taken < 2_000 {
        match worker.push.send_to_key("alice", vec![7; 1_000]) {
            Ok(()) => taken += 1,
            Err(PushError::Full) => {
                refused += 1;
                link.turn();
            }
            Err(PushError::Closed) => panic!("the worker has ended"),
        }
        assert!(std::time::Instant::now() < deadline, "{taken} taken, {refused} refused");
    }
    link.run_until("all is there", |peer| peer.messages(id).len() == 2_000);
    assert!(refused > 0, "the queue was never full");
    assert_eq!(worker.stats.get(Stat::SendsRefused), 0);
    worker.stop();
}

#[test]
fn pushes_wait_for_the_worker_to_begin_and_end_with_it() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let worker = Worker::new(WorkerConfig { pushes_max: 2, ..WorkerConfig::default() });
    let push = worker.handle();
    let first = push.call(|ctx| ctx.send_to_key(b"alice", b"early")).unwrap();
    push.post(|_| ()).unwrap();
    assert_eq!(push.post(|_| ()), Err(PushError::Full));
    let (stop, stopped) = shutdown();
    let thread = std::thread::spawn(move || worker.run(handlers::Route, vec![listener], stopped));
    assert_eq!(first.wait(), Ok(Err(SendError::Closed)));
    stop.stop();
    thread.join().unwrap().unwrap();
    wait_until("the worker has ended", || push.post(|_| ()) == Err(PushError::Closed));
    let never = Worker::new(WorkerConfig::default()).handle();
    assert_eq!(never.post(|_| ()), Err(PushError::Closed), "a worker that will never run");
}
