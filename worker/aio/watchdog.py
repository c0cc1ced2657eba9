"""Names the task that holds up the event loop."""

import asyncio
import gc
import logging
import selectors
import sys
import threading
import time
import traceback
from contextvars import Context
from types import FrameType
from typing import Any, Protocol

from worker.aio import stacks
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
_DEPTH = 12


class Watched(Protocol):
    """Whose jobs are watched: the pool."""

    @property
    def running(self) -> int:
        """How many jobs run."""

    def job_of(self, driver: "asyncio.Task[Any] | None") -> Job | None:
        """Find the job that an asyncio task drives."""


class Watchdog:
    """A thread that asks the loop for a sign of life while jobs run, and looks at its stack when none comes.

    Args:
        thread: The loop's thread.
        pool: Names the job.
        threshold_s: The longest silence that is fine, in seconds.
    """

    def __init__(self, thread: LoopThread, pool: Watched, *, threshold_s: float) -> None:
        self._watched = thread
        self._pool = pool
        self._threshold_s = threshold_s
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
            if not self._pool.running:
                continue
            self._answered.clear()
            asked_s = time.monotonic()
            try:
                self._watched.loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:
                return  # closed
            if not self._answered.wait(self._threshold_s):
                self._report(asked_s)
                while not self._answered.wait(0.1) and not self._stopped.is_set():
                    pass  # one warning for one blockage

    def _report(self, asked_s: float) -> None:
        frame = sys._current_frames().get(self._watched.ident or 0)  # noqa: SLF001 - what it is for
        # A machine that gives us no CPU time looks like a blocked loop, but then the loop stands in
        # its own code.
        if frame is None or _is_loops_own(frame) or self._answered.is_set():
            return
        logger.warning(
            "%s has blocked the event loop for more than %d ms; every other job waits. Await, or "
            "make it a plain "
            "`def` task. It stands at:\n%s",
            self._name(),
            (time.monotonic() - asked_s) * 1000,
            "".join(traceback.format_stack(frame)[-_DEPTH:]),
        )

    def _name(self) -> str:
        task = asyncio.current_task(self._watched.loop)
        job = self._pool.job_of(task)
        if (
            job is None and task is not None and (context := _context_of(task)) is not None
        ):  # a child task
            owner = context.get(stacks._owner)  # noqa: SLF001
            job = owner if isinstance(owner, Job) else None
        if job is not None:
            return f"task {job}"
        return f"asyncio task {task.get_name()!r}" if task is not None else "a callback"


def _is_loops_own(frame: FrameType | None) -> bool:
    # All the way down: a job that waits for a child process stands in `selectors` as well.
    while frame is not None and frame.f_code.co_filename in _OF_THE_LOOP:
        if frame.f_code is LoopThread._run.__code__:  # noqa: SLF001 - the loop's first frame
            return True
        frame = frame.f_back
    return False


def _context_of(task: "asyncio.Task[Any]") -> Context | None:
    if hasattr(task, "get_context"):
        found: Context = task.get_context()
        return found
    # Python 3.11 shows it to the garbage collector alone, and before the contexts of the task's
    # callbacks.
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)
