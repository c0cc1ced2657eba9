"""The ends of jobs that do not return: by a limit, revoked, lost, rejected or ignored."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import (
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)

from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess
from worker.aio.errors import LostTooOften, UnexpectedCancellation

Journal = Callable[[str], list[str]]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("catch", "caught"),
        (
            "timeout inside",
            "cancelling 0",
        ),  # a soft limit is not a cancellation that asyncio.timeout would count
        ("own timeout first", "own"),
    ],
)
def test_a_soft_limit_can_be_caught_at_the_await(
    app: ModuleType, key: str, plan: str, expected: str
) -> None:
    assert app.soft.delay(plan, key).get(timeout=60) == expected


def test_an_uncaught_soft_limit_fails_the_job(app: ModuleType, key: str) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        app.soft.delay("ignore", key).get(timeout=60)


def test_a_soft_limit_cancels_a_task_groups_children(
    app: ModuleType, key: str, journal: Journal
) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        app.soft.delay("task group", key).get(timeout=60)
    assert journal(key) == ["child cancelled"] * 2


def test_a_hard_limit_ends_even_a_job_that_swallows_cancellation(
    app: ModuleType, journal: Journal
) -> None:
    result = app.stubborn.delay()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=60)
    eventually(lambda: "gave in" in journal(f"{result.id}:0"))
    assert app.add.delay(1, 1).get(timeout=60) == 2
    assert result.backend.get_task_meta(result.id, cache=False)["status"] == "FAILURE"
    notes = journal(f"{result.id}:0")
    assert notes.count("swallowed") == 2
    assert notes.count("on_failure TimeLimitExceeded") == 1
    assert "on_success" not in notes


def test_hooks_after_the_body_may_take_as_long_again_as_the_hard_limit(
    app: ModuleType, journal: Journal
) -> None:
    result = app.tidy.delay()
    assert result.get(timeout=60) == "done"
    eventually(lambda: journal(result.id) == ["tidied up"])
    assert result.state == "SUCCESS"


def test_a_hook_that_raises_after_the_hard_limit_leaves_no_message_unacknowledged(
    app: ModuleType, worker: WorkerProcess, key: str, journal: Journal, store: Any
) -> None:
    result = app.clumsy.delay(key)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=60)
    eventually(lambda: f"cannot report the end of aio_app.clumsy[{result.id}]" in worker.log)
    eventually(lambda: store.hlen("unacked") == 0)
    assert "KeyError: 'of a hook'" in worker.log
    assert journal(key) == ["began"]


def test_a_terminated_job_runs_its_finally_blocks_and_stays_revoked(
    app: ModuleType, key: str, journal: Journal
) -> None:
    result = app.cleaned.delay(key)
    eventually(lambda: journal(key) == ["began"])
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    eventually(lambda: journal(key) == ["began", "finally"])


def test_a_job_revoked_before_it_began_never_runs(
    app: ModuleType, key: str, journal: Journal
) -> None:
    result = app.sleep.apply_async((0, key), countdown=1.0)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert journal(key) == []


@pytest.mark.parametrize("name", ["stray", "cancels_itself"])
def test_an_unexpected_cancellation_fails_the_job(app: ModuleType, name: str) -> None:
    with pytest.raises(UnexpectedCancellation):
        getattr(app, name).delay().get(timeout=60)


ENDINGS = ["SystemExit", "KeyboardInterrupt", "MemoryError", "GeneratorExit", "child SystemExit"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_job_that_tries_to_end_the_process_counts_as_lost(app: ModuleType, ending: str) -> None:
    with pytest.raises(WorkerLostError):
        app.ends.delay(ending).get(timeout=60)
    assert app.add.delay(2, 2).get(timeout=60) == 4


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_lost_job_runs_again_if_the_task_asks_for_it(
    app: ModuleType, key: str, ending: str
) -> None:
    assert app.ends_once.delay(ending, key).get(timeout=60) == "survived"


@pytest.mark.parametrize("ending", ["SystemExit", "MemoryError"])
def test_a_job_that_is_lost_again_and_again_fails_after_five_runs(
    app: ModuleType, key: str, store: Any, ending: str
) -> None:
    with pytest.raises(LostTooOften, match="5 runs of this job were lost"):
        app.ends_always.delay(ending, key).get(timeout=60)
    eventually(lambda: store.hlen("unacked") == 0)
    assert store.get(f"count:{key}") == "5"


def test_runs_that_ended_with_their_worker_count_as_lost_too(
    app: ModuleType, key: str, store: Any
) -> None:
    with pytest.raises(LostTooOften, match="5 runs"):
        app.ends_always.apply_async(("SystemExit", key), headers={"deaths": 3}).get(timeout=60)
    assert store.get(f"count:{key}") == "2"
    with pytest.raises(LostTooOften, match="7 runs"):
        app.ends_always.apply_async(("SystemExit", key), headers={"deaths": 7}).get(timeout=60)
    assert store.get(f"count:{key}") == "2"


@pytest.mark.parametrize("ending", ["SystemExit", "KeyboardInterrupt", "MemoryError"])
def test_a_plain_task_that_tries_to_end_the_process_counts_as_lost_too(
    app: ModuleType, key: str, ending: str
) -> None:
    with pytest.raises(WorkerLostError):
        app.ends_plainly.delay(ending).get(timeout=60)
    assert app.ends_plainly_once.delay(ending, key).get(timeout=60) == "survived"


def test_a_job_rejected_with_requeue_comes_back(app: ModuleType, key: str) -> None:
    assert app.rejects.delay(True, key).get(timeout=60) == "second time"


def test_a_job_rejected_for_good_fails_and_does_not_come_back(
    app: ModuleType, key: str, store: Any
) -> None:
    result = app.rejects.delay(False, key)
    with pytest.raises(Reject):
        result.get(timeout=60)
    assert result.state == "FAILURE"
    eventually(lambda: store.hlen("unacked") == 0)
    assert store.get(f"count:{key}") == "1"


def test_an_ignored_job_is_acknowledged_and_stores_nothing(
    app: ModuleType, key: str, journal: Journal, store: Any
) -> None:
    result = app.ignores.delay(key)
    eventually(lambda: journal(key) == ["ran"])
    eventually(lambda: store.hlen("unacked") == 0)
    assert result.state == "PENDING"


def test_a_plain_task_over_its_hard_limit_is_reported_and_its_late_result_dropped(
    app: ModuleType,
) -> None:
    result = app.plain_stuck.delay()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=60)
    time.sleep(1.0)  # its thread ends in that time, which no event reports
    assert result.backend.get_task_meta(result.id, cache=False)["status"] == "FAILURE"
