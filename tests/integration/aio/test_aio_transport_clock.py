"""How messages are delayed, by which clock, and how they become due."""

import pytest

from tests.integration.aio.taking_server import HOUR_US, Server, text_of
from worker.aio.transport.scripts import DELAY, WAKE, WAKE_SOME


def delay(queue_server: Server, job: str, countdown_us: int) -> int:
    keys = ["late.0.due", "late.texts", "late.next", "clock"]
    return int(queue_server.client.eval(DELAY, 4, *keys, job, text_of(job), countdown_us))


def test_a_message_is_delayed_and_its_queue_knows_the_earliest_instant(
    queue_server: Server,
) -> None:
    before_us = queue_server.now_us()
    at_us = [
        delay(queue_server, "b", 500),
        delay(queue_server, "a", HOUR_US),
        delay(queue_server, "c", 7),
    ]
    assert before_us + 500 <= at_us[0] <= queue_server.now_us() + 500
    assert before_us + HOUR_US <= at_us[1] <= queue_server.now_us() + HOUR_US
    its = dict(queue_server.client.zrange("late.0.due", 0, -1, withscores=True))
    assert its == {b"b": at_us[0], b"a": at_us[1], b"c": at_us[2]}
    assert int(queue_server.client.get("late.next")) == min(at_us)
    again_us = delay(queue_server, "a", 2 * HOUR_US)
    assert queue_server.client.zscore("late.0.due", "a") == again_us
    assert queue_server.client.hget("late.texts", "c") == text_of("c").encode()


# How far the clock was ahead at the last reading, and its correction then, in milliseconds; how far
# it is ahead now; and the correction that is kept, or None if none is kept.
@pytest.mark.parametrize(
    ("last_ms", "skew_ms", "ahead_ms", "kept_ms"),
    [
        (None, None, 0, 0),
        (-100, 0, 0, None),
        (-60_000, 0, 0, 0),
        (900, 0, 900, None),
        (600_000, 0, 600_000, 600_000),
        (500_000, 500_000, 500_000, None),
        (440_000, 500_000, 500_000, 500_000),
        (700_000, 500_000, 700_000, 700_000),
    ],
)
def test_the_clock_never_runs_backwards(
    queue_server: Server, last_ms: int | None, skew_ms: int, ahead_ms: int, kept_ms: int | None
) -> None:
    before_us = queue_server.now_us()
    if last_ms is not None:
        queue_server.client.set("clock", f"{before_us + last_ms * 1000} {skew_ms * 1000}")
    stored = queue_server.client.get("clock")
    found_us = delay(queue_server, "a", 0)
    took_us = queue_server.now_us() - before_us
    assert 0 <= found_us - before_us - ahead_ms * 1000 <= took_us
    if kept_ms is None:
        assert queue_server.client.get("clock") == stored or took_us > 100_000
    else:
        now_us, kept_us = map(int, queue_server.client.get("clock").split())
        assert now_us == found_us
        assert abs(kept_us - kept_ms * 1000) <= took_us


def test_an_unreadable_clock_is_replaced(queue_server: Server) -> None:
    queue_server.client.set("clock", "odd")
    before_us = queue_server.now_us()
    assert before_us <= delay(queue_server, "a", 0) <= queue_server.now_us()


def test_delayed_messages_are_woken_all_or_some(queue_server: Server) -> None:
    now_us = queue_server.now_us()
    keys = ["late.next", "late.0.due", "late.1.due"]
    queue_server.delay("late", 0, now_us - 900, "due")
    assert queue_server.client.eval(WAKE, 3, *keys) == 1
    assert queue_server.client.zscore("late.0.due", "due") == now_us - 900
    assert int(queue_server.client.get("late.next")) == now_us - 900, (
        "all of the messages are due already"
    )
    queue_server.delay("late", 1, now_us + HOUR_US, "b")
    assert queue_server.client.eval(WAKE, 3, *keys) == 2
    assert queue_server.client.zscore("late.1.due", "b") < now_us
    queue_server.delay("late", 1, now_us + HOUR_US, "b", "a", "c")
    assert queue_server.client.eval(WAKE_SOME, 3, *keys, "a", "gone", "due", "a") == 2
    assert (
        queue_server.client.zscore("late.1.due", "a")
        == queue_server.client.zscore("late.0.due", "due")
        == 0
    )
    assert queue_server.client.get("late.next") == b"0"
    queue_server.client.set("late.next", "7")
    assert queue_server.client.eval(WAKE_SOME, 3, *keys, "b") == 1
    assert queue_server.client.get("late.next") == b"0"
    queue_server.client.zadd("late.1.due", {"b": now_us + HOUR_US})
    queue_server.client.set("late.next", "7")
    assert queue_server.client.eval(WAKE_SOME, 3, *keys, "a", "gone") == 0
    assert queue_server.client.get("late.next") == b"7"
    assert queue_server.client.eval(WAKE, 3, *keys) == 4
    assert queue_server.client.zrange("late.1.due", 0, -1) == [b"a", b"b", b"c"]
    assert queue_server.client.zscore("late.1.due", "c") < now_us
    assert queue_server.client.get("late.next") == b"0"
