"""The revoked jobs of one turn of the consumer end together, or as Celery ends them."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from celery import states
from celery.exceptions import TaskRevokedError
from celery.worker import state

from worker.aio import redis_retry
from worker.aio.backend import RedisBackend
from worker.hooks.revoked import RevokedJobs

AWAY, BAD = redis.ConnectionError("gone"), ValueError("one of them cannot be stored")


class Revoking:
    """A consumer's turn, a result store, and the revoked jobs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        redis_retry._LogLimit.until_s.clear()
        self.posted, self.later = list[Any](), list[tuple[Any, ...]]()
        self.stored, self.errors = list[list[Any]](), list[Exception | None]()
        self.backend = Mock(spec=RedisBackend)
        self.backend.store_ends.side_effect = self._store
        self.jobs = RevokedJobs()
        calls: Any = SimpleNamespace(is_read_here=True, post=self.posted.append)
        self.jobs.use(calls, SimpleNamespace(call_after=lambda *timer: self.later.append(timer)))
        monkeypatch.setattr(state, "task_ready", Mock())

    def _store(self, ends: list[Any], how: str) -> None:
        assert how == states.REVOKED
        self.stored.append([(job, type(error), str(error)) for job, error, _ in ends])
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error

    def job(self, name: str, **changes: Any) -> Any:
        request = Mock(id=name, store_errors=True)
        request._context.chord = None
        request.app.backend = request.task.backend = self.backend
        for field, value in changes.items():
            setattr(request, field, value)
        return request


@pytest.fixture
def revoking(monkeypatch: pytest.MonkeyPatch) -> Revoking:
    return Revoking(monkeypatch)


def end(name: str) -> tuple[Any, ...]:
    return (name, TaskRevokedError, "revoked")


def test_revoked_jobs_of_one_turn_are_stored_at_once_and_then_acknowledged(
    revoking: Revoking,
) -> None:
    for turn in ("ab", "c"):
        jobs = [revoking.job(name) for name in turn]
        assert all(revoking.jobs.end(job, "revoked") for job in jobs)
        [store] = revoking.posted
        revoking.posted.clear()
        for job in jobs:
            job.send_event.assert_called_once_with(
                "task-revoked", terminated=False, signum=None, expired=False
            )
            assert job._already_revoked is True
            job.acknowledge_revoked.assert_not_called()
        store()
        assert revoking.stored.pop() == [end(name) for name in turn]
        for job in jobs:
            job.acknowledge_revoked.assert_called_once_with()
    assert revoking.later == []


def test_the_chained_jobs_of_a_revoked_one_are_stored_with_it(revoking: Revoking) -> None:
    job, part = revoking.job("a"), {"task": "x", "options": {"task_id": "b"}}
    job._context.chain = [part]
    assert revoking.jobs.end(job, "revoked")
    revoking.posted[0]()
    assert revoking.stored == [[end("a"), end("b")]]
    job._context.chain = [part | {"options": {"task_id": "b", "chord": {"task": "y"}}}]
    assert not revoking.jobs.end(job, "revoked"), "the job's chord has to be notified"


def test_ends_wait_for_a_store_that_is_down(
    revoking: Revoking, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [revoking.job(name) for name in "ab"]
    for job in jobs:
        revoking.jobs.end(job, "revoked")
    revoking.errors = [AWAY]
    revoking.posted[0]()
    assert [job.acknowledge_revoked.called for job in jobs] == [False, False]
    assert "cannot store the ends of revoked jobs" in caplog.text
    [(after_s, finish, arguments)] = revoking.later
    assert after_s == 2
    finish(*arguments)
    assert revoking.stored == [[end("a"), end("b")]] * 2
    assert [job.acknowledge_revoked.called for job in jobs] == [True, True]


def test_an_end_that_cannot_be_stored_holds_up_no_other(revoking: Revoking) -> None:
    jobs = [revoking.job(name) for name in "ab"]
    for job in jobs:
        revoking.jobs.end(job, "revoked")
    revoking.errors = [BAD, BAD]
    revoking.posted[0]()
    assert revoking.stored == [[end("a"), end("b")], [end("a")], [end("b")]]
    assert [job.acknowledge_revoked.called for job in jobs] == [False, True]
    [(_, finish, arguments)] = revoking.later
    finish(*arguments)
    assert jobs[0].acknowledge_revoked.called


@pytest.mark.parametrize(
    "changes",
    [
        {"store_errors": False},
        {"_context": SimpleNamespace(chord={"task": "body"})},
        {"task": SimpleNamespace(backend=None)},  # a task with its own backend
    ],
)
def test_a_job_that_needs_celerys_own_way_is_left_to_it(
    revoking: Revoking, changes: dict[str, Any]
) -> None:
    assert not revoking.jobs.end(revoking.job("a", **changes), "revoked")
    assert revoking.posted == []


def test_without_our_pool_or_our_store_all_are_left_to_celery(revoking: Revoking) -> None:
    other = revoking.job("a")
    other.app.backend = other.task.backend = Mock()
    assert not revoking.jobs.end(other, "revoked")
    revoking.jobs._calls.is_read_here = False  # type: ignore[union-attr, misc]
    assert not revoking.jobs.end(revoking.job("a"), "revoked")
    revoking.jobs.use(None, None)
    assert not revoking.jobs.end(revoking.job("a"), "revoked")
