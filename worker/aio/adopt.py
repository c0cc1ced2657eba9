"""Adapts Celery tasks to coroutines.

A task is adapted once: by the pool that runs the task, or by our `Task` class when the task is
created. Afterwards its stacks are keyed by job, and its body and hooks are wrapped: the wrappers
await the coroutines, so Celery's tracer sees plain functions. A direct call (`await add(1, 2)`) is
not changed.
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import celery
from celery.app.trace import task_has_custom
from celery.utils.dispatch import Signal

from worker.aio import bridge, private_loop, stacks
from worker.aio.job import Job
from worker.aio.pipelined_publishing import is_wanted

logger = logging.getLogger(__name__)

StockSignal: Any = Signal  # Celery has no types
_stock_live_receivers = StockSignal._live_receivers  # noqa: SLF001 - there is no public way

HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")

_MARK = "_aio_adopted"

_calling_errbacks: ContextVar[bool] = ContextVar("errbacks are being called", default=False)


class Task(celery.Task):
    """The base class for projects that also run their `async def` tasks eagerly, without the pool.

    Use it as `Celery(task_cls="worker.aio.adopt:Task")`.
    """

    abstract = True
    light_retry = False
    """Whether retries have no traceback, and their messages are sent in batches."""

    def __init__(self) -> None:
        super().__init__()
        _wrap(self)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Send the job back to its queue, as Celery does; see `light_retry`."""
        token = is_wanted.set(self.light_retry)
        try:
            return super().retry(*args, **options)
        finally:
            is_wanted.reset(token)

    @classmethod
    def bind(cls, app: celery.Celery) -> Any:
        """Bind the task to its app, which creates its stack of requests."""
        bound = super().bind(app)
        # This must come before the first request: an eager task may call a second eager task, which
        # runs in another thread with the same owner.
        stacks.share(cls.request_stack)
        return bound


def adopt(task: celery.Task) -> None:
    """Prepare a task for the pool. A second call does nothing."""
    stacks.share(task.request_stack)
    _wrap(task)


def exchange_body(task: celery.Task, body: Callable[..., Any]) -> None:
    """Replace a task's body. If the task is adapted already, the new body is adapted at once."""
    task.run = body
    if task.__dict__.get(_MARK):
        _wrap_run(task)


def is_async(task: celery.Task) -> bool:
    """Whether the body or the class's `__call__` is `async def`, even if Celery has wrapped it."""
    if inspect.iscoroutinefunction(type(task).__call__):
        return True
    run = getattr(task, "_orig_run", task.run)
    while not inspect.iscoroutinefunction(run):
        inner = getattr(run, "__wrapped__", None)
        ours = getattr(run, "__globals__", {}).get("__name__") in (
            __name__,
            "celery.app.base",
            "celery.app.autoretry",
        )
        # A wrapper of the project may run the coroutine with `asyncio.run`. The task is then a
        # plain function.
        if inner is None or not ours:
            return False
        run = inner
    return True


def _wrap(task: celery.Task) -> None:
    if task.__dict__.get(_MARK):
        return
    setattr(task, _MARK, True)
    stacks.share_current_task()
    if inspect.iscoroutinefunction(type(task).__call__):
        _wrap_call(type(task))  # `__call__` awaits the body
    else:
        _wrap_run(task)
    for hook in HOOKS:
        if task_has_custom(task, hook):
            setattr(task, hook, _hook(task, getattr(task, hook)))


def _wrap_call(cls: type[celery.Task]) -> None:
    call = cls.__call__

    @functools.wraps(call)
    def bridged(self: celery.Task, *args: Any, **kwargs: Any) -> Any:
        return _body(self, functools.partial(call, self))(*args, **kwargs)

    cls.__call__ = bridged


def _wrap_run(task: celery.Task) -> None:
    # Celery's autoretry stores the body as `_orig_run` and calls it in a `try`. The coroutine must
    # end within that `try`.
    name = "_orig_run" if "_orig_run" in task.__dict__ else "run"
    run = getattr(task, name)
    setattr(task, name, functools.wraps(run)(_body(task, run)))


