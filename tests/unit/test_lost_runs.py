"""How many lost runs a job may have."""

import asyncio
from typing import Any

import pytest

from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.lost_runs import LOST_RUNS, LostRuns
from worker.aio.transport.headers import DEATHS


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        (None, False),
        ({}, False),
        ({LOST_RUNS: 1}, False),
        ({LOST_RUNS: 2}, True),
        ({LOST_RUNS: 1, DEATHS: 1}, True),
        ({LOST_RUNS: True, DEATHS: "9"}, False),  # of somebody who makes messages by hand
        ({LOST_RUNS: -9, DEATHS: 1}, False),
    ],
)
def test_a_job_that_has_lost_too_many_runs_is_refused(headers: Any, *, refused: bool) -> None:
    loop, calls = asyncio.new_event_loop(), ConsumerCalls()
    lost = LostRuns(calls, loop, most=2, pause_s=1)
    assert (lost.refuse(headers) is not None) is refused
    assert LostRuns(calls, loop, most=0, pause_s=1).refuse(headers) is None
    calls.close(None)
    loop.close()
