"""Celery's task stacks, kept per job.

Celery finds the current task and its request on stacks that are keyed by greenlet or thread. On one event loop
hundreds of jobs share a thread, and one job spreads over a greenlet, child tasks and threads. So the key becomes
whatever *owns* the running code: a ContextVar, which asyncio hands on to child tasks and `asyncio.to_thread` to its
thread. Code without an owner keeps Celery's own key, so nothing changes outside the pool.
"""

from contextvars import Context, ContextVar, copy_context
from typing import Any

from celery import _state
from celery.exceptions import ImproperlyConfigured
from greenlet import getcurrent

_owner: ContextVar[object | None] = ContextVar("owner of the task stacks", default=None)


def owner() -> object:
    """Name the key of the running code's stacks: the job that it belongs to, else the greenlet or thread."""
    found = _owner.get()
    return getcurrent() if found is None else found


def context_of(new_owner: object) -> Context:
    """Copy the running context and make `new_owner` the owner of what runs in the copy."""
    context = copy_context()
    context.run(_owner.set, new_owner)
    return context


def share(stack: Any) -> None:
    """Key a stack of Celery's by owner. Harmless when repeated.

    Raises:
        ImproperlyConfigured: Celery was told to use stacks that cannot be keyed.
    """
    if not hasattr(type(stack), "__ident_func__"):
        raise ImproperlyConfigured("the asyncio pool cannot work with USE_FAST_LOCALS: remove it from the environment")
    stack.__ident_func__ = owner


def share_current_task() -> None:
    """Key the stack behind `celery.current_task` by owner."""
    share(_state._task_stack)  # noqa: SLF001 - there is no public way
