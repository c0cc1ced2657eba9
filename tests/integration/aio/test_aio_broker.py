"""Lost connections, and the pool beside Celery's own parts: plain asyncio, the stock result backend."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import kombu.pools
import pytest
from aio_harness import HERE, ROOT, WorkerProcess, eventually

Journal = Callable[[str], list[str]]


def test_plain_asyncio_and_the_stock_backend_serve_as_well(
    aio: ModuleType, start_worker: Callable[..., WorkerProcess], key: str, journal: Journal
) -> None:
    worker = start_worker(AIO_LOOP="asyncio", AIO_BACKEND="")
    who = [aio.who.apply_async((0.01,), queue=worker.queue) for _ in range(50)]
    for result in who:
        assert set(result.get(timeout=20)) == {result.id}
    # Only now: a worker that is just ready does not hear yet.
    stats = aio.app.control.inspect(destination=[worker.name], timeout=10).stats()[worker.name]["pool"]
    assert stats["loop"].startswith("asyncio.")
    assert aio.parent.apply_async(queue=worker.queue).get(timeout=20) == [3, [1, 2, 3], 6, 10, True]
    assert aio.awaits_failure.apply_async(queue=worker.queue).get(timeout=20) == ["inner", "ValueError", "TimeoutError"]
    assert aio.soft.apply_async(("catch", key), queue=worker.queue).get(timeout=10) == "caught"
    failed = aio.boom.apply_async(("err",), queue=worker.queue, link_error=aio.failed_with.s())
    with pytest.raises(ValueError, match="err"):
        failed.get(timeout=10)
    eventually(lambda: journal(f"errback:{failed.id}") == ["ValueError('err')"])
    assert "a callback of the pool raised" not in worker.log


def test_the_loop_is_asyncios_where_uvloop_is_not_installed(
    aio: ModuleType, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not installed')")
    worker = start_worker(PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT), str(HERE))))
    assert aio.add.apply_async((1, 2), queue=worker.queue).get(timeout=10) == 3
    stats = aio.app.control.inspect(destination=[worker.name], timeout=10).stats()[worker.name]["pool"]
    assert stats["loop"].startswith("asyncio.")


@pytest.mark.parametrize("cancel", ["", "yes"])
def test_cut_connections_lose_no_job_and_leave_the_worker_at_work(  # noqa: PLR0917 - fixtures
    aio: ModuleType, start_worker: Callable[..., WorkerProcess], key: str, journal: Journal, store: Any, cancel: str
) -> None:
    worker = start_worker(AIO_CANCEL=cancel)
    results = [aio.sleep.apply_async((1.0, key), queue=worker.queue) for _ in range(20)]
    eventually(lambda: len(journal(key)) == 20)
    for kind in ("normal", "pubsub"):
        store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    aio.app._after_fork()  # ours were cut as well: forget them
    kombu.pools.reset()
    for result in results:
        assert result.get(timeout=30) == 1.0
    assert "Connection to broker lost" in worker.log
    after = [aio.add.apply_async((n, n), queue=worker.queue) for n in range(10)]
    assert [result.get(timeout=20) for result in after] == [2 * n for n in range(10)]
