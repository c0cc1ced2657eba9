"""What a Celery task may rely on, whatever the pool.

Prefork, threads and ours keep each promise, or say why not.

Any other pool runs the same table: `CONFORMANCE_POOLS=gevent,solo`, for those that Celery knows by
a name.
"""

import json
import signal
import time
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import chunks
from celery.exceptions import (
    ChordError,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)

from tests.processes import await_end, eventually

_NO_LIMITS = "a thread cannot be interrupted; Celery has no time limits for it"
_NO_LOSS = (
    "the thread's job never ends: its message stays held and its slot taken until the worker stops"
)
DIFFERENCES: dict[tuple[str, str], str] = {
    ("test_a_soft_limit_can_be_caught", "threads"): _NO_LIMITS,
    ("test_a_soft_limit_that_is_not_caught_fails_the_job", "threads"): _NO_LIMITS,
    ("test_a_hard_limit_ends_the_job_and_nothing_else", "threads"): _NO_LIMITS,
    ("test_a_running_job_can_be_ended_from_outside", "threads"): "a thread cannot be interrupted",
    ("test_a_pool_grows_and_shrinks", "threads"): "the executor's size is fixed",
    (
        "test_a_job_that_ends_forbids_no_other_to_wait",
        "threads",
    ): "Celery keeps in one variable of the process whether jobs may wait",
    (
        "test_a_jobs_process_was_prepared_once",
        "threads",
    ): "it has no processes, and does not send that signal for its own one",
    (
        "test_a_soft_limit_can_be_caught",
        "ours, plain",
    ): "a thread cannot be interrupted; the limit is only reported",
    (
        "test_a_soft_limit_that_is_not_caught_fails_the_job",
        "ours, plain",
    ): "as above; the hard limit holds",
}
"""By promise and pool the reason why that pool does not keep it.

Each is tried: one that is kept is a failure here.
"""

NOT_TRIED: dict[tuple[str, str], str] = {
    (
        "test_a_job_that_is_always_lost_fails_in_the_end",
        "prefork",
    ): "Celery sends it back for ever, as fast as it forks",
    ("test_an_error_that_is_no_exception_is_a_failure_all_the_same", "threads"): _NO_LOSS,
    ("test_a_job_that_ends_its_process_is_lost_and_the_worker_goes_on", "threads"): _NO_LOSS,
    ("test_a_lost_job_runs_again_where_the_task_asks_for_it", "threads"): _NO_LOSS,
    ("test_a_job_that_is_always_lost_fails_in_the_end", "threads"): _NO_LOSS,
}
"""What would not end, or keep the worker from all that follows."""


@pytest.fixture(autouse=True)
def _different(request: pytest.FixtureRequest) -> None:
    promise = request.node.originalname, request.node.callspec.params["pool"]
    if reason := NOT_TRIED.get(promise):
        pytest.skip(reason)
    if reason := DIFFERENCES.get(promise):
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))


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
def test_an_error_that_does_not_travel_is_stored_with_its_words(
    pool: Any, kind: str, stored: str, words: str
) -> None:
    result = pool.send("fails_oddly", kind)
    result.get(timeout=10, propagate=False)
    meta = json.loads(pool.store.get(f"celery-task-meta-{result.id}"))
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", stored)
    assert words in str(meta["result"]["exc_message"])


def test_an_error_that_is_no_exception_is_a_failure_all_the_same(pool: Any) -> None:
    result = pool.send("stops").get(timeout=10, propagate=False)
    assert type(result).__name__ == "Stop"
    eventually(lambda: pool.held() == 0)


def test_a_state_that_a_task_tells_can_be_read_while_it_runs(pool: Any, key: str) -> None:
    result = pool.send("tells", key)
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
    pool.told(key, "ran")
    eventually(lambda: pool.held() == 0)
    assert result.state == "PENDING"


# -- acknowledging


def test_a_message_is_held_until_its_job_has_ended(pool: Any, key: str) -> None:
    eventually(lambda: pool.held() == 0, what="the end of earlier acknowledgements")
    result = pool.send("waits", key, 0.5)
    pool.told(key, "began")
    assert pool.held() == 1
    assert result.get(timeout=60) == "waited"
    eventually(lambda: pool.held() == 0)


def test_a_message_is_let_go_at_the_start_where_the_task_says_so(pool: Any, key: str) -> None:
    result = pool.send("waits_early", key, 5.0)
    pool.told(key, "began")
    eventually(lambda: pool.held() == 0, within_s=4)
    result.get(timeout=60)


def test_the_message_of_a_failed_job_is_let_go(pool: Any) -> None:
    with pytest.raises(ValueError, match="x"):
        pool.send("fails", "x").get(timeout=60)
    eventually(lambda: pool.held() == 0)


