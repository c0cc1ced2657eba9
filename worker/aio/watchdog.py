"""Detects a blocked event loop, and logs the task that blocks it."""

import asyncio
import gc
import logging
import selectors
import sys
import threading
import time
import traceback
from asyncio import selector_events
from contextvars import Context
from types import FrameType
from typing import Any, Protocol

from worker.aio import stacks
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.job import Job
from worker.aio.loop_thread import LoopThread

logger = logging.getLogger(__name__)

_OF_THE_LOOP = frozenset(
    function.__code__.co_filename
    for function in (
        selectors.SelectSelector.select,
        asyncio.BaseEventLoop.run_forever,
        LoopThread.start,
    )
)
"""The files of the loop's own code."""
_READS_WAKE_UP = selector_events.BaseSelectorEventLoop._read_from_self.__code__  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public name
_DEPTH = 12


class Watched(Protocol):
    """The jobs of a pool."""

    @property
    def running(self) -> int:
        """How many jobs run."""


class Watchdog:
    """A thread that pings the loop while jobs run, and logs its stack if the loop does not respond.

    Args:
        thread: The loop's thread.
        jobs: The pool's jobs.
        threshold_s: How long the loop may be blocked without a warning, in seconds.
        calls: The calls for the consumer's thread, which the watchdog wakes if the loop is blocked.
    """

    def __init__(
        self,
        thread: LoopThread,
        jobs: Watched,
        *,
        threshold_s: float,
        calls: ConsumerCalls,
    ) -> None:
        self._watched = thread
        self._jobs = jobs
        self._threshold_s = threshold_s
        self._calls = calls
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aio-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._threshold_s / 2):
            if not self._jobs.running:
                continue
            self._answered.clear()
            pinged_s = time.monotonic()
            try:
                self._watched.loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:
                return  # the loop is closed
            if not self._answered.wait(self._threshold_s):
                self._calls.wake()
                self._report(pinged_s)
                while not self._answered.wait(0.1) and not self._stopped.is_set():
                    pass  # one warning each time the loop is blocked

    def _report(self, pinged_s: float) -> None:
        frame = sys._current_frames().get(self._watched.ident or 0)  # noqa: SLF001 - documented, despite its name
        # Without free CPU time the loop does not respond either, but its stack is then in its own
        # code.
        if frame is None or _is_loops_own(frame) or self._answered.is_set():
            return
        logger.warning(
            "%s has blocked the event loop for more than %d ms; every other job waits. Await, or "
            "make it a plain `def` task. It is at:\n%s",
            self._name(),
            (time.monotonic() - pinged_s) * 1000,
            "".join(traceback.format_stack(frame)[-_DEPTH:]),
        )

    def _name(self) -> str:
        task = asyncio.current_task(self._watched.loop)
        if task is None:
            return "a callback"
        context = _context_of(task)
        job = context.get(stacks._owner) if context is not None else None  # noqa: SLF001
        return f"task {job}" if isinstance(job, Job) else f"asyncio task {task.get_name()!r}"


def _is_loops_own(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code is _READS_WAKE_UP:
        return True  # the ping has just woken the loop
    # All frames must be the loop's: a job that waits for a child process is in `selectors` as well.
    while frame is not None and frame.f_code.co_filename in _OF_THE_LOOP:
        if frame.f_code is LoopThread._run.__code__:  # noqa: SLF001 - the loop's first frame
            return True
        frame = frame.f_back
    return False


def _context_of(task: "asyncio.Task[Any]") -> Context | None:
    if hasattr(task, "get_context"):
        context: Context = task.get_context()
        return context
    # In Python 3.11 only the garbage collector knows the task's context. It returns that context
    # before the contexts of the task's callbacks.
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)
