"""Keeps Celery's task stacks per job.

Celery finds the current task and its request on stacks that are keyed by greenlet or thread. On one
event loop hundreds of jobs share a thread, and one job uses a greenlet, child tasks and threads. So
the key here is the *owner* of the running code, which is usually a job. A ContextVar holds the
owner: asyncio copies it to child tasks, and `asyncio.to_thread` copies it to its thread. Code
without an owner keeps Celery's own key, so nothing changes outside the pool.
"""

from contextvars import Context, ContextVar, copy_context
from typing import Any

from celery import _state
from celery.exceptions import ImproperlyConfigured
from celery.utils.threads import _LocalStack
from greenlet import getcurrent

StockStack: Any = _LocalStack  # Celery has no types

_owner: ContextVar[object | None] = ContextVar("owner of the task stacks", default=None)


def owner() -> object:
    """Return the key of the running code's stacks: its job, or its greenlet if it has no job."""
    job = _owner.get()
    return getcurrent() if job is None else job


def context_of(new_owner: object) -> Context:
    """Return a copy of the running context in which `new_owner` owns the code."""
    context = copy_context()
    context.run(_owner.set, new_owner)
    return context


class OwnedStack(StockStack):
    """Celery's stack, keyed by owner.

    Each call takes one look-up instead of Celery's three, because each job makes a dozen calls.
    """

    _held: dict[object, list[Any]]

    def __release_local__(self) -> None:
        self._held.pop(owner(), None)

    def push(self, obj: Any) -> list[Any]:
        """Push an item, and return the whole stack."""
        key = _owner.get() or getcurrent()
        held = self._held.get(key)
        if held is None:
            # A literal list takes less memory: `append` reserves room for three more items.
            held = self._held[key] = [obj]
        else:
            held.append(obj)
        return held

    def pop(self) -> Any:
        """Remove and return the top item; None if the stack is empty."""
        key = _owner.get() or getcurrent()
        held = self._held.get(key)
        if not held:
            return None
        if len(held) == 1:
            del self._held[key]  # otherwise each job's stack would stay for ever
        return held.pop()

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def stack(self) -> list[Any]:
        """The whole stack."""
        return self._held.get(_owner.get() or getcurrent()) or []

    @property
    def top(self) -> Any:
        """The top item; None if the stack is empty."""
        held = self._held.get(_owner.get() or getcurrent())
        return held[-1] if held else None


def share(stack: Any) -> None:
    """Key one of Celery's stacks by owner. A second call does nothing.

    Raises:
        ImproperlyConfigured: Celery uses stacks that cannot be keyed by owner.
    """
    if isinstance(stack, OwnedStack):
        return
    if type(stack) is not StockStack:
        raise ImproperlyConfigured(
            "the asyncio pool cannot work with USE_FAST_LOCALS: remove it from the environment"
        )
    # Celery's modules hold references to the stack, so the object itself is changed. Its keys are
    # greenlets already.
    held = {key: held["stack"] for key, held in dict(stack._local.__storage__).items()}  # noqa: SLF001
    stack.__dict__["_held"] = held
    stack.__class__ = OwnedStack


def share_current_task() -> None:
    """Key the stack behind `celery.current_task` by owner."""
    share(_state._task_stack)  # noqa: SLF001 - there is no public way
