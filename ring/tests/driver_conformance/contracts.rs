//! What the core and the shard loop rely on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use roost_ring::op::{Op, Sock, Wait, errno, poll_bits};

use crate::rig::{
    BLOCK_BYTES, BLOCKS, Rig, SLOTS, SLOTS_PER_RING, Seen, poll_end, poll_in, poll_out, recv, send,
};

const A: Sock = Sock::Client(0);
const EBADF: i32 = 9;

pub(crate) fn accepts_go_to_the_chosen_slots(rig: &mut Rig<'_>) {
    let accepts = [5, 2].map(|slot| rig.start(Op::Accept { slot, listener: 0, expected: false }));
    let peers = [rig.peers.connect(), rig.peers.connect()];
    for accept in accepts {
        assert_eq!(rig.finish(accept), 0);
        assert!(rig.from(accept).is_some());
    }
    for (peer, text) in peers.into_iter().zip([b"1", b"2"]) {
        rig.peers.write(peer, text);
    }
    let mut texts = [5, 2].map(|slot| {
        rig.await_input(Sock::Client(slot));
        let len = rig.run(recv(Sock::Client(slot), slot, false));
        rig.bytes(slot, len)
    });
    // Who comes first is not promised, but each is somewhere.
    texts.sort();
    assert_eq!(texts, [b"1".to_vec(), b"2".to_vec()]);
}

pub(crate) fn clients_that_wait_are_counted(rig: &mut Rig<'_>) {
    const COUNT: Op = Op::CountWaiting { listener: 0 };
    assert_eq!(rig.run(COUNT), 0);
    let _peers = [rig.peers.connect(), rig.peers.connect(), rig.peers.connect()];
    for slot in 0..3u32 {
        assert_eq!(rig.run(COUNT), 3 - slot.cast_signed());
        let expected = slot % 2 == 0;
        assert_eq!(rig.run(Op::Accept { slot, listener: 0, expected }), 0);
    }
    assert_eq!(rig.run(COUNT), 0);
}

pub(crate) fn a_cancelled_accept_leaves_its_slot_free(rig: &mut Rig<'_>) {
    let accept = rig.start(Op::Accept { slot: 0, listener: 0, expected: false });
    rig.settle();
    assert!(!rig.is_done(accept));
    let cancelled = rig.run(Op::Cancel { sock: A, target: accept });
    assert!(is_cancel_result(cancelled), "{cancelled}");
    assert_eq!(rig.finish(accept), -errno::ECANCELED);
    // Nobody is there, and the slot can be used.
    assert_eq!(rig.run(poll_in(A)), -EBADF);
    let peer = rig.client(0);
    rig.peers.write(peer, b"x");
    assert_eq!(rig.await_input(A), poll_bits::IN);
}

pub(crate) fn an_accept_into_an_occupied_slot_replaces_the_socket_silently(rig: &mut Rig<'_>) {
    if !rig.peers.is_direct() {
        // A plain descriptor has no slot in the kernel that could be replaced.
        return;
    }
    let old = rig.client(0);
    let new = rig.client(0);
    rig.peers.forgive();
    rig.expect_end(old);
    rig.peers.write(new, b"new");
    rig.receive(A, b"new");
}

pub(crate) fn nothing_there_is_said_at_once(rig: &mut Rig<'_>) {
    rig.client(0);
    assert_eq!(rig.run(recv(A, 0, false)), -errno::EAGAIN);
    let waiting = rig.start(recv(A, 0, true));
    rig.settle();
    assert!(!rig.is_done(waiting), "a receive that may wait does");
}

