"""A result store that is down, is full, or lacks a right, while jobs have results."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.backend_jobs import Run, TaskIn, meta_of
from tests.processes import eventually
from worker.aio import backend


def test_a_result_store_that_is_down_for_a_moment_loses_nothing(
    app: Celery,
    run: Run,
    aio_redis: EmbeddedRedis,
    store: "redis.Redis",
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("warm up")[1].result(10)
    aio_redis.stop()
    jobs = [run(n) for n in range(20)]
    eventually(lambda: "cannot reach the result store" in caplog.text)
    assert not any(done.done() for _, done in jobs)
    aio_redis.start()
    for number, (task_id, done) in enumerate(jobs):
        assert done.result(15)[0] == 0
        assert eventually(lambda task_id=task_id: meta_of(store, task_id))["result"] == number


def test_a_read_gives_up_after_the_tries_of_the_retry_policy(
    app: Celery, aio_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_lines = list[str]()
    monkeypatch.setattr(backend, "warn", lambda words, *about: log_lines.append(words % about))
    pauses = {"interval_start": 0.01, "interval_step": 0.02, "interval_max": 0.04}
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 3, **pauses}}
    with _away(aio_redis), pytest.raises(redis.ConnectionError):
        asyncio.run(asyncio.wait_for(app.backend.run(("GET", "key")), 20))
    assert [line.split("; ")[-1] for line in log_lines] == [
        "try 1 of 3 in 0.01 s",
        "try 2 of 3 in 0.03 s",
        "try 3 of 3 in 0.04 s",
    ]


@contextmanager
def _full(server: EmbeddedRedis) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def _away(server: EmbeddedRedis) -> Iterator[None]:
    server.stop()
    yield
    server.start()


async def _quick(value: str) -> str:
    return value


def _quick_plain(value: str) -> str:
    return value


@pytest.mark.parametrize("body", [_quick, _quick_plain])
@pytest.mark.parametrize(
    ("trouble", "words"),
    [(_full, "the result store rejects commands"), (_away, "cannot reach the result store")],
)
def test_a_job_that_is_done_is_not_cut_while_the_result_store_takes_nothing(  # noqa: PLR0917 - fixtures
    app: Celery,
    aio_redis: EmbeddedRedis,
    store: "redis.Redis",
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[EmbeddedRedis], Any],
    words: str,
    body: Callable[[str], Any],
) -> None:
    app.conf.result_backend_transport_options = {
        "retry_policy": {"max_retries": 2, "interval_step": 0.1, "interval_max": 0.2}
    }
    limits: list[bool] = []
    app.task(body, shared=False, name="quick")
    with TaskIn(
        app, "quick", (), timeout=0.3, timeout_callback=lambda soft, _: limits.append(soft)
    ) as again:
        with trouble(aio_redis):
            task_id, done = again("kept")
            eventually(lambda: words in caplog.text)
            began_s = time.monotonic()
            eventually(
                lambda: time.monotonic() > began_s + 2
            )  # the length is what this test is about: seven limits, ten tries
            assert not done.done()
        assert done.result(15)[0] == 0
    assert meta_of(store, task_id)["result"] == "kept"
    assert limits == []


def test_a_result_waits_until_the_right_that_a_script_lacks_is_granted(
    app: Celery, store: "redis.Redis"
) -> None:
    app.task(_quick, shared=False, name="quick")
    with TaskIn(app, "quick", ()) as again:
        store.acl_log_reset()
        store.execute_command("ACL", "SETUSER", "default", "-set")
        try:
            task_id, done = again("kept")
            eventually(store.acl_log)
            assert not done.done()
        finally:
            store.execute_command("ACL", "SETUSER", "default", "+@all")
        assert done.result(10)[0] == 0
    assert meta_of(store, task_id)["result"] == "kept"


def test_a_job_begins_though_it_cannot_be_stored_that_it_runs(
    app: Celery, store: "redis.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Event()

    async def begins(value: str) -> str:
        begun.set()
        return value

    app.task(begins, shared=False, name="begins", track_started=True)
    with TaskIn(app, "begins", ()) as again:
        store.execute_command("ACL", "SETUSER", "default", "-set")
        try:
            task_id, done = again("kept")
            assert begun.wait(10)
        finally:
            store.execute_command("ACL", "SETUSER", "default", "+@all")
        assert done.result(10)[0] == 0
    assert meta_of(store, task_id)["result"] == "kept"
    assert "cannot store that a job runs (" in caplog.text
