"""A Redis that hangs, is full, or cannot write to its disk.

And what a killed worker had deferred.
"""

import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import kill
from threading import Thread
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from tests.processes import Fleet, eventually, fleets

WIDE: dict[str, Any] = {
    "groq_keys": 3, "groq_rpm": 12_000, "groq_rpd": 10**7, "groq_tpm": 10**7, "groq_tpd": 0,
    "groq_latency_ms": 300,
    "resend_keys": 2, "resend_rps": 50, "resend_daily": 0, "resend_monthly": 0,
    "resend_latency_ms": 300,
}  # fmt: skip
SHORT = {
    "KEYWHEEL_WORKER_LEASE_S": "3",
    "KEYWHEEL_MAX_WAIT_S": "0.5",
    "KEYWHEEL_RETRY_BACKOFF_S": "0.05",
    # an email that a worker died with is tried again once its call must be over: 9 s
    "KEYWHEEL_RESEND_TIMEOUT_S": "2",
}
JOBS, EMAILS = 40, 20


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers for all of these tests; the last one kills one of them."""
    with fleets(lambda: tmp_path_factory.mktemp("fleet")) as start:
        yield start(settings=SHORT, count=2, **WIDE)


def send(fleet: Fleet, name: str) -> list[str]:
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": f"{name} {n}"} for n in range(JOBS)])
    mail = {"to": "ann@example.com", "text": "Hello"}
    return ids + fleet.producer.many(
        "tasks.email.send", [mail | {"subject": f"{name} {n}"} for n in range(EMAILS)]
    )


def assert_all_good(fleet: Fleet, name: str, ended: dict[str, dict[str, Any]]) -> None:
    assert [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"] == []
    accepted = [fleet.sandbox.mail().get(f"{name} {n}", []) for n in range(EMAILS)]
    assert {len(accounts) for accounts in accepted} == {1}


@contextmanager
def hanging(fleet: Fleet) -> Iterator[None]:
    """The server takes connections and answers nothing, as behind a dead link."""
    assert fleet.redis.pid is not None
    kill(fleet.redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        kill(fleet.redis.pid, signal.SIGCONT)


def test_a_redis_that_hangs_delays_the_jobs_and_loses_none(fleet: Fleet) -> None:
    ids = send(fleet, "hanging")
    eventually(lambda: "hanging 0" in fleet.sandbox.mail(), what="jobs under way")
    with hanging(fleet):
        time.sleep(
            4
        )  # longer than the leases of the workers: it is the length of the trouble that is tested
    assert_all_good(fleet, "hanging", fleet.producer.await_all(ids, within_s=60))


@contextmanager
def full(fleet: Fleet) -> Iterator[None]:
    """No memory is left: `maxmemory` is reached, and nothing may be evicted."""
    with redis.Redis.from_url(fleet.redis.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


@contextmanager
def disk_full(fleet: Fleet) -> Iterator[None]:
    """The append-only file cannot grow: its size is at the limit of the process."""
    assert fleet.redis.pid is not None
    usual = resource.prlimit(fleet.redis.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(fleet.redis.pid, resource.RLIMIT_FSIZE, (1, usual[1]))
    try:
        with redis.Redis.from_url(fleet.redis.url) as client:
            eventually(lambda: refuses(client), what="a refused write")
        yield
    finally:
        resource.prlimit(fleet.redis.pid, resource.RLIMIT_FSIZE, usual)


def run_for_ever(client: "redis.Redis") -> None:
    with suppress(redis.ResponseError):  # it is killed in the end
        client.eval("while true do end", 0)


@contextmanager
def busy(fleet: Fleet) -> Iterator[None]:
    """Somebody's script runs and runs, and all others are turned away."""
    with (
        redis.Redis.from_url(fleet.redis.url) as client,
        redis.Redis.from_url(fleet.redis.url) as other,
    ):
        client.config_set("busy-reply-threshold", 50)
        script = Thread(target=run_for_ever, args=(client,))
        script.start()
        try:
            eventually(lambda: refuses(other), what="a refused write")
            yield
        finally:
            other.script_kill()
            script.join()


def refuses(client: "redis.Redis") -> bool:
    try:
        client.set("probe", "x", ex=60)
    except redis.ResponseError:
        return True
    return False


# What is full, and the word by which a producer learns of it.
@pytest.mark.parametrize(
    ("trouble", "word"),
    [
        (full, "maxmemory"),  # the memory
        (disk_full, "MISCONF"),  # the disk
        (busy, "BUSY"),  # nothing: it is busy
    ],
)
def test_a_redis_that_takes_nothing_refuses_new_jobs_in_words_and_does_all_that_it_took(
    fleet: Fleet, trouble: Callable[[Fleet], Any], word: str
) -> None:
    ids = send(fleet, word)
    eventually(lambda: f"{word} 0" in fleet.sandbox.mail(), what="jobs under way")
    with trouble(fleet):
        with pytest.raises((OperationalError, redis.ResponseError), match=word):
            fleet.producer.many("tasks.ai.complete", [{"prompt": "too much"}])
        time.sleep(2)  # as above
    assert_all_good(fleet, word, fleet.producer.await_all(ids, within_s=60))
    assert fleet.producer.ask("tasks.ai.complete", prompt="hello")["text"]
    assert all(worker.process.poll() is None for worker in fleet.workers)


def test_what_a_killed_worker_had_and_what_it_had_deferred_is_done_in_time_by_another(
    fleet: Fleet,
) -> None:
    for service in ("groq", "resend"):
        fleet.sandbox.control("exhaust", service=service, seconds=5)
    first = fleet.workers[0]
    before = first.log.count("Deferred(")
    ids = send(fleet, "waits")
    eventually(
        lambda: first.log.count("Deferred(") > before,
        what="a job that the first worker has deferred",
    )
    first.kill()
    assert_all_good(fleet, "waits", fleet.producer.await_all(ids, within_s=60))
