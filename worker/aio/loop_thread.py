"""Runs the event loop in a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from worker.aio import waits
from worker.aio.cancelling import cancel_until_ended

logger = logging.getLogger(__name__)

_ENDING_S = 1.0
"""How long cancelled tasks may still run, in seconds."""

FLAVOURS = ("auto", "uvloop", "asyncio")


def new_loop(flavour: str) -> asyncio.AbstractEventLoop:
    """Return a new event loop.

    Args:
        flavour: "uvloop", "asyncio", or "auto": uvloop if it is installed.

    Raises:
        ValueError: The flavour is unknown.
        ImportError: The flavour is "uvloop", but uvloop is not installed.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"worker_aio_loop must be one of {', '.join(FLAVOURS)}, not {flavour!r}")
    if flavour != "asyncio":
        try:
            import uvloop  # noqa: PLC0415 - optional dependency
        except ImportError:
            if flavour == "uvloop":
                raise
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class LoopThread:
    """A thread that runs a loop until `stop`, even if a child task raises `SystemExit`.

    Args:
        loop: A new loop.
        prepare: A function that the thread calls first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, prepare: Callable[[], None]) -> None:
        self.loop = loop
        self._prepare = prepare
        self._stopping = False
        # A daemon thread, so that the process can end even if a job blocks the loop for ever.
        self._thread = threading.Thread(target=self._run, name="aio-loop", daemon=True)

    @property
    def ident(self) -> int | None:
        """The thread's identity once it has started."""
        return self._thread.ident

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, patience_s: float) -> bool:
        """Cancel the tasks on the loop, and stop it.

        Returns:
            Whether the loop stopped within `patience_s` seconds.
        """
        self._stopping = True
        with suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._prepare()
        with waits.cancellable():
            self._run_until_stopped()
        self.loop.close()

    def _run_until_stopped(self) -> None:
        while not self._stopping:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:
                # asyncio lets these errors of a child task out of `run_forever`. The job that
                # awaits the child gets the error as well, and counts as lost.
                logger.warning("a task on the loop raised %r; the worker goes on", exc)
        with suppress(Exception):
            self._cancel_all()

    def _cancel_all(self) -> None:
        self.loop.run_until_complete(_end(asyncio.all_tasks(self.loop)))


async def _end(tasks: "set[asyncio.Task[Any]]") -> None:
    await cancel_until_ended(tasks, within_s=_ENDING_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


def start_task(
    work: Coroutine[Any, Any, None], name: str, *, loop: asyncio.AbstractEventLoop, context: Any
) -> "asyncio.Task[None]":
    """Start a task in a context; from Python 3.12 on, its first step runs at once."""
    if hasattr(asyncio, "eager_task_factory"):
        return asyncio.Task(work, loop=loop, context=context, name=name, eager_start=True)  # type: ignore[call-arg, unused-ignore]
    return loop.create_task(work, context=context, name=name)
