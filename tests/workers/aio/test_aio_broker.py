"""Lost connections, and the pool beside Celery's own parts.

The worker runs plain asyncio and the stock result backend.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import ROOT, eventually
from tests.workers.aio.aio_harness import WorkerProcess, cut_connections

Journal = Callable[[str], list[str]]


def test_plain_asyncio_and_the_stock_backend_serve_as_well(
    aio: ModuleType, start_worker: Callable[..., WorkerProcess], key: str, journal: Journal
) -> None:
    worker = start_worker(AIO_LOOP="asyncio", AIO_BACKEND="")
    who = [aio.who.apply_async((0.01,), queue=worker.queue) for _ in range(50)]
    for result in who:
        assert set(result.get(timeout=20)) == {result.id}
    # Not earlier, because a worker receives commands only shortly after it is ready.
    stats = aio.app.control.inspect(destination=[worker.name], timeout=10).stats()[worker.name][
        "pool"
    ]
    assert stats["loop"].startswith("asyncio.")
    assert aio.parent.apply_async(queue=worker.queue).get(timeout=20) == [3, [1, 2, 3], 6, 10, True]
    assert aio.awaits_failure.apply_async(queue=worker.queue).get(timeout=20) == [
        "inner",
        "ValueError",
        "TimeoutError",
    ]
    assert aio.soft.apply_async(("catch", key), queue=worker.queue).get(timeout=60) == "caught"
    failed = aio.boom.apply_async(("err",), queue=worker.queue, link_error=aio.failed_with.s())
    with pytest.raises(ValueError, match="err"):
        failed.get(timeout=60)
    eventually(lambda: journal(f"errback:{failed.id}") == ["ValueError('err')"])
    assert "a callback of the pool raised" not in worker.log


def test_the_loop_is_asyncios_if_uvloop_is_not_installed(
    aio: ModuleType, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not installed')")
    worker = start_worker(PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT))))
    assert aio.add.apply_async((1, 2), queue=worker.queue).get(timeout=60) == 3
    stats = aio.app.control.inspect(destination=[worker.name], timeout=10).stats()[worker.name][
        "pool"
    ]
    assert stats["loop"].startswith("asyncio.")


@pytest.mark.parametrize("cancel", ["", "yes"])
def test_cut_connections_lose_no_job_and_the_worker_goes_on(  # noqa: PLR0917 - fixtures
    aio: ModuleType,
    start_worker: Callable[..., WorkerProcess],
    key: str,
    journal: Journal,
    store: Any,
    cancel: str,
) -> None:
    worker = start_worker(AIO_CANCEL=cancel)
    results = [aio.sleep.apply_async((1.0, key), queue=worker.queue) for _ in range(20)]
    eventually(lambda: journal(key).count("began") == 20)
    cut_connections(aio, store)
    for result in results:
        assert result.get(timeout=30) == 1.0
    assert "Connection to broker lost" in worker.log
    after = [aio.add.apply_async((n, n), queue=worker.queue) for n in range(10)]
    assert [result.get(timeout=20) for result in after] == [2 * n for n in range(10)]


def test_if_jobs_are_cancelled_with_their_connection_those_that_had_not_begun_run_once(
    aio: ModuleType,
    start_worker: Callable[..., WorkerProcess],
    key: str,
    journal: Journal,
    store: Any,
) -> None:
    worker = start_worker("-c", "4", "--prefetch-multiplier", "4", AIO_CANCEL="yes")
    keys = [f"{key}{number}" for number in range(16)]
    for each in keys:
        aio.sleep.apply_async((2.0, each), queue=worker.queue)
    eventually(lambda: [journal(each) for each in keys[:4]] == [["began"]] * 4)
    cut_connections(aio, store)
    eventually(lambda: all(journal(each)[-1:] == ["ended"] for each in keys), within_s=60)
    eventually(lambda: not store.hlen("unacked"))
    assert [journal(each) for each in keys[:4]] == [["began", "began", "ended"]] * 4
    assert [journal(each) for each in keys[4:]] == [["began", "ended"]] * 12


def test_jobs_that_outlive_their_connection_count_against_the_concurrency_until_they_end(
    aio: ModuleType,
    start_worker: Callable[..., WorkerProcess],
    key: str,
    journal: Journal,
    store: Any,
) -> None:
    worker = start_worker("-c", "5")
    for number in range(3):
        aio.sleep.apply_async((8.0, f"{key}long{number}"), queue=worker.queue)
    eventually(lambda: len(store.keys(f"journal:{key}long*")) == 3)
    cut_connections(aio, store)
    eventually(lambda: "Connection to broker lost" in worker.log)
    shorts = [f"{key}short{number}" for number in range(30)]
    for each in shorts:
        aio.sleep.apply_async((0.1, each), queue=worker.queue)
    counts = set()
    while store.llen(worker.queue) or len(store.keys(f"journal:{key}short*")) < len(shorts):
        counts.add(store.hlen("unacked"))
    assert max(counts) == 5
    eventually(lambda: store.hlen("unacked") == 3)
    assert [journal(each) for each in shorts] == [["began", "ended"]] * len(shorts)
    assert [journal(f"{key}long{number}") for number in range(3)] == [["began"]] * 3
    for number in range(6):  # and there is room for five again when they have ended
        aio.sleep.apply_async((20.0, f"{key}last{number}"), queue=worker.queue)
    eventually(lambda: len(store.keys(f"journal:{key}last*")) == 5)
    assert (store.hlen("unacked"), store.llen(worker.queue)) == (5, 1)
    assert [journal(f"{key}long{number}") for number in range(3)] == [["began", "ended"]] * 3
    worker.signal(signal.SIGQUIT)
    worker.await_exit()
    store.delete(worker.queue)
