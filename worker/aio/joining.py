"""Awaits results where the code of a job waits for them as plain code does.

Celery allows `result.get()` in a task within `allow_join_result()`. On the loop's thread it would
block every job, and for ever if the awaited job is to run in the same worker.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from celery.result import AsyncResult, ResultSet, assert_will_not_block

from worker.aio import bridge
from worker.aio.result import await_result

_WAITS: Final = tuple(
    (holder, name, getattr(holder, name))
    for holder, names in ((AsyncResult, ("get", "wait")), (ResultSet, ("join", "join_native")))
    for name in names
)
_WITHOUT_EFFECT: Final = {"interval", "no_ack"}
"""Options that say how to wait; they have no effect here."""


def install() -> None:
    """Await results in jobs, until `uninstall`."""
    for holder, name, stock in _WAITS:
        setattr(holder, name, _awaiting(stock))


def uninstall() -> None:
    """Undo `install`."""
    for holder, name, stock in _WAITS:
        setattr(holder, name, stock)


def _awaiting(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def waits(
        self: Any,
        timeout: float | None = None,
        propagate: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        *args: Any,
        **options: Any,
    ) -> Any:
        asked = {name for name, value in options.items() if value is not None} - _WITHOUT_EFFECT
        if args or asked - {"disable_sync_subtasks"} or not bridge.is_bridged():
            return stock(self, timeout, propagate, *args, **options)
        if options.get("disable_sync_subtasks", True):
            assert_will_not_block()
        return bridge.wait(await_result(self, timeout_s=timeout, propagate=propagate))

    return waits
