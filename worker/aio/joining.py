"""Makes `result.get()` in a job await the result instead of blocking the event loop.

Celery allows `result.get()` in a task within `allow_join_result()`. On the loop's thread the call
would block every job, and for ever if the awaited job has to run in the same worker.

Celery stores whether `result.get()` is allowed in one variable of the process. Jobs overlap here: a
job that leaves its `with` block would forbid the call to all others. So a ContextVar replaces that
variable.
"""

import functools
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

from celery import result as celery_result
from celery import states
from celery.result import AsyncResult, ResultSet, assert_will_not_block

from worker.aio import bridge
from worker.aio.result import await_result

_IGNORED: Final = {"status": states.IGNORED, "result": None}
_stock_get: Final = AsyncResult.get
_stock_iter_native: Final = ResultSet.iter_native
_stock_will_block: Final = celery_result.task_join_will_block
_stock_set_will_block: Final = celery_result._set_task_join_will_block  # noqa: SLF001 - no public way

_own_will_block: ContextVar[bool | None] = ContextVar("the job's own value", default=None)


def install() -> None:
    """Await results in jobs, until `uninstall`."""
    celery_result.task_join_will_block = _will_block
    celery_result._set_task_join_will_block = _own_will_block.set  # noqa: SLF001
    AsyncResult.get = AsyncResult.wait = _get
    ResultSet.iter_native = _iter_native  # for `join_native`; Celery's `join` calls `get`


def uninstall() -> None:
    """Undo `install`."""
    celery_result.task_join_will_block = _stock_will_block
    celery_result._set_task_join_will_block = _stock_set_will_block  # noqa: SLF001
    AsyncResult.get = AsyncResult.wait = _stock_get
    ResultSet.iter_native = _stock_iter_native


def _will_block() -> bool:
    own = _own_will_block.get()
    return bool(_stock_will_block()) if own is None else own


@functools.wraps(_stock_get)
def _get(self: Any, *args: Any, **options: Any) -> Any:
    if len(args) > len(("timeout", "propagate")) or self.ignored or not bridge.is_bridged():
        return _stock_get(self, *args, **options)
    return _await(self, *args, **options)


def _await(
    result: Any,
    timeout: float | None = None,
    propagate: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
    *,
    callback: Any = None,
    disable_sync_subtasks: bool = True,
    **_: Any,
) -> Any:
    if disable_sync_subtasks:
        assert_will_not_block()
    bridge.wait(await_result(result, timeout_s=timeout, propagate=propagate))
    return result.maybe_throw(callback=callback, propagate=propagate)


@functools.wraps(_stock_iter_native)
def _iter_native(self: Any, timeout: float | None = None, *args: Any, **options: Any) -> Any:
    if not bridge.is_bridged():
        return _stock_iter_native(self, timeout, *args, **options)
    return _awaited_in_turn(self.results, timeout)


def _awaited_in_turn(results: Any, timeout_s: float | None) -> Iterator[tuple[str, Any]]:
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    for each in results:
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        bridge.wait(await_result(each, timeout_s=left_s, propagate=False))
        meta = each.results if isinstance(each, ResultSet) else each._cache  # noqa: SLF001 - as Celery does
        yield each.id, meta or _IGNORED
