"""Counters turned into minutes and a rate."""

from worker.dashboard.board import Minute, QueueView, ServiceView
from worker.dashboard.record import Record
from worker.keypool import PoolView

START_MS = 1_700_000_040_000  # the beginning of a minute


def test_what_happened_before_the_first_sight_is_no_news() -> None:
    record = Record()
    record.add(now_ms=START_MS, calls=500, refused=20, accepted=480)
    assert record.minutes == (Minute(START_MS, 0, 0),)
    assert record.rate == 0


def test_calls_go_to_the_minute_in_which_they_are_seen() -> None:
    record = Record()
    for after_s, calls, refused in ((0, 0, 0), (10, 5, 1), (59, 9, 1), (60, 10, 3)):
        record.add(now_ms=START_MS + after_s * 1000, calls=calls, refused=refused, accepted=calls - refused)
    assert record.minutes == (Minute(START_MS, 9, 1), Minute(START_MS + 60_000, 1, 2))


def test_an_hour_is_kept_and_no_more() -> None:
    record = Record()
    for minute in range(100):
        record.add(now_ms=START_MS + minute * 60_000, calls=minute, refused=0, accepted=minute)
    assert len(record.minutes) == 60
    assert record.minutes[-1] == Minute(START_MS + 99 * 60_000, 1, 0)


def test_the_rate_is_that_of_the_last_minute() -> None:
    record = Record()
    for second in range(0, 200, 10):
        record.add(now_ms=START_MS + second * 1000, calls=second * 2, refused=0, accepted=second * 2)
    assert record.rate == 2
    for second in range(200, 300, 10):
        record.add(now_ms=START_MS + second * 1000, calls=400, refused=0, accepted=380)
    assert record.rate == 0


def test_counters_that_fall_start_anew() -> None:
    record = Record()
    record.add(now_ms=START_MS, calls=100, refused=10, accepted=90)
    record.add(now_ms=START_MS + 1000, calls=0, refused=0, accepted=0)
    record.add(now_ms=START_MS + 2000, calls=3, refused=1, accepted=2)
    assert record.minutes == (Minute(START_MS, 3, 1),)
    assert record.rate == 2


def view(rate: float, **queue: float) -> ServiceView:
    return ServiceView(PoolView("groq", 0, ()), QueueView("ai", **queue), (), rate)  # type: ignore[arg-type]


def test_the_queue_is_empty_when_all_that_waits_is_done() -> None:
    assert view(2.0, ready=10, deferred=5, held=5).drain_s == 10
    assert view(0.0, ready=10).drain_s is None  # nothing moves
    assert view(0.0).drain_s == 0  # nothing waits


def test_a_gate_is_closed_when_every_worker_has_closed_it() -> None:
    assert view(0, workers=2).queue.gate == "open"
    assert view(0, workers=2, closed=1).queue.gate == "partly"
    assert view(0, workers=2, closed=2).queue.gate == "closed"
    assert view(0, workers=0).queue.gate == "unknown"