def _body(task: celery.Task, run: Callable[..., Any]) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        stacks.share(task.request_stack)
        request = task.request_stack.top
        if request is None or request.called_directly:
            value = run(*args, **kwargs)
            return _as_errback(value, task.name) if _calling_errbacks.get() else value
        job = stacks.owner()
        if isinstance(job, Job) and not request.is_eager:
            result = job.run_body(run, args, kwargs)
        else:
            result = complete(run(*args, **kwargs))
        if task._dump_pydantic_arguments is not None and hasattr(result, "model_dump"):  # noqa: SLF001
            # Celery's own wrapper did not convert the model, because it saw only a coroutine.
            return result.model_dump(mode="json")
        return result

    return body


@contextmanager
def calling_errbacks() -> Iterator[None]:
    """Await the coroutines of tasks that are called directly in this context.

    The backend needs this, because Celery calls new-style errbacks like plain functions.
    """
    token = _calling_errbacks.set(True)
    try:
        yield
    finally:
        _calling_errbacks.reset(token)


def _as_errback(value: Any, name: str) -> Any:
    token = _calling_errbacks.set(False)  # the errback itself awaits the tasks that it calls
    try:
        return complete(value, name=name)
    finally:
        _calling_errbacks.reset(token)


def _hook(task: celery.Task, hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def called(*args: Any, **kwargs: Any) -> Any:
        return complete(hook(*args, **kwargs), name=f"{task.name}.{hook.__name__}")

    return called


def complete(value: Any, *, name: str | None = None) -> Any:
    """Await a coroutine from plain code on any thread; return any other value unchanged.

    In a job, the job's own loop runs the coroutine. In eager mode a private loop runs it, and the
    caller waits. If the consumer's thread (after a hard time limit) or a child task has called a
    hook, the hook's coroutine is started on the pool's loop, and nothing waits for it.

    Args:
        value: A coroutine, or any other value.
        name: The name of the hook or receiver that returned the value; None for a task's body.
    """
    if not bridge.is_coroutine(value):
        return value
    if bridge.is_bridged():
        return bridge.wait(value)
    if private_loop.serves_here():
        return private_loop.run(value)
    if name is not None and _start_in_background(value, name):
        return None
    pool_loop = private_loop.pool_loop()
    if pool_loop is not None and not private_loop.is_running_here():
        return asyncio.run_coroutine_threadsafe(value, pool_loop).result()
    return private_loop.run(value)


def _start_in_background(coroutine: Coroutine[Any, Any, Any], name: str) -> bool:
    """Start a coroutine on the pool's loop if nothing can or must wait for it here.

    Returns:
        Whether it was started; false if the caller must wait for it.
    """
    if private_loop.is_pool_loop_here():
        private_loop.start_in_background(_logged(coroutine, name))
        return True
    pool_loop = private_loop.pool_loop()
    if pool_loop is None or isinstance(stacks.owner(), Job):
        return False
    asyncio.run_coroutine_threadsafe(_logged(coroutine, name), pool_loop)
    return True


def await_receivers() -> None:
    """Await `async def` receivers of signals, as hooks are awaited, until `leave_receivers`."""
    StockSignal._live_receivers = _live_receivers  # noqa: SLF001 - Celery has references to `send`


def leave_receivers() -> None:
    """Undo `await_receivers`."""
    StockSignal._live_receivers = _stock_live_receivers  # noqa: SLF001


def _live_receivers(signal: Any, sender: Any) -> Any:
    receivers = _stock_live_receivers(signal, sender)
    if any(map(inspect.iscoroutinefunction, receivers)):
        return [
            _receiver(each) if inspect.iscoroutinefunction(each) else each for each in receivers
        ]
    return receivers


def _receiver(receiver: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(receiver)
    def called(*args: Any, **kwargs: Any) -> Any:
        return complete(receiver(*args, **kwargs), name=f"the receiver {receiver.__qualname__}")

    return called


async def _logged(coroutine: Coroutine[Any, Any, Any], name: str) -> None:
    try:
        await coroutine
    except Exception:
        logger.exception("%s raised; no job waits for it, and the worker goes on", name)
