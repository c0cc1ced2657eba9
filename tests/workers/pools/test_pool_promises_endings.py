"""When a message is acknowledged, and how jobs are retried, limited, revoked and lost."""

import time
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

# -- acknowledging


def test_a_message_is_not_acknowledged_before_its_job_has_ended(pool: Any, key: str) -> None:
    eventually(lambda: pool.unacknowledged() == 0, what="the end of earlier acknowledgements")
    result = pool.send("waits", key, 0.5)
    pool.await_journal(key, "began")
    assert pool.unacknowledged() == 1
    assert result.get(timeout=60) == "waited"
    eventually(lambda: pool.unacknowledged() == 0)


def test_a_message_is_acknowledged_at_the_start_if_the_task_says_so(pool: Any, key: str) -> None:
    result = pool.send("waits_early", key, 5.0)
    pool.await_journal(key, "began")
    eventually(lambda: pool.unacknowledged() == 0, within_s=4)
    result.get(timeout=60)


def test_the_message_of_a_failed_job_is_acknowledged(pool: Any) -> None:
    with pytest.raises(ValueError, match="x"):
        pool.send("fails", "x").get(timeout=60)
    eventually(lambda: pool.unacknowledged() == 0)


def test_a_rejected_job_comes_back_if_it_asks_for_that(pool: Any, key: str) -> None:
    assert pool.send("rejects", key, True).get(timeout=60) == "came back"


def test_a_job_that_is_rejected_for_good_fails(pool: Any, key: str) -> None:
    with pytest.raises(Reject):
        pool.send("rejects", key, False).get(timeout=60)
    eventually(lambda: pool.unacknowledged() == 0)


def test_an_ignored_job_stores_nothing_and_is_acknowledged(pool: Any, key: str) -> None:
    result = pool.send("ignores", key)
    pool.await_journal(key, "ran")
    eventually(lambda: pool.unacknowledged() == 0)
    assert result.state == "PENDING"


# -- retries


@pytest.mark.parametrize(("successes", "tries"), [(1, 2), (9, 3)])
def test_a_job_is_retried_as_often_as_it_may(
    pool: Any, key: str, successes: int, tries: int
) -> None:
    result = pool.send("retries", key, successes)
    if successes < tries:
        assert result.get(timeout=60) == successes
    else:
        with pytest.raises(ValueError, match="again"):
            result.get(timeout=60)
    assert pool.journal(key) == [f"try {number}" for number in range(tries)]


def test_autoretry_sees_the_error(pool: Any) -> None:
    assert pool.send("autoretries").get(timeout=60) == 2


# -- limits


def test_a_soft_limit_can_be_caught(pool: Any) -> None:
    assert pool.send("softly", True).get(timeout=60) == "caught"


def test_a_soft_limit_that_is_not_caught_fails_the_job(pool: Any) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        pool.send("softly", False).get(timeout=60)


def test_a_hard_limit_ends_the_job_and_nothing_else(pool: Any) -> None:
    with pytest.raises(TimeLimitExceeded):
        pool.send("hardly").get(timeout=60)
    assert pool.send("add", 1).get(timeout=60) == 2
    eventually(lambda: pool.unacknowledged() == 0)


# -- revoking, waiting


def test_a_job_that_is_revoked_before_it_began_never_runs(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 0, countdown=1.0)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert pool.journal(key) == []


def test_a_running_job_can_be_ended_from_outside(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 2.0)
    pool.await_journal(key, "began")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert pool.send("add", 1).get(timeout=60) == 2
    eventually(lambda: pool.unacknowledged() == 0)


def test_a_job_that_has_expired_never_runs(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 0, expires=-1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert pool.journal(key) == []


def test_a_job_with_a_countdown_does_not_begin_early(pool: Any, key: str) -> None:
    sent = time.time()
    assert pool.send("waits", key, 0, countdown=0.8).get(timeout=60) == "waited"
    assert time.time() - sent >= 0.8


# -- jobs that end their process


def test_a_job_that_ends_its_process_is_lost_and_the_worker_goes_on(pool: Any, key: str) -> None:
    with pytest.raises(WorkerLostError):
        pool.send("ends", key).get(timeout=60)
    assert pool.journal(key) == ["ran"]
    assert pool.send("add", 1).get(timeout=60) == 2


def test_a_lost_job_runs_again_if_the_task_asks_for_it(pool: Any, key: str) -> None:
    assert pool.send("ends_again", key, 1).get(timeout=60) == "survived"


def test_a_job_that_is_always_lost_fails_in_the_end(pool: Any, key: str) -> None:
    result = pool.send("ends_again", key, 6)
    assert isinstance(result.get(timeout=30, propagate=False), Exception)
    eventually(lambda: pool.unacknowledged() == 0)
