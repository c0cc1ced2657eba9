"""A process' estimate of the pool's clock."""

import pytest

from worker.keypool.caller_clock import CallerClock, since_boot_ms


class Own:
    ms = 5_000

    def __call__(self) -> int:
        return self.ms


def test_the_clock_of_the_process_counts_milliseconds() -> None:
    before_ms = since_boot_ms()
    assert isinstance(before_ms, int)
    assert before_ms <= since_boot_ms() < before_ms + 60_000


def test_nothing_is_known_until_the_clock_was_read() -> None:
    own = Own()
    clock = CallerClock(own)
    assert clock.least_ms() is None
    clock.read(70_000, began_ms=own.ms)
    own.ms += 250
    assert clock.least_ms() == 70_250


@pytest.mark.parametrize(
    ("took_ms", "later_ms", "pool_ms", "least_ms"),
    [
        (0, 10, 70_011, 70_011),  # a faster reply
        (0, 10, 70_009, 70_010),  # a slower reply
        (0, 60_000, 129_999, 130_000),
        (0, 60_001, 130_000, 130_000),  # so late that the clocks may have drifted apart
        (1_000, 10, 90_000, 90_000),
        (1_001, 10, 90_000, 70_010),  # Redis may have stood still
        (1_001, 60_001, 90_000, 130_001),
    ],
)
def test_of_two_readings_the_better_one_stays(
    took_ms: int, later_ms: int, pool_ms: int, least_ms: int
) -> None:
    own = Own()
    clock = CallerClock(own)
    clock.read(70_000, began_ms=own.ms)
    own.ms += later_ms
    clock.read(pool_ms, began_ms=own.ms - took_ms)
    assert clock.least_ms() == least_ms
