//! Ticks and timers, by a clock that the tests have in hand.

use super::*;

/// Notes when it is called, and sets what it is told.
#[derive(Clone, Default)]
struct Times {
    tick_ms: u64,
    ticks: Rc<RefCell<Vec<u64>>>,
    timers: Rc<RefCell<Vec<(u64, u64)>>>,
    /// Sets the next one from within a timer.
    repeat_ms: Option<u64>,
}

impl Handler for Times {
    fn tick_ms(&self) -> u64 {
        self.tick_ms
    }
    fn on_tick(&mut self, ctx: &mut Context<'_>) {
        self.ticks.borrow_mut().push(ctx.now_ms());
    }
    fn on_timer(&mut self, ctx: &mut Context<'_>, token: u64) {
        self.timers.borrow_mut().push((ctx.now_ms(), token));
        if let Some(delay_ms) = self.repeat_ms {
            ctx.after(delay_ms, token + 1).unwrap();
        }
    }
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, _: Opened<'_>) {
        ctx.accept(client, SessionRef(1));
    }
    fn on_message(&mut self, ctx: &mut Context<'_>, _: Client, payload: &[u8], _: bool) {
        ctx.after(u64::from(payload[0]), u64::from(payload[1])).unwrap();
    }
}

impl<H: Handler> Rig<H> {
    /// Time goes on to the next moment that the core asks for, until `until_ms`.
    fn run_time(&mut self, until_ms: u64) {
        while let Some(due_ms) = self.core.next_due_ms().filter(|&due_ms| due_ms <= until_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            while self.core.run_due(self.now_ms) {}
        }
        self.now_ms = until_ms;
    }
}

#[test]
fn without_an_interval_nothing_ticks() {
    let mut rig = Rig::new(WorkerConfig::default(), Times::default());
    assert_eq!(rig.core.next_due_ms(), None);
    assert!(!rig.core.run_due(u64::MAX));
}

#[test]
fn ticks_come_at_the_interval_that_the_handler_states() {
    let handler = Times { tick_ms: 250, ..Times::default() };
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    rig.run_time(1_000);
    assert_eq!(*handler.ticks.borrow(), [250, 500, 750, 1_000]);
    // The worker was busy for a while: one tick, not eight.
    assert!(!rig.core.run_due(3_010));
    assert_eq!(handler.ticks.borrow()[4..], [3_010]);
    assert_eq!(rig.core.next_due_ms(), Some(3_260));
}

#[test]
fn timers_set_by_frames_and_by_pushes_are_due_in_order() {
    let handler = Times::default();
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    peer.open(peer.id(1), b"a");
    rig.now_ms = 100;
    peer.message(peer.id(1), &[50, 1], false);
    peer.message(peer.id(1), &[20, 2], false);
    peer.message(peer.id(1), &[50, 3], false);
    rig.settle(&mut peer, &mut wire);
    rig.core.time_is(110);
    let mut cancelled = None;
    rig.core.push(|ctx| {
        cancelled = Some(ctx.after(5, 4).unwrap());
        ctx.after(0, 5).unwrap();
    });
    assert_eq!(rig.stats.get(Stat::Timers), 5);
    rig.core.push(|ctx| assert!(ctx.cancel(cancelled.unwrap()) && !ctx.cancel(cancelled.unwrap())));
    rig.run_time(1_000);
    assert_eq!(*handler.timers.borrow(), [(111, 5), (120, 2), (150, 1), (150, 3)]);
    assert_eq!(rig.stats.get(Stat::Timers), 0);
}

#[test]
fn timers_that_are_due_together_are_handled_some_at_a_time() {
    let handler = Times::default();
    let mut rig = Rig::new(WorkerConfig { timers_max: 1_000, ..WorkerConfig::default() }, handler.clone());
    rig.core.push(|ctx| {
        assert!((0..1_000).all(|token| ctx.after(10, token).is_ok()));
        assert_eq!(ctx.after(10, 0), Err(TimersFull));
    });
    let mut slices = 1;
    while rig.core.run_due(5_000) {
        slices += 1;
        assert!(handler.timers.borrow().len() <= slices * 256);
    }
    assert_eq!((slices, handler.timers.borrow().len()), (4, 1_000));
    rig.core.push(|ctx| assert!(ctx.after(10, 0).is_ok(), "there is room again"));
}

#[test]
fn a_timer_that_sets_itself_again_lets_time_go_on() {
    let handler = Times { repeat_ms: Some(0), ..Times::default() };
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    rig.core.push(|ctx| {
        ctx.after(1, 0).unwrap();
    });
    assert!(!rig.core.run_due(1), "the next one is not due yet");
    rig.run_time(5);
    assert_eq!(*handler.timers.borrow(), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]);
}

/// Sends to whoever has opened, from a timer.
#[derive(Clone, Default)]
struct Sender(Rc<RefCell<(Option<Client>, Vec<crate::SendError>)>>);

impl Handler for Sender {
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, _: Opened<'_>) {
        ctx.accept(client, SessionRef(1));
        self.0.borrow_mut().0 = Some(client);
        ctx.after(1, 0).unwrap();
    }
    fn on_timer(&mut self, ctx: &mut Context<'_>, _: u64) {
        let client = self.0.borrow().0.unwrap();
        let refused = ctx.send(client, &[7; 1_000]).err();
        self.0.borrow_mut().1.extend(refused);
        ctx.after(1, 0).unwrap();
    }
    fn on_message(&mut self, _: &mut Context<'_>, _: Client, _: &[u8], _: bool) {}
}

#[test]
fn a_timer_waits_for_no_gateway_and_is_told() {
    let config = WorkerConfig { pending_bytes_max: 10_000, ..WorkerConfig::default() };
    let handler = Sender::default();
    let mut rig = Rig::new(config, handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0).with_window(20_000));
    peer.open(peer.id(1), b"a");
    rig.settle(&mut peer, &mut wire);
    peer.withhold_acks = true;
    for now_ms in 1..=100 {
        rig.run_time(now_ms);
        rig.settle(&mut peer, &mut wire);
    }
    let sent = rig.stats.get(Stat::MessagesSent) as usize;
    let refused = std::mem::take(&mut handler.0.borrow_mut().1);
    assert_eq!(sent + refused.len(), 100);
    assert!((25..=35).contains(&sent), "{sent} sent: a window and a queue full");
    assert!(refused.iter().all(|&error| error == crate::SendError::Full(Limit::Queue)));
    peer.withhold_acks = false;
    rig.settle(&mut peer, &mut wire);
    rig.run_time(101);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(peer.messages(peer.id(1)).len(), sent + 1);
}
