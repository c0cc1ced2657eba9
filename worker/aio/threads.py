"""Runs calls in threads that never keep the process alive.

The standard library joins its executors' threads at exit, so a single call that hangs would block
even a cold shutdown.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Work = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """An executor of daemon threads, which are started when they are needed.

    It is a `ThreadPoolExecutor` by type only, because asyncio requires that type of its default
    executor.

    Args:
        limit: The most threads at once.
        name: The beginning of the threads' names.
        prepare: A function that each thread calls first.
    """

    def __init__(self, limit: int, *, name: str, prepare: Callable[[], None] | None = None) -> None:
        super().__init__(max_workers=limit, thread_name_prefix=name)
        self._name = name
        self._limit = limit
        self._prepare = prepare
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread in it
        self._alive = 0
        self._unclaimed = 0
        """Submitted calls minus free threads; above 0, one more thread is useful."""
        self._stopped = False

    @property
    def alive(self) -> int:
        """How many threads run."""
        return self._alive

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Call `fn` in one of the threads.

        Raises:
            RuntimeError: The executor was shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._stopped:
                raise RuntimeError("the threads were shut down")
            self._work.put((future, lambda: fn(*args, **kwargs)))
            self._unclaimed += 1
            if self._unclaimed > 0 and self._alive < self._limit:
                self._start()
        return future

    def _run(self) -> None:
        if self._prepare is not None:
            self._prepare()
        while (work := self._work.get()) is not None:
            future, function = work
            if not future.set_running_or_notify_cancel():
                self._count_free()
                continue
            try:
                result = function()
            except BaseException as exc:  # noqa: BLE001 - the future's caller handles it
                self._count_free()
                future.set_exception(exc)
            else:
                # Count before the result is set: otherwise a call that is submitted at once would
                # start another thread.
                self._count_free()
                future.set_result(result)
                del result
            del work, future, function
        self._work.put(None)  # for the next thread

    def write_off(self, count: int) -> None:
        """Replace threads that may never become free.

        Args:
            count: How many more threads may run; negative: how many fewer.
        """
        with self._lock:
            self._limit += count
            if count > 0 and self._unclaimed > 0 and not self._stopped:
                self._start()

    def _start(self) -> None:
        self._alive += 1
        self._unclaimed -= 1
        threading.Thread(target=self._run, name=f"{self._name}-{self._alive}", daemon=True).start()

    def _count_free(self) -> None:
        with self._lock:
            self._unclaimed -= 1

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the base's signature
        """Accept no further calls, and let each thread end after its call. It never waits."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        if cancel_futures:
            try:
                while (work := self._work.get_nowait()) is not None:
                    work[0].cancel()
            except Empty:
                pass
        self._work.put(None)
