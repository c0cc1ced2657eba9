"""Which jobs continue when the connection that delivered them is lost."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from celery.worker import state

from worker.aio import lost_connection
from worker.aio.lost_connection import jobs_that_run_on


class Pool:
    """A pool with three accepted jobs, one of which came without a message."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order = Mock()
        self.jobs: list[Any] = [SimpleNamespace(delivery_tag=tag) for tag in ("a", "b", None)]
        self.order.all.side_effect = lambda: self.jobs
        self.calls = SimpleNamespace(drain=self.order.drain, is_read_here=True)
        self.loop: Any = SimpleNamespace(call_soon_threadsafe=self._soon)
        self.conf = SimpleNamespace(
            worker_cancel_long_running_tasks_on_connection_loss=False,
            worker_enable_prefetch_count_reduction=True,
        )
        monkeypatch.setattr(state, "should_stop", None)
        monkeypatch.setattr(state, "should_terminate", None)
        monkeypatch.setattr(lost_connection, "_BARRIER_S", 60.0)

    def _soon(self, function: Callable[[], None]) -> None:
        self.order.turn()
        self.jobs = [each for each in self.jobs if each.delivery_tag != "b"]
        function()

    def ask(self, *held: str) -> set[str]:
        jobs: Any = SimpleNamespace(all=self.order.all, drop=self.order.drop)
        calls: Any = self.calls
        return jobs_that_run_on({*held}, jobs=jobs, calls=calls, loop=self.loop, conf=self.conf)

    @property
    def steps(self) -> list[Any]:
        return [each for each in self.order.mock_calls if each != call.all()]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    return Pool(monkeypatch)


def test_waiting_jobs_are_dropped_before_the_loop_is_asked_which_have_begun(pool: Pool) -> None:
    """The loop turns, and no caller waits for it any longer."""
    assert pool.ask("a", "b", "c") == {"a"}
    assert pool.steps == [call.drop({"a", "b", "c"}), call.turn(), call.drain()]
    assert pool.conf.worker_enable_prefetch_count_reduction is False


def test_a_connection_without_a_job_of_the_pool_drops_no_job(pool: Pool) -> None:
    assert pool.ask("x") == set()
    assert pool.steps == [call.drain()]
    assert pool.conf.worker_enable_prefetch_count_reduction is True


@pytest.mark.parametrize("held", ["a", "x"])
def test_another_thread_reads_no_reports(pool: Pool, held: str) -> None:
    pool.calls.is_read_here = False
    pool.ask(held)
    assert call.drain() not in pool.steps


def test_a_loop_that_is_closed_is_not_waited_for(pool: Pool) -> None:
    pool.loop.call_soon_threadsafe = Mock(side_effect=RuntimeError)
    assert pool.ask("a") == {"a"}


# An event that ends the jobs anyway.
@pytest.mark.parametrize(
    ("name", "value", "run_on"),
    [
        ("should_stop", 0, False),
        ("should_stop", False, True),
        ("should_terminate", 15, False),
        ("setting", True, False),
    ],
)
def test_jobs_that_are_about_to_end_do_not_run_on(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, *, run_on: bool
) -> None:
    if name == "setting":
        pool.conf.worker_cancel_long_running_tasks_on_connection_loss = value
    else:
        monkeypatch.setattr(state, name, value)
    assert pool.ask("a") == ({"a"} if run_on else set())
    assert pool.conf.worker_enable_prefetch_count_reduction is not run_on
