"""The end of a worker: warm, soft, cold, after two signals; and the fate of its jobs."""

import signal
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess

Journal = Callable[[str], list[str]]
Start = Callable[..., WorkerProcess]


def _send(aio: ModuleType, name: str, worker: WorkerProcess, *args: Any) -> Any:
    return getattr(aio, name).apply_async(args, queue=worker.queue)


def _ask(aio: ModuleType, worker: WorkerProcess, command: str, **arguments: Any) -> Any:
    """Inspect a worker as `celery inspect` does, and repeat the command until it replies.

    It subscribes just after it logs "ready".
    """
    replies = eventually(
        lambda: aio.app.control.broadcast(
            command, destination=[worker.name], arguments=arguments, reply=True, timeout=5, limit=1
        )
    )
    return replies[0][worker.name]


def _waiting(store: Any, worker: WorkerProcess) -> int:
    return int(store.llen(worker.queue))


def test_a_warm_shutdown_waits_for_running_jobs_and_gives_the_rest_back(
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    # Autoscale makes Celery prefetch for 6 while 2 run, so that some jobs wait inside the pool.
    worker = start_worker("-c", "2", "--prefetch-multiplier", "3")
    store.delete("journal:lifespan")
    results = [_send(aio, "gated", worker, f"{key}{n}", f"{key}gate", 2.0) for n in range(10)]
    eventually(lambda: journal(f"{key}0") == journal(f"{key}1") == ["began"])
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.log)
    store.set(f"{key}gate", 1)
    assert worker.await_exit() == 0
    assert [journal(f"{key}{n}") for n in range(10)] == [["began", "ended"]] * 2 + [[]] * 8
    assert [result.state for result in results] == ["SUCCESS"] * 2 + ["PENDING"] * 8
    assert _waiting(store, worker) == 8
    assert store.hlen("unacked") == 0
    assert journal("lifespan") == ["cancelled", "cleaned"]


