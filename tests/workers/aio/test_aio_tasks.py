"""What a task may rely on, in one worker process with uvloop and the awaited result backend."""

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
import redis
from celery import chain, chord, group
from celery.exceptions import (
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from kombu.exceptions import EncodeError

from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess
from worker.aio.errors import LostTooOften, UnexpectedCancellation
from worker.aio.once import apply_once

Journal = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    return start_worker(AIO_QUEUE="aio")


@pytest.fixture
def app(aio: ModuleType, worker: WorkerProcess) -> ModuleType:
    """The tasks, with a worker behind them."""
    return aio


@pytest.fixture
def inspect(app: ModuleType, worker: WorkerProcess) -> Callable[..., Any]:
    def ask(command: str, **arguments: Any) -> Any:
        replies = app.app.control.broadcast(
            command, destination=[worker.name], arguments=arguments, reply=True, timeout=10, limit=1
        )
        return replies[0][worker.name]

    return ask


def test_every_part_of_hundreds_of_interleaved_jobs_sees_its_own_request(app: ModuleType) -> None:
    results = [app.who.delay(0.01 * (n % 7)) for n in range(300)]
    for result in results:
        assert set(result.get(timeout=30)) == {result.id}


def test_a_failure_keeps_the_users_own_lines_in_its_traceback(app: ModuleType) -> None:
    result = app.boom.delay("no luck")
    with pytest.raises(ValueError, match="no luck"):
        result.get(timeout=60)
    assert "raise ValueError(text)  # the user's own line" in result.traceback


BEGIN = ["signal task_prerun", "before_start True", "body"]
SUCCEED = [
    *BEGIN,
    "on_success",
    "signal task_success",
    "after_return SUCCESS",
    "signal task_postrun",
]
FAIL = [
    *BEGIN,
    "on_failure ValueError",
    "signal task_failure",
    "after_return FAILURE",
    "signal task_postrun",
]
RETRY = [*BEGIN, "on_retry", "signal task_retry", "signal task_postrun"]


@pytest.mark.parametrize(
    ("task", "plan", "runs"),
    [
        ("hooked", "succeed", [SUCCEED]),
        ("hooked", "fail", [FAIL]),
        # two retries are allowed; the third failure is final, with the first's error
        ("hooked", "retry", [RETRY, RETRY, FAIL]),
        ("light", "retry", [RETRY, RETRY, FAIL]),
    ],
)
def test_hooks_and_signals_come_in_order_and_once(
    app: ModuleType, journal: Journal, task: str, plan: str, runs: list[list[str]]
) -> None:
    result = getattr(app, task).delay(plan)
    if plan == "succeed":
        assert result.get(timeout=60) == plan
    else:
        with pytest.raises(ValueError, match=plan):
            result.get(timeout=60)
    for number, expected in enumerate(runs):
        eventually(lambda at=f"{result.id}:{number}", end=expected[-1:]: journal(at)[-1:] == end)
        assert journal(f"{result.id}:{number}") == expected


def test_a_light_retry_shows_as_any_other_without_a_traceback(
    app: ModuleType, store: "redis.Redis"
) -> None:
    heard: list[dict[str, Any]] = []
    heard_by = store.pubsub_numpat()
    with app.app.connection_for_read() as connection:
        receiver = app.app.events.Receiver(connection, handlers={"task-retried": heard.append})
        with receiver.consumer_context() as (listening, _, __):
            while store.pubsub_numpat() == heard_by:  # kombu subscribes when it first waits
                with suppress(TimeoutError):
                    listening.drain_events(timeout=0.1)
            result = app.light.delay("late")
            while not any(event["uuid"] == result.id for event in heard):
                listening.drain_events(timeout=20)
    [event] = [event for event in heard if event["uuid"] == result.id]
    assert re.fullmatch(r"Retry\(Retry\(\.\.\.\), ValueError\('late'\), 3600\)", event["exception"])
    assert event["traceback"] == ""
    eventually(lambda: result.state == "RETRY")
    assert (str(result.result), result.traceback) == ("late", None)
    message = json.loads(str(store.hget("late.due.texts", result.id)))
    assert (message["headers"]["retries"], message["headers"]["eta"]) == (1, None)
    left_s = float(store.zscore("late.due", result.id) or 0) / 1e6 - float(store.time()[0])  # type: ignore[index]
    assert 3500 < left_s <= 3601
    store.delete("late.due", "late.due.texts", "late.due.next")


def test_autoretry_retries_a_coroutine(app: ModuleType) -> None:
    assert app.autoretried.delay().get(timeout=60) == 2


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("catch", "caught"),
        (
            "timeout inside",
            "cancelling 0",
        ),  # a soft limit is no cancellation that asyncio.timeout would count
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


def test_what_follows_the_body_has_as_long_again_as_the_hard_limit(
    app: ModuleType, journal: Journal
) -> None:
    result = app.tidy.delay()
    assert result.get(timeout=60) == "done"
    eventually(lambda: journal(result.id) == ["tidied up"])
    assert result.state == "SUCCESS"


def test_a_hook_that_raises_after_the_hard_limit_does_not_keep_the_message(
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
def test_a_cancellation_that_nobody_asked_for_is_a_failure(app: ModuleType, name: str) -> None:
    with pytest.raises(UnexpectedCancellation):
        getattr(app, name).delay().get(timeout=60)


ENDINGS = ["SystemExit", "KeyboardInterrupt", "MemoryError", "GeneratorExit", "child SystemExit"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_job_that_means_to_end_the_process_counts_as_lost(app: ModuleType, ending: str) -> None:
    with pytest.raises(WorkerLostError):
        app.ends.delay(ending).get(timeout=60)
    assert app.add.delay(2, 2).get(timeout=60) == 4


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_lost_job_runs_again_where_the_task_asks_for_it(
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


def test_runs_that_a_workers_death_cut_short_count_as_well(
    app: ModuleType, key: str, store: Any
) -> None:
    with pytest.raises(LostTooOften, match="5 runs"):
        app.ends_always.apply_async(("SystemExit", key), headers={"deaths": 3}).get(timeout=60)
    assert store.get(f"count:{key}") == "2"
    with pytest.raises(LostTooOften, match="7 runs"):
        app.ends_always.apply_async(("SystemExit", key), headers={"deaths": 7}).get(timeout=60)
    assert store.get(f"count:{key}") == "2"


@pytest.mark.parametrize("ending", ["SystemExit", "KeyboardInterrupt", "MemoryError"])
def test_a_plain_task_that_means_to_end_the_process_counts_as_lost_too(
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


def test_canvases_work(app: ModuleType, key: str, journal: Journal) -> None:
    assert chain(app.add.s(1, 2), app.add.s(3), app.add.s(4)).apply_async().get(timeout=60) == 10
    assert group(app.add.s(n, n) for n in range(5)).apply_async().get(timeout=60) == [0, 2, 4, 6, 8]
    assert chord([app.add.s(n, n) for n in range(5)])(app.total.s()).get(timeout=60) == 20
    assert app.replaced.delay(1).get(timeout=60) == 5
    assert app.add.apply_async((1, 2), link=app.note_task.s(key)).get(timeout=60) == 3
    eventually(lambda: journal(key) == ["3"])


def test_a_failure_calls_its_errback_and_fails_its_chord(app: ModuleType, journal: Journal) -> None:
    result = app.boom.apply_async(("err",), link_error=app.failed_with.s())
    with pytest.raises(ValueError, match="err"):
        result.get(timeout=60)
    eventually(lambda: journal(f"errback:{result.id}") == ["ValueError('err')"])
    with pytest.raises(ValueError, match="part"):
        chord([app.add.s(1, 1), app.boom.s("part")])(app.total.s()).get(timeout=60)


def test_a_job_publishes_and_awaits_other_jobs(app: ModuleType) -> None:
    assert app.parent.delay().get(timeout=20) == [3, [1, 2, 3], 6, 10, True]
    assert app.awaits_failure.delay().get(timeout=20) == ["inner", "ValueError", "TimeoutError"]


def test_a_job_does_not_wait_for_what_never_comes(app: ModuleType) -> None:
    assert app.awaits_nothing.delay().get(timeout=60) is None
    assert app.awaits_revoked.delay().get(timeout=20) == "TaskRevokedError TaskRevokedError"


def test_many_jobs_send_groups_at_once(app: ModuleType) -> None:
    # Each takes a producer for several messages, and there are ten.
    replaced = [app.replaced.delay(n) for n in range(50)]
    spread = [app.spreads.delay(n) for n in range(50)]
    assert [result.get(timeout=40) for result in replaced] == [2 * n + 3 for n in range(50)]
    assert [result.get(timeout=40) for result in spread] == [2 * (3 * n + 6) for n in range(50)]


def test_a_job_is_sent_once_under_its_id_unless_it_failed(
    app: ModuleType, key: str, journal: Journal
) -> None:
    for _ in range(3):
        assert apply_once(app.sleep.s(0, key), task_id=key).get(timeout=60) == 0
    assert journal(key) == ["began", "ended"]
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            apply_once(app.boom.s("no luck"), task_id=f"{key}-failed").get(timeout=60)
    with pytest.raises(EncodeError):
        apply_once(app.sleep.s(object()), task_id=f"{key}-unsent")
    assert apply_once(app.sleep.s(0), task_id=f"{key}-unsent").get(timeout=60) == 0
    for _ in range(2):
        whole = chord([app.add.s(1, 1), app.add.s(2, 2)], app.total.s())
        assert apply_once(whole, task_id=f"{key}-chord").get(timeout=60) == 6
    several = group(app.add.s(1), app.add.s(2))
    for each in (several, chain(app.add.s(1, 1), several)):
        with pytest.raises(TypeError, match="make it a chord"):
            apply_once(each, task_id=f"{key}-group")


def test_plain_tasks_run_in_threads_and_see_their_request(app: ModuleType) -> None:
    results = [app.plain.delay(0.05) for _ in range(30)]
    for result in results:
        assert result.get(timeout=60) == [result.id, result.id, "aio-task-"]


def test_a_plain_task_may_return_a_coroutine(app: ModuleType) -> None:
    result = app.plain_mixed.delay()
    assert result.get(timeout=60) == [result.id, result.id]


def test_a_plain_task_over_its_hard_limit_is_reported_and_its_late_result_dropped(
    app: ModuleType,
) -> None:
    result = app.plain_stuck.delay()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=60)
    time.sleep(1.0)  # its thread ends meanwhile; nothing announces that
    assert result.backend.get_task_meta(result.id, cache=False)["status"] == "FAILURE"


def test_a_task_that_blocks_the_loop_is_named_with_its_stack(
    app: ModuleType, worker: WorkerProcess
) -> None:
    result = app.blocks.delay()
    result.get(timeout=60)
    eventually(lambda: f"task aio_app.blocks[{result.id}] has blocked the event loop" in worker.log)
    assert "time.sleep(0.8)" in worker.log


def test_remote_control_sees_and_steers_the_pool(
    app: ModuleType, inspect: Callable[..., Any], key: str, journal: Journal
) -> None:
    results = [app.sleep.delay(2, f"{key}{n}") for n in range(3)]
    eventually(lambda: all(journal(f"{key}{n}") for n in range(3)))
    active = eventually(lambda: len(found := inspect("active")) == 3 and found)
    assert {task["id"] for task in active} == {result.id for result in results}
    assert len({task["worker_pid"] for task in active}) == 3
    stats = inspect("stats")["pool"]
    assert stats["implementation"] == "worker.aio.pool:TaskPool"
    assert (stats["max-concurrency"], stats["running"], stats["queued"]) == (100, 3, 0)
    assert "uvloop" in stats["loop"]
    assert inspect("pool_grow", n=5) == {"ok": "pool will grow"}
    assert inspect("stats")["pool"]["max-concurrency"] == 105
    assert inspect("pool_shrink", n=5) == {"ok": "pool will shrink"}
    assert inspect("stats")["pool"]["max-concurrency"] == 100
    assert inspect("pool_restart") == {"ok": "reload started"}
    assert inspect("rate_limit", task_name="aio_app.limited", rate_limit="20/s") == {
        "ok": "new rate limit set successfully"
    }
    assert "ok" in inspect("time_limit", task_name="aio_app.unhurried", soft=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        app.unhurried.delay().get(timeout=60)
    for result in results:  # none of that hurt them
        assert result.get(timeout=60) == 2


def test_rate_limits_hold(app: ModuleType, key: str, store: Any) -> None:
    for _ in range(10):
        app.limited.delay(key)
    eventually(lambda: store.llen(f"at:{key}") == 10)
    at = sorted(float(each) for each in store.lrange(f"at:{key}", 0, -1))
    assert at[-1] - at[0] >= 9 / 20 * 0.8


def test_a_rate_limit_that_is_set_while_the_worker_runs_holds_until_it_is_lifted(
    app: ModuleType, inspect: Callable[..., Any], key: str, store: Any
) -> None:
    def pace_s(at: str) -> float:
        for _ in range(8):
            app.hurried.delay(at)
        eventually(lambda: store.llen(f"at:{at}") == 8)
        times = sorted(float(each) for each in store.lrange(f"at:{at}", 0, -1))
        return (times[-1] - times[0]) / 7

    def limit(text: str) -> None:
        assert "ok" in inspect("rate_limit", task_name="aio_app.hurried", rate_limit=text)

    limit("5/s")
    assert pace_s(f"{key}limited") >= 0.2 * 0.8
    limit("0")
    assert pace_s(f"{key}free") < 0.1


def test_no_job_is_left_running(inspect: Callable[..., Any]) -> None:
    eventually(lambda: inspect("stats")["pool"]["running"] == 0, what="the end of all jobs")
    assert inspect("active") == []
    assert inspect("reserved") == []


def test_nothing_is_left_unacknowledged(app: ModuleType, store: Any) -> None:
    assert app.add.delay(1, 1).get(timeout=60) == 2
    eventually(lambda: store.hlen("unacked") == 0, what="the end of all acknowledgements")


def test_nothing_unexpected_was_logged(worker: WorkerProcess) -> None:
    for sign in (
        "a callback of the pool raised",
        "Unrecoverable",
        "never retrieved",
        "Pending callback",
        "Error in timer",
    ):
        assert sign not in worker.log
