"""The limits of a job, and the single report of its end; without a loop."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from worker.aio.errors import JobGone, LostTooOften, Revoked, SoftTimeLimit
from worker.aio.job import LIMIT_POSTPONED_S, Job

SOFT_S, HARD_S = 20.0, 30.0


class Host:
    """A pool whose timers end when the test fires them."""

    def __init__(self) -> None:
        self.loop = self
        self.calls = SimpleNamespace(post=lambda function, *args: function(*args))
        self.jobs = Mock()
        self.lost_runs = SimpleNamespace(refuse=lambda _: None)
        self.timers: list[SimpleNamespace] = []
        self.is_closed = False

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        if self.is_closed:
            raise RuntimeError("the loop is closed")
        function(*args)

    def call_later(self, after_s: float, function: Callable[[], None]) -> SimpleNamespace:
        timer = SimpleNamespace(after_s=after_s, function=function)
        timer.cancel = lambda: self.timers.remove(timer) if timer in self.timers else None
        self.timers.append(timer)
        return timer

    @property
    def waits_s(self) -> list[float]:
        return [timer.after_s for timer in self.timers]

    def fire(self, after_s: float) -> None:
        """End the timer of `after_s` seconds."""
        [timer] = [each for each in self.timers if each.after_s == after_s]
        self.timers.remove(timer)
        timer.function()


class Run:
    """A plain task in a thread: its body, and the tracer's work after it."""

    def __init__(self, **limits: float | None) -> None:
        self.host, self.reports = Host(), Mock()
        self.body: Callable[[], Any] = lambda: "value"
        self.after: Callable[[], Any] = lambda: None
        self.seen: BaseException | None = None
        self.job = Job(
            self.host, self._trace, ("x", "job-1"), self.reports, in_thread=True, **limits  # type: ignore[arg-type]
        )  # fmt: skip

    def _trace(self, *_: Any) -> Any:
        try:
            value = self.job.run_body(self.body, (), {})
        except BaseException as exc:
            self.seen = exc
            raise
        finally:
            self.after()
        return value

    def run_to_end(self) -> list[Any]:
        """Run it, and return the reports about it after its begin."""
        self.job._end(self.job._run_in_thread())
        assert self.host.timers == []
        assert self.host.jobs.on_done.call_args_list == [call(self.job)]
        return [each for each in self.reports.mock_calls if each[0] != "on_accepted"]


@pytest.mark.parametrize(
    ("limits", "waits_s"),
    [
        ({}, []),
        ({"soft_timeout_s": SOFT_S}, [SOFT_S]),
        ({"timeout_s": HARD_S}, [HARD_S]),
        ({"soft_timeout_s": SOFT_S, "timeout_s": HARD_S}, [SOFT_S, HARD_S]),
    ],
)
def test_the_limits_of_a_job_begin_with_it_and_end_with_it(
    limits: dict[str, float], waits_s: list[float]
) -> None:
    run, seen = Run(**limits), list[Any]()
    run.body = lambda: seen.append(run.host.waits_s)
    assert run.run_to_end() == [call.on_success(None)]
    assert seen == [waits_s]
    assert run.reports.on_accepted.call_args.args[0] == run.job.pid


def test_a_soft_limit_is_reported_and_leaves_the_thread_of_a_job_alone() -> None:
    run = Run(soft_timeout_s=SOFT_S)
    run.body = lambda: run.host.fire(SOFT_S)
    assert run.run_to_end() == [call.on_timeout(True, SOFT_S), call.on_success(None)]


def test_a_soft_limit_waits_while_redis_keeps_the_job_and_ends_with_the_body() -> None:
    run = Run(soft_timeout_s=SOFT_S)

    def body() -> None:
        run.job.redis_waits = 1
        run.host.fire(SOFT_S)
        run.host.fire(LIMIT_POSTPONED_S)
        assert run.host.waits_s == [LIMIT_POSTPONED_S]

    def after() -> None:
        run.job.redis_waits = 0
        run.host.fire(LIMIT_POSTPONED_S)

    run.body, run.after = body, after
    assert run.run_to_end() == [call.on_success(None)]


def test_a_hard_limit_ends_a_body_at_once_and_what_it_returns_is_dropped() -> None:
    run = Run(timeout_s=HARD_S, soft_timeout_s=SOFT_S)

    def body() -> str:
        run.host.fire(HARD_S)
        left.extend(run.host.timers)
        run.job.terminate(9)
        return "value"

    left, run.body = list[Any](), body
    assert run.run_to_end() == [call.on_timeout(False, HARD_S)]
    assert left == [], "the soft limit has no purpose any more"
    assert isinstance(run.seen, JobGone)
    assert run.host.jobs.release_slot.call_args_list == [call(run.job)]


