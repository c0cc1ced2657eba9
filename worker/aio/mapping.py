"""Runs `task.map`, `task.starmap` and `task.chunks` of `async def` tasks.

Celery makes one job of the whole sequence. The job calls the task's body for one item after the
other. Celery would not await the coroutines; here each coroutine is awaited before the next item.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final

import celery
from celery import _state, signature

from worker.aio import stacks
from worker.aio.adopt import exchange_body, is_async
from worker.aio.job import Job

_STARRED: Final = {"celery.map": False, "celery.starmap": True}
"""Celery's tasks for sequences, and whether an item is a list of a call's arguments."""
current_item: ContextVar[int | None] = ContextVar("the number of the item", default=None)
"""The number, from 0, of the item that a job is working on; None if the job has no sequence."""


def has_items(name: str) -> bool:
    """Whether a task is one of Celery's own tasks for sequences."""
    return name in _STARRED


def await_items_of(task: celery.Task) -> None:
    """Make Celery's task await the items, if it is a task for sequences; otherwise do nothing."""
    starred = _STARRED.get(task.name)
    if starred is None or is_async(task):
        return
    app = task.app

    async def each(task: Any, it: Iterable[Any]) -> list[Any]:
        body = signature(task, app=app).type
        calls = [tuple(item) if starred else (item,) for item in it]
        if is_async(body):
            return [await _awaited(body, args) for args in _numbered(calls)]
        values: list[Any] = await _in_a_thread(lambda: [body(*args) for args in _numbered(calls)])
        return values

    exchange_body(task, each)


def _numbered(calls: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    for number, args in enumerate(calls):
        current_item.set(number)  # in the context of the job, or of its thread
        yield args
    current_item.set(None)


async def _awaited(task: celery.Task, args: tuple[Any, ...]) -> Any:
    # `Task.__call__` sets the same state, but undoes it as soon as the coroutine is created.
    _state._task_stack.push(task)  # noqa: SLF001 - there is no public way
    stacks.share(task.request_stack)
    task.push_request(args=args, kwargs={})
    try:
        return await task.run(*args)
    finally:
        task.pop_request()
        _state._task_stack.pop()  # noqa: SLF001


async def _in_a_thread(call: Callable[[], Any]) -> Any:
    """Call a function in one of the threads for plain tasks."""
    job = stacks.owner()
    return await (job.call_in_thread(call) if isinstance(job, Job) else asyncio.to_thread(call))
