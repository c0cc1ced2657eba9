"""How many lost runs a job may have."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from worker.aio import lost_runs
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
        ({LOST_RUNS: True, DEATHS: "9"}, False),  # written by hand
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


class Reports:
    """A pool's loop and calls, and a job whose run was lost."""

    def __init__(self, *, most: int) -> None:
        self.calls_made = Mock()
        self.loop, self.calls = (
            Mock(call_later=self.calls_made.call_later),
            Mock(post=self.calls_made.post),
        )
        self.loop.call_soon_threadsafe.side_effect = lambda function, *args: function(*args)
        self.lost = LostRuns(self.calls, self.loop, most=most, pause_s=3)

    def request(
        self, job: str = "job-1", *, headers: Any = None, channel: Any = None, **task: Any
    ) -> Any:
        options = {"acks_late": True, "reject_on_worker_lost": True, "retry_on_worker_lost": False}
        return SimpleNamespace(
            id=job,
            humaninfo=lambda: job,
            request_dict=headers or {},
            message=SimpleNamespace(headers={}, channel=channel),
            task=SimpleNamespace(**options | task),
        )


@pytest.mark.parametrize(
    "task",
    [{"acks_late": False}, {"reject_on_worker_lost": None}, {"retry_on_worker_lost": True}],
)
def test_a_run_whose_message_does_not_go_back_is_reported_at_once(task: dict[str, Any]) -> None:
    reports = Reports(most=2)
    for request in (reports.request(**task), SimpleNamespace(id="of another task")):
        reports.lost.report(reports.calls_made, request, "info")
    assert reports.calls_made.mock_calls == [call.on_failure("info")] * 2


def test_a_lost_job_goes_back_after_pauses_that_grow(caplog: pytest.LogCaptureFixture) -> None:
    reports, channel = Reports(most=0), Mock()
    for number, pause_s in enumerate((3, 6, 12, 24, 48, 60, 60), 1):
        request = reports.request(channel=channel)
        reports.calls_made.reset_mock()
        reports.lost.report(reports.calls_made, request, "info")
        calls_made = reports.calls_made
        assert calls_made.mock_calls == [
            call.call_later(pause_s, calls_made.post, calls_made.on_failure, "info")
        ]
        assert request.message.headers == {LOST_RUNS: number}
        assert channel.add_headers.call_args == call(request.message, {LOST_RUNS: number})
    assert caplog.messages[:2] == [
        "job-1 goes back to its queue in 3 s: run 1 was lost",
        "job-1 goes back to its queue in 6 s: run 2 was lost",
    ]
    thousands = reports.request(headers={LOST_RUNS: 100_000})
    reports.lost.report(reports.calls_made, thousands, "info")
    assert reports.calls_made.call_later.call_args.args[0] == 60


def test_a_job_fails_once_it_has_lost_too_many_runs_here_or_elsewhere() -> None:
    reports = Reports(most=3)
    reports.lost.report(reports.calls_made, reports.request(headers={DEATHS: 1}), "info")
    assert reports.calls_made.on_failure.call_count == 0
    for headers in ({DEATHS: 1}, {LOST_RUNS: 2}):  # the run before counts, and the header states it
        reports.calls_made.reset_mock()
        reports.lost.report(reports.calls_made, reports.request(headers=headers), "info")
        [(failure,)] = [each.args for each in reports.calls_made.on_failure.call_args_list]
        assert str(failure.exception.exc) == (
            "3 runs of this job were lost with their worker, so it does not run again"
        )
        assert reports.calls_made.call_later.call_count == 0


def test_a_count_that_the_broker_cannot_note_is_kept_here(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_runs, "_REMEMBERED", 2)
    reports = Reports(most=0)
    channel = Mock(**{"add_headers.side_effect": OSError("full")})
    counts = []
    for job in ("a", "b", "a", "c", "a", "b"):  # b is forgotten when c comes
        request = reports.request(job, channel=channel)
        reports.lost.report(reports.calls_made, request, "info")
        counts.append(request.message.headers[LOST_RUNS])
    assert counts == [1, 1, 2, 1, 3, 1]
    assert caplog.messages[0] == (
        "cannot note in the broker that a run of a was lost (full); only this worker counts it"
    )
