"""Promises to tasks, in one worker process with uvloop and the asynchronous result backend."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
import redis
from celery import chain, chord, group
from kombu.exceptions import EncodeError

from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess
from worker.aio.once import apply_once

Journal = Callable[[str], list[str]]


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


def test_a_light_retry_is_reported_like_any_other_but_without_a_traceback(
    app: ModuleType, store: "redis.Redis"
) -> None:
    retries: list[dict[str, Any]] = []
    heard_by = store.pubsub_numpat()
    with app.app.connection_for_read() as connection:
        receiver = app.app.events.Receiver(connection, handlers={"task-retried": retries.append})
        with receiver.consumer_context() as (listening, _, __):
            while store.pubsub_numpat() == heard_by:  # kombu subscribes when it first waits
                with suppress(TimeoutError):
                    listening.drain_events(timeout=0.1)
            result = app.light.delay("late")
            while not any(event["uuid"] == result.id for event in retries):
                listening.drain_events(timeout=20)
    [event] = [event for event in retries if event["uuid"] == result.id]
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


def test_a_job_waits_neither_for_an_ignored_result_nor_behind_a_revoked_job(
    app: ModuleType,
) -> None:
    assert app.awaits_nothing.delay().get(timeout=60) is None
    assert app.awaits_revoked.delay().get(timeout=20) == "TaskRevokedError TaskRevokedError"


def test_many_jobs_send_groups_at_once(app: ModuleType) -> None:
    # Each job takes a producer for several messages, and there are ten.
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


def test_a_task_that_blocks_the_loop_is_named_with_its_stack(
    app: ModuleType, worker: WorkerProcess
) -> None:
    result = app.blocks.delay()
    result.get(timeout=60)
    eventually(lambda: f"task aio_app.blocks[{result.id}] has blocked the event loop" in worker.log)
    assert "time.sleep(0.8)" in worker.log