def test_a_rejected_job_comes_back_where_it_asks_for_that(pool: Any, key: str) -> None:
    assert pool.send("rejects", key, True).get(timeout=60) == "came back"


def test_a_job_that_is_rejected_for_good_fails(pool: Any, key: str) -> None:
    with pytest.raises(Reject):
        pool.send("rejects", key, False).get(timeout=60)
    eventually(lambda: pool.held() == 0)


def test_an_ignored_job_stores_nothing_and_is_let_go(pool: Any, key: str) -> None:
    result = pool.send("ignores", key)
    pool.told(key, "ran")
    eventually(lambda: pool.held() == 0)
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


# -- hooks, signals, requests


@pytest.mark.parametrize(
    ("ending", "seen"),
    [
        ("succeeds", ["on_success", "task_success", "after_return SUCCESS"]),
        ("fails", ["on_failure ValueError", "task_failure", "after_return FAILURE"]),
    ],
)
def test_hooks_and_signals_come_once_and_in_order(pool: Any, ending: str, seen: list[str]) -> None:
    result = pool.send("hooked", ending)
    result.get(timeout=10, propagate=False)
    pool.told(result.id, "task_prerun", "before_start", "body", *seen, "task_postrun")


def test_a_jobs_process_was_prepared_once(pool: Any) -> None:
    assert pool.send("finds_prepared").get(timeout=60) == 1


def test_each_of_several_jobs_sees_its_own_request(pool: Any) -> None:
    for result in [pool.send("who", 0.1) for _ in range(8)]:
        assert set(result.get(timeout=60)) == {result.id}


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
    eventually(lambda: pool.held() == 0)


def test_as_many_jobs_run_at_once_as_the_concurrency_says_and_no_more(pool: Any, key: str) -> None:
    results = [pool.send("counts", key) for _ in range(12)]
    assert 1 < max(result.get(timeout=60) for result in results) <= 4  # prefork may be forking one


def test_a_rate_limit_holds(pool: Any, key: str) -> None:
    for _ in range(6):
        pool.send("limited", key)
    eventually(lambda: len(pool.journal(key)) == 6)
    at = sorted(map(float, pool.journal(key)))
    assert at[-1] - at[0] >= 0.8


# -- revoking, waiting


def test_a_job_that_is_revoked_before_it_began_never_runs(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 0, countdown=1.0)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert pool.journal(key) == []


def test_a_running_job_can_be_ended_from_outside(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 2.0)
    pool.told(key, "began")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert pool.send("add", 1).get(timeout=60) == 2
    eventually(lambda: pool.held() == 0)