def test_storing_the_end_of_a_job_may_take_as_long_again_but_not_for_ever() -> None:
    run = Run(timeout_s=HARD_S)

    def after() -> None:
        for _ in range(2):
            run.host.fire(HARD_S)
            left.append(run.host.waits_s)

    left, run.after = list[Any](), after
    assert run.run_to_end() == [call.on_timeout(False, HARD_S)]
    assert left == [[HARD_S], []]


@pytest.mark.parametrize("waits_in", ["body", "store"])
def test_the_time_in_which_redis_is_down_counts_for_no_hard_limit(waits_in: str) -> None:
    run = Run(timeout_s=HARD_S)

    def wait() -> None:
        run.job.redis_waits = 1
        for _ in range(3):
            run.host.fire(HARD_S)
            assert run.host.waits_s == [HARD_S]
        run.job.redis_waits = 0
        run.host.fire(HARD_S)

    def store() -> None:
        wait()
        assert run.host.waits_s == [HARD_S], "the time to store the result begins later"
        run.host.fire(HARD_S)

    if waits_in == "body":
        run.body = wait
    else:
        run.after = store
    assert run.run_to_end() == [call.on_timeout(False, HARD_S)]


def test_a_job_whose_body_found_it_revoked_no_longer_times_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announced = Mock()
    monkeypatch.setattr("worker.aio.job.revoking.announce", announced)
    run = Run(timeout_s=HARD_S)
    run.body = Mock(side_effect=Revoked)

    def after() -> None:
        run.host.fire(HARD_S)
        left.extend(run.host.timers)

    left, run.after = list[Any](), after
    assert run.run_to_end() == left == []
    assert announced.call_args_list == [call(run.reports)]
    run.host.jobs.release_slot.assert_not_called()


# The signal of the order, and that of the reported error.
@pytest.mark.parametrize(("signum", "reported"), [(15, 15), (None, 0)])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_job_that_is_terminated_is_reported_once_as_terminated(
    signum: int | None, reported: int, when: str
) -> None:
    run, ran = Run(timeout_s=HARD_S), list[bool]()

    def order() -> None:
        ran.append(True)
        run.job.terminate(signum)
        run.job.terminate(9)

    if when == "before":
        order()
    run.body = order
    [report] = run.run_to_end()
    assert ran == [True]
    assert report[0] == "on_failure"
    assert report.args[0].type.__name__ == "Terminated"
    assert report.args[0].exception.exc.args == (reported,)
    assert run.host.jobs.release_slot.called is (when == "meanwhile")


def test_a_job_is_terminated_no_more_once_the_loop_is_closed_or_the_job_has_ended() -> None:
    run = Run()
    assert run.run_to_end() == [call.on_success("value")]
    run.job.terminate(15)
    run.host.jobs.release_slot.assert_not_called()
    closed = Run()
    closed.host.is_closed = True
    closed.job.terminate(15)


def test_a_job_that_was_lost_too_often_is_reported_as_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, refused = Run(), SimpleNamespace(exception=LostTooOften("no"))
    monkeypatch.setattr(run.host.lost_runs, "refuse", lambda _: refused)
    run.body = Mock()
    assert run.run_to_end() == [call.on_failure(refused)]
    run.body.assert_not_called()


def test_a_soft_limit_of_the_body_is_raised_as_celerys_without_a_cause() -> None:
    run = Run(soft_timeout_s=SOFT_S)
    run.body = Mock(side_effect=SoftTimeLimit(SOFT_S))
    [report] = run.run_to_end()
    assert report.args[0].type is SoftTimeLimitExceeded
    assert run.seen is not None
    assert (run.seen.args, run.seen.__cause__) == ((SOFT_S,), None)


# The arguments of Celery's tracer, and how the job is called.
@pytest.mark.parametrize(
    ("args", "name", "task_id", "tag"),
    [
        (("x", "job-1", {"properties": {"delivery_tag": "t"}}), "x", "job-1", "t"),
        (("x", "job-1", {"properties": None}), "x", "job-1", None),
        (("x", "job-1", "headers"), "x", "job-1", None),
        (("x",), "x", "", None),
        ((), "<built-in function len>", "", None),
    ],
)
def test_a_job_is_named_by_what_it_was_called_with(
    args: tuple[Any, ...], name: str, task_id: str, tag: str | None
) -> None:
    job = Job(Host(), len, args, Mock(), in_thread=True)  # type: ignore[arg-type]
    assert (job.name, job.task_id, job.delivery_tag) == (name, task_id, tag)
    assert str(job) == f"{name}[{task_id}]"
