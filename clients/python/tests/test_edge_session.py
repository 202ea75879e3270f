"""The client's pure parts: pauses, rate, heartbeat, states; no sockets and no waiting."""

import random
import unittest

from roosting.edge import address, codec
from roosting.edge.rate import Rate
from roosting.edge.retry import NO_WAY_BACK, Retry
from roosting.edge.session import CONTROL_BYTES_MAX, Session, Silent

WELCOME = {"type": "WELCOME", "heartbeat_interval_ms": 1000, "idle_timeout_ms": 2500, "frame_bytes_max": 65536,
           "messages_per_s_max": 0, "session": 7}


class Always:
    """Randomness that is not."""

    def __init__(self, part):
        self.part = part

    def random(self):
        return self.part

    def randrange(self, stop):
        return min(int(self.part * stop), stop - 1)


def frames(session):
    """What the session wrote, as dicts."""
    decoder = codec.Decoder()
    found = [codec.decode_payload(*whole) for whole in decoder.feed(bytes(session.out))]
    session.out.clear()
    return found


def receive(session, now, *what):
    return list(session.receive(b"".join(map(codec.encode, what)), now))


class RetryTest(unittest.TestCase):
    def test_full_jitter_doubles_from_1_s_to_2_minutes(self):  # E-85
        longest, retry = [], Retry(["a"], Always(0.999999))
        for _ in range(10):
            retry.address()
            longest.append(round(retry.pause_s()))
        self.assertEqual(longest, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120])
        retry = Retry(["a"], Always(0))
        retry.address()
        self.assertEqual(retry.pause_s(), 0)

    def test_attempts_without_end_do_not_overflow(self):
        retry = Retry(["a"], Always(1))
        retry.attempt = 10**9
        self.assertEqual(retry.pause_s(), 120)

    def test_retry_after_is_obeyed_and_not_jittered(self):  # E-84
        for part in (0, 0.5, 0.99):
            retry = Retry(["a"], Always(part))
            retry.address()
            self.assertEqual(retry.pause_s(retry_after_ms=1500), 1.5)

    def test_an_alternative_is_dialled_once(self):  # E-86
        retry = Retry(["a", "b"], Always(0))
        self.assertEqual(retry.address(), "a")
        retry.pause_s(1, "c")
        self.assertEqual(retry.address(), "c")
        retry.pause_s()
        self.assertEqual([retry.address() for _ in range(3)], ["b", "a", "b"])

    def test_clients_begin_anywhere_in_the_list(self):
        rng = random.Random(1)
        self.assertEqual({Retry("abc", rng).address() for _ in range(50)}, set("abc"))

    def test_only_a_session_that_lasted_begins_the_pauses_anew(self):
        retry = Retry(["a"], Always(1))
        for _ in range(4):
            retry.address()
        self.assertEqual(retry.pause_s(open_for_s=7.9), 8)
        retry.address()
        self.assertEqual(retry.pause_s(open_for_s=16.1), 1)
        self.assertEqual(retry.attempt, 0)

    def test_reasons_without_a_way_back_are_known(self):  # E-87
        self.assertLess(NO_WAY_BACK, set(codec.REASON_CODES))


class RateTest(unittest.TestCase):
    def test_what_the_gateway_allows_is_never_exceeded(self):  # E-60, E-68
        """Against the gateway's own rule (SPEC.md 1.5), with delays of up to half a second, by seeds."""
        for seed in range(30):
            rng = random.Random(seed)
            per_s = rng.choice((2, 5, 40, 1000))
            now, sent = 0.0, []
            rate = Rate(per_s, now)
            while now < 12:
                if rng.random() < 0.003:
                    now += rng.random() * 3  # idle
                elif rate.take(now):
                    sent.append(now)
                else:
                    now += rate.wait_s() + 1e-9
            delay = 0.5 * rng.random()  # what is sent in this time arrives at its end
            cut = rng.random() * 6
            arrives = [cut + delay if cut < at < cut + delay else at for at in sent]
            allowance, ticks = 2 * per_s, 0
            offset = rng.random()
            for at in arrives:
                while ticks + offset <= at:
                    allowance, ticks = min(allowance + per_s, 2 * per_s), ticks + 1
                allowance -= 1
                self.assertGreaterEqual(allowance, 0, f"seed {seed}")
            self.assertGreater(len(sent), 10, "it sends")

    def test_no_limit(self):
        rate = Rate(0, 0.0)
        self.assertTrue(all(rate.take(0.0) for _ in range(10_000)))