def test_a_cold_shutdown_cancels_and_requeues(
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    worker = start_worker()
    for _ in range(3):
        _send(aio, "cleaned", worker, key)
    eventually(lambda: journal(key) == ["began"] * 3)
    worker.signal(signal.SIGQUIT)
    worker.await_exit()
    assert journal(key) == ["began"] * 3 + ["finally"] * 3
    assert _waiting(store, worker) == 3
    assert store.hlen("unacked") == 0


def test_a_second_signal_turns_a_warm_shutdown_cold(
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    worker = start_worker()
    _send(aio, "cleaned", worker, key)
    eventually(lambda: journal(key) == ["began"])
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.log)
    worker.signal(signal.SIGQUIT)
    worker.await_exit()
    assert journal(key) == ["began", "finally"]
    assert _waiting(store, worker) == 1


def test_ctrl_c_twice_turns_a_warm_shutdown_cold(
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    worker = start_worker()
    _send(aio, "cleaned", worker, key)
    eventually(lambda: journal(key) == ["began"])
    worker.signal(signal.SIGINT)
    eventually(lambda: "Warm shutdown" in worker.log)
    assert journal(key) == ["began"]
    worker.signal(signal.SIGINT)
    worker.await_exit()
    assert journal(key) == ["began", "finally"]
    assert _waiting(store, worker) == 1
    assert store.hlen("unacked") == 0


def test_a_cold_shutdown_requeues_no_job_that_was_acknowledged_early_and_begins_none(
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    worker = start_worker("-c", "1", "--prefetch-multiplier", "2")
    for number in range(2):
        _send(aio, "acks_early", worker, f"{key}{number}")
    eventually(lambda: journal(f"{key}0") == ["began"])
    # The running job is acknowledged, the waiting one is not.
    eventually(lambda: store.hlen("unacked") == 1)
    worker.signal(signal.SIGQUIT)
    worker.await_exit()
    assert journal(f"{key}0") == ["began", "finally"]
    assert journal(f"{key}1") == []
    assert _waiting(store, worker) == 1
    assert store.hlen("unacked") == 0


def test_a_soft_shutdown_lets_short_jobs_end_and_requeues_long_ones(
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    worker = start_worker(AIO_SOFT_S="2")
    short = [_send(aio, "gated", worker, f"{key}short", f"{key}gate") for _ in range(3)]
    _send(aio, "cleaned", worker, key)
    eventually(lambda: journal(f"{key}short") == ["began"] * 3 and journal(key) == ["began"])
    worker.signal(signal.SIGQUIT)
    eventually(lambda: "Soft Shutdown" in worker.log)
    store.set(f"{key}gate", 1)
    worker.await_exit()
    assert [result.state for result in short] == ["SUCCESS"] * 3
    assert journal(key) == ["began", "finally"]
    assert _waiting(store, worker) == 1
    assert store.hlen("unacked") == 0


@pytest.mark.parametrize("name", ["hangs", "hangs_loop"])
def test_a_job_that_hangs_does_not_hold_up_a_cold_shutdown(  # noqa: PLR0917 - fixtures
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any, name: str
) -> None:
    worker = start_worker()
    _send(aio, name, worker, key)
    eventually(lambda: journal(key) == ["began"])
    worker.signal(signal.SIGQUIT)
    worker.await_exit()
    assert _waiting(store, worker) == 1


@pytest.mark.parametrize("name", ["never_gives_in", "never_returns"])
def test_a_job_that_outlives_its_hard_limit_holds_up_neither_its_slot_nor_a_warm_shutdown(
    aio: ModuleType, start_worker: Start, name: str
) -> None:
    worker = start_worker("-c", "1", AIO_THREADS="1")
    for _ in range(2):
        with pytest.raises(TimeLimitExceeded):
            _send(aio, name, worker).get(timeout=60)
    assert _send(aio, "plain", worker, 0).get(timeout=60)
    assert _send(aio, "add", worker, 1, 2).get(timeout=60) == 3
    worker.signal(signal.SIGTERM)
    assert worker.await_exit() == 0
    assert "2 jobs that timed out or were terminated still run" in worker.log


def test_no_more_jobs_run_than_the_concurrency_allows_and_none_are_fetched_beyond_it(
    aio: ModuleType, start_worker: Start, key: str, store: Any
) -> None:
    worker = start_worker("-c", "5")
    now = [aio.counted.apply_async((key, 0.1), queue=worker.queue) for _ in range(20)]
    due = time.time() + 0.5
    # These become due together, more than the prefetch would have allowed.
    later = [
        aio.counted.apply_async((key, 0.1), queue=worker.queue, countdown=due - time.time())
        for _ in range(20)
    ]
    assert max(result.get(timeout=20) for result in now + later) == 5
    busy = [aio.sleep.apply_async((2, f"{key}busy"), queue=worker.queue) for _ in range(12)]
    eventually(lambda: store.llen(f"journal:{key}busy") >= 5)
    assert (
        _waiting(store, worker) >= 12 - 5 - 1
    )  # one more may be in flight, because the transport asks ahead
    replies = aio.app.control.inspect(destination=[worker.name], timeout=5).stats()
    assert replies[worker.name]["pool"]["running"] == 5
    for result in busy:
        result.revoke()
    worker.signal(signal.SIGQUIT)
    worker.await_exit()


@pytest.mark.parametrize(
    ("concurrency", "first", "later"),
    [
        ("1", "sleep", "sleep"),  # they wait for a slot
        ("4", "holds_thread", "note_task"),  # plain `def`: they have a slot and wait for a thread
    ],
)
def test_a_job_that_is_revoked_or_expires_while_it_waits_in_the_pool_never_runs(  # noqa: PLR0917 - fixtures
    aio: ModuleType,
    start_worker: Start,
    key: str,
    journal: Journal,
    store: Any,
    concurrency: str,
    first: str,
    later: str,
) -> None:
    worker = start_worker("-c", concurrency, "--prefetch-multiplier", "4", AIO_THREADS="1")
    running = _send(aio, first, worker, 2, f"{key}first")
    eventually(lambda: journal(f"{key}first") == ["began"])
    task, options = getattr(aio, later), {"queue": worker.queue}
    revoked = task.apply_async((0, f"{key}revoked"), **options)
    late = task.apply_async((0, f"{key}late"), expires=1, **options)
    good = task.apply_async((0, f"{key}good"), **options)
    ids = {revoked.id, late.id, good.id}
    eventually(
        lambda: {job["id"] for job in _ask(aio, worker, "reserved")} == ids,
        what="three jobs reserved",
    )
    aio.app.control.revoke(revoked.id, destination=[worker.name], reply=True, timeout=5, limit=1)
    assert running.get(timeout=60) == 2
    for result in (revoked, late):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=60)
    good.get(timeout=60)
    assert [journal(f"{key}revoked"), journal(f"{key}late")] == [[], []]
    assert f"Discarding revoked task: aio_app.{later}[{revoked.id}]" in worker.log
    eventually(lambda: store.hlen("unacked") == 0)
    assert _ask(aio, worker, "reserved") == []


def test_autoscale_grows_the_pool_under_load_and_shrinks_it_afterwards(
    aio: ModuleType, start_worker: Start, key: str
) -> None:
    worker = start_worker("--autoscale", "8,1", AUTOSCALE_KEEPALIVE="1")
    results = [aio.counted.apply_async((key, 0.3), queue=worker.queue) for _ in range(16)]
    assert 1 < max(result.get(timeout=20) for result in results) <= 8
    eventually(
        lambda: _ask(aio, worker, "stats")["pool"]["max-concurrency"] == 1, what="the smallest size"
    )
    assert _send(aio, "add", worker, 1, 2).get(timeout=60) == 3
    worker.signal(signal.SIGTERM)
    assert worker.await_exit() == 0


def test_recycling_of_child_processes_is_refused_with_a_reason(start_worker: Start) -> None:
    worker = start_worker(ready=False, AIO_RECYCLE="10")
    assert worker.await_exit() != 0
    assert "worker_max_tasks_per_child has no meaning for the asyncio pool" in worker.log