pub(crate) fn a_full_socket_takes_a_part_then_nothing_then_more(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.driver.block_mut(Rig::block(1)).fill(7);
    let mut taken = 0;
    let mut parts = 0;
    loop {
        let result = rig.run(send(A, 1, BLOCK_BYTES, false));
        if result == -errno::EAGAIN {
            break;
        }
        let part = u32::try_from(result).expect("bytes or EAGAIN");
        assert!(part > 0);
        parts += u32::from(part < BLOCK_BYTES);
        taken += part;
        assert!(taken < BLOCKS * BLOCK_BYTES, "a socket buffers without end");
    }
    assert!(taken > 0);
    // TCP may cut at its own page or segment sizes, but never takes more than it says.
    eprintln!("{taken} bytes taken, {parts} sends taken in part");
    let room = rig.start(poll_out(A));
    rig.settle();
    assert!(!rig.is_done(room), "a full socket is not writable");
    let mut read = Vec::new();
    rig.until("everything at the peer", |rig| {
        rig.peers.read(peer, &mut read);
        read.len() == taken as usize
    });
    assert!(read.iter().all(|&byte| byte == 7));
    assert_eq!(rig.finish(room) & poll_bits::OUT, poll_bits::OUT);
    assert!(rig.run(send(A, 1, BLOCK_BYTES, false)) > 0);
}

pub(crate) fn a_poll_reports_bytes_that_are_there_already(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.peers.write(peer, b"early");
    rig.settle();
    assert_eq!(rig.await_input(A), poll_bits::IN);
    assert_eq!(rig.await_input(A), poll_bits::IN, "one-shot, and level-triggered at arming");
    rig.receive(A, b"early");
    let parked = rig.start(poll_in(A));
    rig.settle();
    assert!(!rig.is_done(parked));
    rig.peers.write(peer, b"late");
    assert_eq!(rig.finish(parked), poll_bits::IN);
}

pub(crate) fn the_peers_end_is_reported_by_poll_and_receive(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.peers.write(peer, b"last words");
    rig.peers.shutdown(peer);
    rig.until("the end", |rig| rig.await_input(A) & poll_bits::RDHUP != 0);
    // Bytes come before the end.
    rig.receive(A, b"last words");
    assert_eq!(rig.run(recv(A, 0, false)), 0);
    assert_eq!(rig.run(recv(A, 0, true)), 0, "the end stays");
    // The other direction still works.
    rig.fill(1, b"reply");
    assert_eq!(rig.run(send(A, 1, 5, false)), 5);
    rig.expect_bytes(peer, b"reply");
}

pub(crate) fn an_end_is_awaited_past_unread_bytes(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.peers.write(peer, b"unread");
    rig.settle();
    let watch = rig.start(poll_end(A));
    rig.settle();
    assert!(!rig.is_done(watch), "bytes are no end");
    rig.peers.shutdown(peer);
    assert_eq!(rig.finish(watch) & (poll_bits::RDHUP | poll_bits::ERR), poll_bits::RDHUP);
    let other = rig.client(1);
    rig.peers.write(other, b"unread");
    let watch = rig.start(poll_end(Sock::Client(1)));
    rig.settle();
    rig.peers.reset(other);
    assert_eq!(rig.finish(watch) & poll_bits::ERR, poll_bits::ERR);
    // Called off, it says so, as any poll.
    let _stays = rig.client(2);
    let watch = rig.start(poll_end(Sock::Client(2)));
    rig.settle();
    let cancelled = rig.run(Op::Cancel { sock: Sock::Client(2), target: watch });
    assert!(is_cancel_result(cancelled), "{cancelled}");
    assert_eq!(rig.finish(watch), -errno::ECANCELED);
}

pub(crate) fn a_reset_is_reported_by_poll_receive_and_send(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.peers.reset(peer);
    let bits = rig.await_input(A);
    assert_eq!(bits & poll_bits::ERR, poll_bits::ERR, "{bits:#x}");
    assert_eq!(bits & poll_bits::HUP, poll_bits::HUP, "{bits:#x}");
    assert_eq!(rig.run(recv(A, 0, false)), -errno::ECONNRESET);
    // The error is told once; then the socket is just dead.
    assert_eq!(rig.run(recv(A, 0, false)), 0);
    assert_eq!(rig.run(send(A, 1, 1, false)), -errno::EPIPE);
    assert_eq!(rig.await_input(A) & poll_bits::HUP, poll_bits::HUP);
}

