"""Keeps Celery's blocking calls off the event loop: publishing, and result backends other than ours."""

import functools
from typing import Any

import celery

from worker.aio import bridge
from worker.aio.adopt import calling_errbacks

_BACKEND_METHODS = (
    "store_result",
    "on_chord_part_return",
    "get_task_meta",
    "get_state",
    "add_to_chord",
    "set_chord_size",
)


def install(app: celery.Celery) -> None:
    """Send from inside a job through a thread, so that a slow broker holds up that job only.

    Errors still rise where the task was called. In a child asyncio task sending blocks, as it would in any coroutine:
    use `asyncio.to_thread(task.delay, …)` there.
    """
    app.send_task = functools.partial(bridge.call, app.send_task)
    app.amqp._retry_publish = functools.partial(bridge.call, app.amqp._retry_publish)  # noqa: SLF001


def uninstall(app: celery.Celery) -> None:
    """Undo `install`."""
    for holder, name in ((app, "send_task"), (app.amqp, "_retry_publish")):
        holder.__dict__.pop(name, None)


def guard_backend(app: celery.Celery) -> None:
    """Make a backend that knows nothing of asyncio store through threads. Called on the loop's thread.

    Backends are thread-local, so each thread calls its own.
    """
    backend = app.backend
    if getattr(backend, "awaits_in_jobs", False):
        return
    for name in _BACKEND_METHODS:
        if hasattr(backend, name) and name not in backend.__dict__:
            setattr(backend, name, functools.partial(_in_a_thread, app, name, getattr(backend, name)))
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