class SessionTest(unittest.TestCase):
    def open(self, first_beat=0.0, **changes):
        session = Session(b"k", b"t", 100.0, first_beat)
        self.assertEqual(frames(session), [{"type": "HELLO", "key": b"k", "token": b"t"}])
        welcome = {**WELCOME, **changes}
        self.assertEqual(receive(session, 100.0, welcome), [("WELCOME", welcome)])
        return session

    def test_the_first_heartbeat_comes_after_a_random_part_of_the_interval(self):  # E-38, E-39
        for first_beat, due_at in ((0.0, 101.0), (0.25, 100.75), (0.9, 100.1)):
            session = self.open(first_beat)
            self.assertAlmostEqual(session.tick_at(), due_at)
            session.tick(due_at - 0.01)
            self.assertEqual(frames(session), [])
            session.tick(due_at + 0.0001)
            self.assertEqual(frames(session), [{"type": "PING", "payload": b""}])

    def test_silence_of_an_interval_after_a_ping_is_death(self):  # E-45
        session = self.open()
        session.tick(101.0)
        session.tick(101.9)
        with self.assertRaises(Silent) as raised:
            session.tick(102.0)
        self.assertEqual(raised.exception.args[0], "silent")

    def test_any_byte_is_a_sign_of_life(self):  # E-44
        session = self.open()
        session.tick(101.0)
        list(session.receive(b"\x03", 101.9))  # a part of a frame
        session.tick(102.1)
        self.assertEqual([frame["type"] for frame in frames(session)], ["PING", "PING"])

    def test_who_only_sends_asks_whether_the_gateway_lives(self):
        session, now = self.open(), 100.0
        with self.assertRaises(Silent):
            while now < 110:
                now += 0.1
                session.send(b"x", now)
                session.tick(now)
        self.assertLess(now, 102.3)

    def test_a_process_that_was_stopped_for_longer_than_the_gateway_waits(self):
        session = self.open()
        with self.assertRaises(Silent) as raised:
            session.tick(102.6)
        self.assertEqual(raised.exception.args[0], "stopped")

    def test_a_process_that_was_stopped_first_reads(self):
        session = self.open()
        session.tick(101.0)
        receive(session, 500.0, {"type": "PONG", "payload": b""})
        session.tick(500.0)  # does not raise

    def test_the_heartbeat_keeps_within_the_idle_timeout(self):
        session = self.open(idle_timeout_ms=500)
        self.assertAlmostEqual(session.tick_at(), 100.25)

    def test_no_interval_no_heartbeat(self):
        session = self.open(heartbeat_interval_ms=0, idle_timeout_ms=0)
        session.tick(10_000.0)
        self.assertEqual((session.tick_at(), frames(session)), (None, []))

    def test_a_ping_is_answered_with_its_payload_within_bounds(self):  # E-17
        session = self.open()
        receive(session, 100.0, {"type": "PING", "payload": b"abc"})
        self.assertEqual(frames(session), [{"type": "PONG", "payload": b"abc"}])
        receive(session, 100.0, *[{"type": "PING", "payload": b"12345678"}] * 10_000)
        self.assertLess(len(session.out), CONTROL_BYTES_MAX + 16)

    def test_frames_that_a_gateway_may_not_send(self):  # E-29
        message = {"type": "MESSAGE", "payload": b""}
        for before, frame in (((), message), ((WELCOME,), WELCOME), ((WELCOME,), {"type": "CLOSE", "code": None}),
                              ((), {"type": "HELLO", "key": b"", "token": b""})):
            session = Session(b"", b"", 0.0, 0.0)
            receive(session, 0.0, *before)
            with self.assertRaises(codec.FrameError) as raised:
                receive(session, 0.0, frame)
            self.assertEqual(raised.exception.args[0], "unexpected_frame")

    def test_nothing_counts_behind_goaway(self):  # E-75
        session = self.open()
        goaway = {"type": "GOAWAY", "reason": "drain", "retry_after_ms": 5, "code": 4001, "alternative": b"h:1",
                  "text": "bye"}
        found = receive(session, 100.0, goaway, WELCOME)
        self.assertEqual(found, [("GOAWAY", goaway)])
        self.assertEqual(receive(session, 100.0, WELCOME), [])

    def test_nothing_follows_close(self):  # E-23
        session = self.open()
        session.close(100.0)
        session.close(100.0)
        session.tick(200.0)
        receive(session, 100.0, {"type": "PING", "payload": b""})
        self.assertEqual(frames(session), [{"type": "CLOSE", "code": None}])

    def test_the_limit_of_welcome_holds_from_the_next_frame_on(self):  # E-5
        session = Session(b"", b"", 0.0, 0.0)
        with self.assertRaises(codec.FrameError) as raised:
            receive(session, 0.0, {**WELCOME, "frame_bytes_max": 64}, {"type": "MESSAGE", "payload": bytes(65)})
        self.assertEqual(raised.exception.args[0], "oversize")


class AddressTest(unittest.TestCase):
    def test_addresses(self):
        for given, host, port in (("a:1", "a", 1), ("[::1]:7400", "::1", 7400), (("h", 2), "h", 2)):
            self.assertEqual(address.split(given), (host, port))
        self.assertEqual(address.join("::1", 1), "[::1]:1")
        for bad in ("a", ":1", "a:", "a:0", "a:65536", "::1:1", "a:b"):
            with self.assertRaises(ValueError, msg=bad):
                address.split(bad)


if __name__ == "__main__":
    unittest.main()