def test_a_job_that_has_expired_never_runs(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 0, expires=-1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert pool.journal(key) == []


def test_a_job_with_a_countdown_does_not_begin_before(pool: Any, key: str) -> None:
    sent = time.time()
    assert pool.send("waits", key, 0, countdown=0.8).get(timeout=60) == "waited"
    assert time.time() - sent >= 0.8


# -- canvas


def test_canvases_work(pool: Any, key: str) -> None:
    add = pool.task
    assert chain(add("add", 1, 2), add("add", 3), app=pool.app).apply_async().get(timeout=60) == 6
    members = [add("add", n, n) for n in range(3)]
    assert group(members, app=pool.app).apply_async().get(timeout=60) == [0, 2, 4]
    assert chord(members, app=pool.app)(add("total")).get(timeout=60) == 6
    assert pool.send("replaced", 1).get(timeout=60) == 11
    assert pool.task("add", 1).apply_async(link=add("noted", key)).get(timeout=60) == 2
    pool.told(key, "2")


def test_map_and_starmap_give_what_their_items_give(pool: Any) -> None:
    for kind, items, given in (("map", [1, 2], [2, 3]), ("starmap", [(1, 2), (3, 4)], [3, 7])):
        arguments = {"task": pool.task("add"), "it": items}
        whole = pool.app.signature(f"celery.{kind}", kwargs=arguments)
        assert whole.apply_async().get(timeout=60) == given


def test_chunks_give_what_their_items_give_chunk_by_chunk(pool: Any) -> None:
    whole = chunks(pool.task("add"), [(1, 2), (3, 4), (5, 6)], 2, app=pool.app)
    assert whole.apply_async().get(timeout=60) == [[3, 7], [11]]


def test_a_failure_calls_its_errback_and_fails_its_chord(pool: Any) -> None:
    result = pool.task("fails", "err").apply_async(link_error=pool.task("failed_with"))
    with pytest.raises(ValueError, match="err"):
        result.get(timeout=60)
    pool.told(f"errback:{result.id}", "ValueError('err')")
    # Celery tells the part's error, or where that part is counted last its own with those words.
    with pytest.raises((ValueError, ChordError), match="part"):
        chord([pool.task("add", 1), pool.task("fails", "part")], app=pool.app)(
            pool.task("total")
        ).get(timeout=60)


def test_a_job_may_send_others(pool: Any, key: str) -> None:
    result = pool.send("sends", key)
    assert result.get(timeout=60) == result.id
    pool.told(key, "[2, 4]")


def test_a_job_may_wait_for_another_where_it_says_so(pool: Any) -> None:
    assert pool.send("joins", 4).get(timeout=30) == [5, 4, 5]


def test_a_job_that_ends_forbids_no_other_to_wait(pool: Any, key: str) -> None:
    results = []
    for name in ("first", "second"):
        results.append(pool.send("joins_when_told", f"{name}-{key}"))
        pool.told(f"{name}-{key}", "may")
    for name, result in zip(("first", "second"), results, strict=True):
        pool.store.set(f"go:{name}-{key}", 1)
        assert result.get(timeout=60) == 2


def test_a_job_may_ask_its_own_worker_and_is_seen_to_run(pool: Any) -> None:
    assert pool.send("asks").get(timeout=30) is True


def test_a_job_with_a_connection_of_its_own_disturbs_no_other(pool: Any, key: str) -> None:
    slow = [pool.send("waits", f"{key}{number}", 0.4) for number in range(4)]
    results = [pool.send("consumes", f"{key}{number}") for number in range(4)]
    assert [result.get(timeout=60) for result in results] == ["a word"] * 4
    assert [result.get(timeout=60) for result in slow] == ["waited"] * 4


# -- what costs a worker


def test_a_job_that_ends_its_process_is_lost_and_the_worker_goes_on(pool: Any, key: str) -> None:
    with pytest.raises(WorkerLostError):
        pool.send("ends", key).get(timeout=60)
    assert pool.journal(key) == ["ran"]
    assert pool.send("add", 1).get(timeout=60) == 2


def test_a_lost_job_runs_again_where_the_task_asks_for_it(pool: Any, key: str) -> None:
    assert pool.send("ends_again", key, 1).get(timeout=60) == "survived"


def test_a_job_that_is_always_lost_fails_in_the_end(pool: Any, key: str) -> None:
    result = pool.send("ends_again", key, 6)
    assert isinstance(result.get(timeout=30, propagate=False), Exception)
    eventually(lambda: pool.held() == 0)


# -- remote control


def test_remote_control_sees_and_steers_the_pool(pool: Any, key: str) -> None:
    result = pool.send("waits", key, 0.5)
    pool.told(key, "began")
    (active,) = pool.ask("active")
    assert active["id"] == result.id
    assert isinstance(active["worker_pid"], int)
    assert pool.ask("stats")["pool"]["max-concurrency"] == 4
    assert "ok" in pool.ask(
        "time_limit", task_name="tests.workers.pools.pools_app.add", soft=9, hard=10
    )
    assert "ok" in pool.ask(
        "rate_limit", task_name="tests.workers.pools.pools_app.total", rate_limit="100/s"
    )
    assert result.get(timeout=60) == "waited"


def test_a_pool_grows_and_shrinks(pool: Any) -> None:
    assert pool.ask("pool_grow", n=2) == {"ok": "pool will grow"}
    assert pool.ask("pool_shrink", n=2) == {"ok": "pool will shrink"}


def test_a_pool_is_restarted_and_works_on(pool: Any) -> None:
    assert pool.ask("pool_restart") == {"ok": "reload started"}
    assert pool.send("add", 1).get(timeout=60) == 2


# -- the end; these come last


def test_nothing_is_left_running_or_held(pool: Any) -> None:
    eventually(lambda: pool.ask("active") == [], what="the end of all jobs")
    eventually(lambda: pool.held() == 0, what="the end of all acknowledgements")


def test_a_warm_shutdown_lets_jobs_end_and_gives_the_others_back(
    pool: Any, key: str, request: pytest.FixtureRequest
) -> None:
    results = [pool.send("waits", key, 0.5) for _ in range(7)]
    eventually(lambda: pool.journal(key))
    pool.process.send_signal(signal.SIGTERM)
    assert await_end(pool.process, within_s=20) == 0
    ended = {result.id for result in results if result.state == "SUCCESS"}
    assert pool.journal(key).count("began") == pool.journal(key).count("ended") == len(ended) > 0
    given_back = [
        json.loads(message)["headers"]["id"] for message in pool.store.lrange("pools", 0, -1)
    ]
    assert sorted(set(given_back) - ended) == sorted({result.id for result in results} - ended)
    assert len(given_back) == len(set(given_back))
    # While prefork ends, a thread of its takes acknowledgements out of the set to which its main
    # thread still adds: the one that is added as the set is taken is lost, and its job, though it
    # has ended, is given back.
    assert len(ended.intersection(given_back)) <= ("prefork" in request.node.name)
    assert pool.held() == 0