pub(crate) fn an_armed_poll_ends_by_itself_when_the_peer_resets(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    let parked = rig.start(poll_in(A));
    rig.settle();
    assert!(!rig.is_done(parked));
    rig.peers.reset(peer);
    let bits = rig.finish(parked);
    assert!(bits & (poll_bits::ERR | poll_bits::HUP) != 0, "{bits:#x}");
}

pub(crate) fn a_shutdown_ends_one_direction(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    assert_eq!(rig.run(Op::Shutdown { sock: A }), 0);
    assert_eq!(rig.expect_end(peer), Seen::End);
    rig.peers.write(peer, b"still here");
    rig.receive(A, b"still here");
    assert_eq!(rig.run(send(A, 1, 1, false)), -errno::EPIPE);
}

pub(crate) fn what_was_sent_before_a_close_arrives(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.fill(1, b"goodbye");
    assert_eq!(rig.run(send(A, 1, 7, false)), 7);
    assert_eq!(rig.run(Op::Close { sock: A }), 0);
    rig.expect_bytes(peer, b"goodbye");
    assert_eq!(rig.expect_end(peer), Seen::End);
}

pub(crate) fn a_close_with_unread_input_resets(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.peers.write(peer, b"unread");
    rig.await_input(A);
    assert_eq!(rig.run(Op::Close { sock: A }), 0);
    assert_eq!(rig.expect_end(peer), Seen::Reset);
}

pub(crate) fn data_for_a_closed_socket_breaks_the_connection(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    assert_eq!(rig.run(Op::Close { sock: A }), 0);
    assert_eq!(rig.expect_end(peer), Seen::End);
    // The first write goes out and is answered by a reset.
    rig.until("the reset", |rig| !rig.peers.write(peer, b"too late"));
}

pub(crate) fn close_while_armed_sends_no_end_until_the_op_ends(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    let parked = rig.start(poll_in(A));
    rig.settle();
    assert_eq!(rig.run(Op::Close { sock: A }), 0);
    rig.peers.forgive();
    rig.expect_nothing(peer);
    // The request still holds the socket, and ends when something happens on it.
    rig.peers.write(peer, b"x");
    assert_eq!(rig.finish(parked) & poll_bits::IN, poll_bits::IN);
    // With the byte unread, that is a reset.
    assert_eq!(rig.expect_end(peer), Seen::Reset);
}

pub(crate) fn a_close_does_not_wait_for_neighbours_unless_the_kernel_is_old(rig: &mut Rig<'_>) {
    let (neighbour, peer) = (rig.client(0), rig.client(1));
    let parked = rig.start(poll_in(A));
    rig.settle();
    assert_eq!(rig.run(Op::Close { sock: Sock::Client(1) }), 0);
    if rig.peers.releases_in_order() {
        rig.expect_nothing(peer);
        rig.peers.write(neighbour, b"x");
        assert_eq!(rig.finish(parked), poll_bits::IN);
    }
    assert_eq!(rig.expect_end(peer), Seen::End);
    assert!(rig.peers.releases_in_order() || !rig.is_done(parked));
}

pub(crate) fn a_cancel_that_races_success_loses_nothing(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    let mut outcomes = [0; 2];
    for round in 0..200 {
        let parked = rig.start(poll_in(A));
        rig.turn(Wait::No);
        // Sometimes the byte is faster, sometimes the cancel.
        rig.peers.write(peer, b"x");
        if round % 2 == 0 {
            rig.turn(Wait::AtMost(Duration::from_micros(200)));
        }
        let cancel = rig.start(Op::Cancel { sock: A, target: parked });
        let (result, cancelled) = (rig.finish(parked), rig.finish(cancel));
        assert!(is_cancel_result(cancelled), "{cancelled}");
        assert!(result == -errno::ECANCELED || result & poll_bits::IN != 0, "{result}");
        assert!(cancelled != 0 || result == -errno::ECANCELED, "a cancel that worked has a cancelled target");
        outcomes[usize::from(result == -errno::ECANCELED)] += 1;
        // Whoever won, the byte is there.
        rig.await_input(A);
        assert_eq!(rig.run(recv(A, 0, false)), 1);
    }
    eprintln!("[success, cancelled] = {outcomes:?}");
    assert!(outcomes[0] > 0, "the byte never won");
}

