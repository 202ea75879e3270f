//! Clients join topics of a worker in this process, and hear what is published, while the link breaks.

use std::thread;

use roost_protocol::{SessionRef, edge::FrameType};
use roost_router::{Client, Closed, Context, Handler, Listener, Opened, Worker, WorkerConfig, shutdown};

use crate::{
    push::Way,
    support::{self, Gateway, frame, wait},
};

/// Joins clients to the topics that they name, and tells each that it has.
struct Rooms;

impl Handler for Rooms {
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        if let Opened::New(opening) = opened {
            ctx.accept(client, SessionRef(opening.routing_hash));
        }
    }
    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, topic: &[u8], _resent: bool) {
        ctx.join(client, topic).unwrap();
        ctx.send(client, b"joined").unwrap();
    }
    fn on_close(&mut self, _: &mut Context<'_>, _: Client, _: Option<SessionRef>, closed: Closed) {
        assert!(matches!(closed, Closed::Ended(_)), "{closed:?}");
    }
}

fn join(client: &mut support::Client, topic: &str) {
    client.send(&frame(FrameType::Message, topic.as_bytes()));
    assert_eq!(client.receive().expect("a message").payload, b"joined");
}

#[test]
fn members_hear_each_publish_once_and_in_order_while_the_link_breaks() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let way = Way::to(listener.address().unwrap().to_string().parse().unwrap());
    let worker = Worker::new(WorkerConfig::default());
    let handle = worker.handle();
    let (stop, stopped) = shutdown();
    let thread = thread::spawn(move || worker.run(Rooms, vec![listener], stopped));
    let gateway = Gateway::start(&["--shards", "1", "--worker", &format!("w={}", way.address)]);
    let mut members: Vec<_> = ["alice", "bob", "carol"].map(|name| gateway.welcome(name)).into();
    members.iter_mut().for_each(|member| join(member, "news"));
    let mut stranger = gateway.welcome("dave");
    join(&mut stranger, "else");
    for number in 0..200u32 {
        if number % 10 == 5 {
            way.cut();
        }
        handle.publish("news", number.to_be_bytes().to_vec()).unwrap();
        if number == 100 {
            // Who leaves is not waited for, nor sent to.
            members.pop().expect("there are three").shut();
            wait("it has left", || {
                (handle.topic_members("news").unwrap().wait().unwrap().len() == 2).then_some(())
            });
        }
        if number % 10 == 9 {
            for member in members.iter_mut().take(2) {
                for expected in number - 9..=number {
                    let received = member.receive().expect("a message");
                    assert_eq!(received.frame_type, FrameType::Message);
                    assert_eq!(received.payload, expected.to_be_bytes());
                }
            }
        }
    }
    // Nothing comes twice, and nothing of another topic.
    assert_eq!(handle.publish("news", "last").unwrap().wait(), Ok(Ok(2)));
    for member in &mut members {
        assert_eq!(member.receive().expect("a message").payload, b"last");
    }
    assert_eq!(handle.publish("else", "for dave").unwrap().wait(), Ok(Ok(1)));
    assert_eq!(stranger.receive().expect("a message").payload, b"for dave");
    wait("the cuts are seen", || (gateway.metric("roost_link_breaks", &[]) >= 10).then_some(()));
    gateway.stop();
    stop.stop();
    thread.join().unwrap().unwrap();
}
