"""Celery's task stacks, kept per job.

Celery finds the current task and its request on stacks that are keyed by greenlet or thread. On one
event loop hundreds of jobs share a thread, and one job spreads over a greenlet, child tasks and
threads. So the key becomes whatever *owns* the running code: a ContextVar, which asyncio hands on
to child tasks and `asyncio.to_thread` to its thread. Code without an owner keeps Celery's own key,
so nothing changes outside the pool.
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
    """Name the key of the running code's stacks.

    The job that it belongs to, else the greenlet or thread.
    """
    found = _owner.get()
    return getcurrent() if found is None else found


def context_of(new_owner: object) -> Context:
    """Copy the running context and make `new_owner` the owner of what runs in the copy."""
    context = copy_context()
    context.run(_owner.set, new_owner)
    return context


class OwnedStack(StockStack):
    """Celery's stack keyed by owner, in one look instead of Celery's three.

    Each job asks a dozen times.
    """

    _held: dict[object, list[Any]]

    def __release_local__(self) -> None:
        self._held.pop(owner(), None)

    def push(self, obj: Any) -> list[Any]:
        """Put something on top, and give the whole."""
        key = _owner.get() or getcurrent()
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = []
        held.append(obj)
        return held

    def pop(self) -> Any:
        """Take what is on top, if there is something."""
        key = _owner.get() or getcurrent()
        held = self._held.get(key)
        if not held:
            return None
        if len(held) == 1:
            del self._held[key]  # else every job that ever ran would stay
        return held.pop()

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def stack(self) -> list[Any]:
        """The whole of it."""
        return self._held.get(_owner.get() or getcurrent()) or []

    @property
    def top(self) -> Any:
        """What is on top, if there is something."""
        held = self._held.get(_owner.get() or getcurrent())
        return held[-1] if held else None


def share(stack: Any) -> None:
    """Key a stack of Celery's by owner. Harmless when repeated.

    Raises:
        ImproperlyConfigured: Celery was told to use stacks that cannot be keyed.
    """
    if isinstance(stack, OwnedStack):
        return
    if type(stack) is not StockStack:
        raise ImproperlyConfigured(
            "the asyncio pool cannot work with USE_FAST_LOCALS: remove it from the environment"
        )
    # The very object, because Celery's modules have it under names of their own. Its keys are
    # greenlets, as ours are.
    held = {key: held["stack"] for key, held in dict(stack._local.__storage__).items()}  # noqa: SLF001 - to keep it
    stack.__dict__["_held"] = held
    stack.__class__ = OwnedStack


def share_current_task() -> None:
    """Key the stack behind `celery.current_task` by owner."""
    share(_state._task_stack)  # noqa: SLF001 - there is no public way
