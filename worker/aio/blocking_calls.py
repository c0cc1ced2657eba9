"""Runs Celery's blocking calls in threads: publishing, and result backends other than ours."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import celery
import redis
from celery import canvas
from celery.app.control import Control
from kombu.exceptions import OperationalError

from worker.aio import bridge, joining, private_loop
from worker.aio.adopt import calling_errbacks
from worker.aio.pipelined_publishing import KeptMessages, NotPlain, is_wanted, send

_BACKEND_METHODS = (
    "store_result",
    "on_chord_part_return",
    "get_task_meta",
    "get_state",
    "add_to_chord",
    "set_chord_size",
)

_IN_ONE_THREAD = (
    (canvas.group, "apply_async", canvas.group.apply_async),
    (canvas._chord, "run", canvas._chord.run),  # noqa: SLF001
    (celery.Task, "send_event", celery.Task.send_event),
    (Control, "broadcast", Control.broadcast),  # it may wait for replies
)
"""Methods that run in a thread from start to end.

They send several messages, and hold one of the ten producers meanwhile, or they block.
"""


def install(app: celery.Celery) -> None:
    """Send jobs' messages in threads, so that a slow broker delays only the job that sends.

    Errors are still raised to the caller. In a child asyncio task, sending blocks the event loop,
    as in any coroutine: use `asyncio.to_thread(task.delay, …)` there.
    """
    app.send_task = functools.partial(_send, app, app.send_task)
    app.producer_or_acquire = _one_producer_a_thread(app.producer_or_acquire)
    app.amqp._retry_publish = functools.partial(bridge.call, app.amqp._retry_publish)  # noqa: SLF001
    for holder, name, stock in _IN_ONE_THREAD:
        setattr(holder, name, _in_one_thread(stock))
    joining.install()


def _send(app: celery.Celery, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if isinstance(kwargs.get("producer"), KeptMessages):
        return stock(*args, **kwargs)
    if is_wanted.get() and bridge.is_bridged():
        try:
            return bridge.wait(send(app, lambda kept: stock(*args, **kwargs | {"producer": kept})))
        except (NotPlain, redis.RedisError, OperationalError, OSError):
            pass  # Celery sends the message below, with its own retries
    return bridge.call(stock, *args, **kwargs)


def uninstall(app: celery.Celery) -> None:
    """Undo `install`."""
    for instance, name in (
        (app, "send_task"),
        (app, "producer_or_acquire"),
        (app.amqp, "_retry_publish"),
    ):
        instance.__dict__.pop(name, None)
    for holder, name, stock in _IN_ONE_THREAD:
        setattr(holder, name, stock)
    joining.uninstall()


def _in_one_thread(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Run a whole method in one thread, so that no job holds a producer while other jobs run."""

    @functools.wraps(stock)
    def called(*args: Any, **kwargs: Any) -> Any:
        return bridge.call(stock, *args, **kwargs)

    return called


def _one_producer_a_thread(
    stock: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., AbstractContextManager[Any]]:
    """Give a thread the producer that it already holds.

    Otherwise a group within a group would take a second producer. Threads that each hold one
    producer could then wait for a second one for ever.
    """
    mine = threading.local()

    @contextmanager
    def producer_or_acquire(producer: Any = None) -> Iterator[Any]:
        held = getattr(mine, "producer", None)
        if producer is not None or held is not None or private_loop.is_running_here():
            with stock(producer or held) as lent:
                yield lent
            return
        with stock() as acquired:
            mine.producer = acquired
            try:
                yield acquired
            finally:
                mine.producer = None

    return producer_or_acquire


def guard_backend(app: celery.Celery) -> None:
    """Call a backend's blocking methods in threads, unless the backend can await its server.

    The pool calls this on the loop's thread. Backends are thread-local, so each thread calls its
    own.
    """
    backend = app.backend
    if getattr(backend, "awaits_in_jobs", False):
        return
    for name in _BACKEND_METHODS:
        if hasattr(backend, name) and name not in backend.__dict__:
            setattr(
                backend, name, functools.partial(_in_a_thread, app, name, getattr(backend, name))
            )
    backend._call_task_errbacks = functools.partial(_with_errbacks, backend._call_task_errbacks)  # noqa: SLF001


def _with_errbacks(call: Any, *args: Any, **kwargs: Any) -> None:
    with calling_errbacks():
        call(*args, **kwargs)


def _in_a_thread(app: celery.Celery, name: str, here: Any, *args: Any, **kwargs: Any) -> Any:
    if not bridge.is_bridged():
        return here(*args, **kwargs)

    def there() -> Any:
        return getattr(app.backend, name)(*args, **kwargs)

    return bridge.call(there)
