"""The results of jobs, and what a job sees of itself, in any pool."""

import json
from typing import Any

import pytest

from tests.processes import eventually

# -- results and errors


def test_a_result_comes_back(pool: Any) -> None:
    assert pool.task("add", 2, kwargs={"y": 3}).apply_async().get(timeout=60) == 5


def test_an_error_comes_back_with_its_type_and_the_tasks_own_line(pool: Any) -> None:
    result = pool.send("fails", "no luck")
    with pytest.raises(ValueError, match="no luck"):
        result.get(timeout=60)
    assert "raise ValueError(text)  # the task's own line" in result.traceback


@pytest.mark.parametrize(
    ("kind", "stored", "words"),
    [
        ("unpicklable", "UnpickleableExceptionWrapper", "UnpicklableError('odd')"),
        ("particular", "UnpickleableExceptionWrapper", "ParticularError('code 4')"),
        ("several", "ExceptionGroup", "ValueError('a')"),
        ("endless", "RecursionError", "maximum recursion depth exceeded"),
    ],
)
def test_an_error_that_cannot_be_pickled_is_stored_with_its_message(
    pool: Any, kind: str, stored: str, words: str
) -> None:
    result = pool.send("fails_oddly", kind)
    result.get(timeout=10, propagate=False)
    meta = json.loads(pool.store.get(f"celery-task-meta-{result.id}"))
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", stored)
    assert words in str(meta["result"]["exc_message"])


def test_a_base_exception_fails_the_job_too(pool: Any) -> None:
    result = pool.send("stops").get(timeout=10, propagate=False)
    assert type(result).__name__ == "Stop"
    eventually(lambda: pool.unacknowledged() == 0)


def test_a_state_that_a_task_reports_can_be_read_while_it_runs(pool: Any, key: str) -> None:
    result = pool.send("reports_progress", key)
    try:
        eventually(lambda: result.state == "PROGRESS")
        assert result.info == {"at": 1}
    finally:
        pool.store.set(f"go:{key}", 1)
    assert result.get(timeout=60) is None


def test_a_tracked_job_is_started_while_it_runs(pool: Any, key: str) -> None:
    result = pool.send("starts", key)
    try:
        eventually(lambda: result.state == "STARTED")
    finally:
        pool.store.set(f"go:{key}", 1)
    assert result.get(timeout=60) is None


def test_an_ignored_result_is_not_stored(pool: Any, key: str) -> None:
    result = pool.send("unanswered", key)
    pool.await_journal(key, "ran")
    eventually(lambda: pool.unacknowledged() == 0)
    assert result.state == "PENDING"


# -- hooks, signals, requests


@pytest.mark.parametrize(
    ("ending", "entries"),
    [
        ("succeeds", ["on_success", "task_success", "after_return SUCCESS"]),
        ("fails", ["on_failure ValueError", "task_failure", "after_return FAILURE"]),
    ],
)
def test_hooks_and_signals_come_once_and_in_order(
    pool: Any, ending: str, entries: list[str]
) -> None:
    result = pool.send("hooked", ending)
    result.get(timeout=10, propagate=False)
    pool.await_journal(result.id, "task_prerun", "before_start", "body", *entries, "task_postrun")


def test_worker_process_init_was_sent_once_in_a_jobs_process(pool: Any) -> None:
    assert pool.send("finds_prepared").get(timeout=60) == 1


def test_each_of_several_jobs_sees_its_own_request(pool: Any) -> None:
    for result in [pool.send("who", 0.1) for _ in range(8)]:
        assert set(result.get(timeout=60)) == {result.id}
