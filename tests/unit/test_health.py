"""What a worker says of its clock."""

import pytest

from worker.hooks.health import clock_skew_s


# Redis' clock, this machine's at the question and at the answer, and the least difference.
@pytest.mark.parametrize(
    ("instants_s", "began_s", "ended_s", "skew_s"),
    [
        ((100.0, 100.5), 99.0, 101.0, 0.0),  # right, and a slow answer
        ((100.0, 100.1), 160.0, 160.2, 59.9),  # ahead
        ((100.0, 100.1), 40.0, 40.2, -59.8),  # behind
        ((), 40.0, 40.2, 0.0),  # no service has been read
    ],
)
def test_a_clock_is_wrong_by_what_no_slow_answer_explains(
    instants_s: tuple[float, ...], began_s: float, ended_s: float, skew_s: float
) -> None:
    assert clock_skew_s(instants_s, began_s=began_s, ended_s=ended_s) == pytest.approx(skew_s)