pub(crate) fn a_cancel_of_nothing_says_so(rig: &mut Rig<'_>) {
    rig.client(0);
    let gone = rig.start(recv(A, 0, false));
    rig.finish(gone);
    assert_eq!(rig.run(Op::Cancel { sock: A, target: gone }), -errno::ENOENT);
}

pub(crate) fn a_cancel_hits_its_target_alone(rig: &mut Rig<'_>) {
    let (first, second) = (rig.client(0), rig.client(1));
    let parked = [A, Sock::Client(1)].map(|sock| rig.start(poll_in(sock)));
    rig.settle();
    let cancelled = rig.run(Op::Cancel { sock: A, target: parked[0] });
    assert!(is_cancel_result(cancelled), "{cancelled}");
    assert_eq!(rig.finish(parked[0]), -errno::ECANCELED);
    rig.settle();
    assert!(!rig.is_done(parked[1]));
    rig.peers.write(second, b"x");
    assert_eq!(rig.finish(parked[1]), poll_bits::IN);
    rig.peers.write(first, b"x");
    assert_eq!(rig.await_input(A), poll_bits::IN);
}

pub(crate) fn ops_of_one_socket_take_effect_in_order(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    rig.fill(1, b"before the end");
    rig.peers.write(peer, b"hello");
    rig.await_input(A);
    // One turn: a receive, a send, and the end of the sending side behind them.
    let received = rig.start(recv(A, 0, false));
    let sent = rig.start(send(A, 1, 14, false));
    let shut = rig.start(Op::Shutdown { sock: A });
    assert!((1..=5).contains(&rig.finish(received)));
    assert_eq!((rig.finish(sent), rig.finish(shut)), (14, 0));
    rig.expect_bytes(peer, b"before the end");
    assert_eq!(rig.expect_end(peer), Seen::End);
}

pub(crate) fn ops_on_an_empty_slot_fail_without_harm(rig: &mut Rig<'_>) {
    assert_eq!(rig.run(poll_in(A)), -EBADF);
    assert_eq!(rig.run(recv(A, 0, false)), -EBADF);
    assert_eq!(rig.run(send(A, 1, 1, false)), -EBADF);
    assert_eq!(rig.run(Op::Shutdown { sock: A }), -EBADF);
    assert_eq!(rig.run(Op::Close { sock: A }), -EBADF);
    rig.client(0);
}

pub(crate) fn a_block_in_the_kernel_is_out_of_reach(rig: &mut Rig<'_>) {
    let peer = rig.client(0);
    let waiting = rig.start(recv(A, 3, true));
    let driver = &mut *rig.driver;
    let reading = catch_unwind(AssertUnwindSafe(|| driver.block(Rig::block(3)).len()));
    assert!(reading.is_err(), "a block that is being received into can be read");
    let driver = &mut *rig.driver;
    let writing = catch_unwind(AssertUnwindSafe(|| driver.write(Rig::block(3), 0, b"x")));
    assert!(writing.is_err(), "a block that is being received into can be written");
    rig.peers.write(peer, b"m");
    let len = rig.finish(waiting);
    assert_eq!(rig.bytes(3, len), b"m");
}

