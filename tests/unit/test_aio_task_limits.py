"""The limits of tasks on how many of their jobs run at once."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from worker.aio.task_limits import TaskLimits


def job(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_jobs_beyond_their_tasks_limit_wait_in_their_order() -> None:
    limits = TaskLimits()
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=2))
    limits.set_from(SimpleNamespace(name="b"))
    jobs = [job("a") for _ in range(4)]
    assert [limits.admit(each) for each in jobs] == [True, True, False, False]
    assert [limits.admit(job("b")) for _ in range(9)] == [True] * 9
    assert limits.waiting() == (deque(jobs[2:]),)
    assert [limits.release(jobs[0])] == [jobs[2]]
    assert limits.admit(jobs[2]) is True
    assert limits.admit(jobs[0]) is False
    assert limits.release(job("b")) is None
    assert [limits.release(jobs[1])] == [jobs[3]]
    assert [limits.release(jobs[2])] == [jobs[0]]
    assert limits.release(jobs[3]) is None
    limits.release(jobs[3])  # not more than run
    assert [limits.admit(each) for each in jobs] == [True, True, False, False]
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=None))
    assert limits.admit(job("a")) is True
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=3))
    assert [limits.admit(each) for each in jobs[:1]] == [False], "three jobs of the task run"
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=4))
    assert limits.admit(job("a")) is True


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2"])
def test_a_limit_is_a_positive_whole_number(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"^a\.concurrency_limit must be a positive whole number,"):
        TaskLimits().set_from(SimpleNamespace(name="a", concurrency_limit=limit))