pub(crate) fn links_connect_carry_bytes_and_end(rig: &mut Rig<'_>) {
    let link = Sock::Link(1);
    let address = rig.peers.link_address();
    rig.driver.set_link_address(1, address);
    assert_eq!(rig.run(Op::Connect { link: 1 }), 0);
    let mut worker = None;
    rig.until("the worker's end", |rig| {
        worker = rig.peers.take_link();
        worker.is_some()
    });
    let worker = worker.expect("just seen");
    rig.fill(1, b"to the worker");
    assert_eq!(rig.run(send(link, 1, 13, true)), 13);
    rig.expect_bytes(worker, b"to the worker");
    let waiting = rig.start(recv(link, 0, true));
    rig.settle();
    assert!(!rig.is_done(waiting));
    rig.peers.write(worker, b"!");
    let len = rig.finish(waiting);
    assert_eq!(rig.bytes(0, len), b"!");
    rig.peers.write(worker, b"to the gateway");
    rig.receive(link, b"to the gateway");
    rig.peers.close(worker);
    assert_eq!(rig.run(recv(link, 0, true)), 0);
    assert_eq!(rig.run(Op::Close { sock: link }), 0);
    // The link can be dialled again.
    assert_eq!(rig.run(Op::Connect { link: 1 }), 0);
}

pub(crate) fn a_refused_connect_says_so(rig: &mut Rig<'_>) {
    assert_eq!(rig.run(Op::Connect { link: 0 }), -errno::EDESTADDRREQ, "it has no address yet");
    rig.run(Op::Close { sock: Sock::Link(0) });
    let address = rig.peers.dead_address();
    rig.driver.set_link_address(0, address);
    assert_eq!(rig.run(Op::Connect { link: 0 }), -errno::ECONNREFUSED);
    // A close after a failed connect does no harm, whatever it says.
    rig.run(Op::Close { sock: Sock::Link(0) });
    let address = rig.peers.link_address();
    rig.driver.set_link_address(0, address);
    assert_eq!(rig.run(Op::Connect { link: 0 }), 0);
}

pub(crate) fn a_connect_to_nowhere_can_be_cancelled(rig: &mut Rig<'_>) {
    let Some(address) = rig.peers.silent_address() else {
        eprintln!("skipped: no address here stays silent");
        return;
    };
    rig.driver.set_link_address(0, address);
    let connect = rig.start(Op::Connect { link: 0 });
    rig.settle();
    assert!(!rig.is_done(connect));
    let cancelled = rig.run(Op::Cancel { sock: Sock::Link(0), target: connect });
    assert!(is_cancel_result(cancelled), "{cancelled}");
    let result = rig.finish(connect);
    assert!(result < 0, "{result}");
    rig.run(Op::Close { sock: Sock::Link(0) });
}

pub(crate) fn the_waker_ends_a_wait_and_counts_once(rig: &mut Rig<'_>) {
    let waker = rig.driver.waker();
    std::thread::spawn(move || {
        waker.wake();
        waker.wake();
    })
    .join()
    .expect("the thread does not panic");
    rig.until("the wake", |rig| rig.wakes > 0);
    rig.settle();
    assert!(rig.wakes <= 2);
    let (seen, waker) = (rig.wakes, rig.driver.waker());
    waker.wake();
    rig.until("another wake", |rig| rig.wakes > seen);
}

pub(crate) fn slots_are_started_ring_by_ring(rig: &mut Rig<'_>) {
    assert_eq!(rig.driver.slots_per_ring(), SLOTS_PER_RING);
    assert_eq!(rig.driver.slots_started(), SLOTS_PER_RING);
    let driver = &mut *rig.driver;
    let beyond = Op::Accept { slot: SLOTS_PER_RING, listener: 0, expected: false };
    let token = roost_ring::op::Token::new(9, 0, 0);
    let early = catch_unwind(AssertUnwindSafe(|| driver.submit(token, beyond)));
    assert!(early.is_err(), "a slot that was not started can be used");
    rig.driver.start_slots().expect("a further ring");
    assert_eq!(rig.driver.slots_started(), SLOTS);
    rig.driver.start_slots().expect("nothing to do");
    assert_eq!(rig.driver.slots_started(), SLOTS);
    let peer = rig.client(SLOTS - 1);
    rig.peers.write(peer, b"x");
    assert_eq!(rig.await_input(Sock::Client(SLOTS - 1)), poll_bits::IN);
}

fn is_cancel_result(result: i32) -> bool {
    matches!(-result, 0 | errno::ENOENT | errno::EALREADY)
}
