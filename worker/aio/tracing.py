"""Spares Celery's tracer what it does anew for each job and what comes to the same every time."""

from functools import lru_cache
from types import CodeType
from typing import Any, Final

import celery
from billiard import einfo
from celery import signals
from celery.app import trace
from celery.app.task import Context
from celery.exceptions import Retry

StockContext: Any = Context  # Celery has no types

_KNOWN: Final = frozenset(
    {*Context.__dict__, "lang", "task", "argsrepr", "kwargsrepr", "compression"}
)
"""What is no header of the user's own, as in Celery's `Context`."""
_NONE: Final = object()


class JobContext(StockContext):
    """Celery's view of a request, without a copy of it and without building the names of its own parts each time."""

    def __init__(self, *sources: Any, **more: Any) -> None:
        if len(sources) != 1 or type(sources[0]) is not dict:
            super().__init__(*sources, **more)
            return
        # The tracer is the only one to make a context of a job's dictionary, which it has filled
        # for that.
        given = self.__dict__ = sources[0]
        given.update(more)
        limits = given.get("timelimit", _NONE)
        if limits is not _NONE:
            both = isinstance(limits, list | tuple) and len(limits) >= 2  # noqa: PLR2004 - hard and soft
            given["time_limit"], given["soft_time_limit"] = limits[:2] if both else (None, None)
        if given.get("headers") is None:
            given["headers"] = {
                name: value for name, value in given.items() if name not in _KNOWN
            } or None


StockCode: Any = einfo._Code  # noqa: SLF001 - what a frame of a traceback is made of has no public name


_COPIED: Final = (
    "co_filename", "co_name", "co_argcount", "co_firstlineno", "co_flags", "co_names", "co_nlocals",
    "co_stacksize",
    "co_qualname",
)  # fmt: skip


@lru_cache(maxsize=4096)
def _positions(code: CodeType) -> list[Any]:
    return list(code.co_positions())


class SharedCode(StockCode):
    """billiard's copy of a code object, with one list of the positions for all copies of it.

    billiard makes that list anew for each frame of each traceback, and a traceback is a cycle: a
    thousand jobs that go back to their queue were 400 MB of garbage until the next collection.
    """

    def __init__(self, code: CodeType) -> None:
        for name in (
            "filename",
            "name",
            "argcount",
            "firstlineno",
            "flags",
            "names",
            "nlocals",
            "stacksize",
            "qualname",
        ):
            setattr(self, f"co_{name}", getattr(code, f"co_{name}"))
        self.co_cellvars = self.co_freevars = self.co_varnames = ()
        self.co_code = self.co_lnotab = b""
        self._co_positions = _positions(code)


StockTraceInfo: Any = trace.TraceInfo
_stock_handle_retry = StockTraceInfo.handle_retry


class LightRetryInfo:
    """What billiard's `ExceptionInfo` tells of a retry, without its traceback."""

    tb = None
    traceback = ""
    internal = False

    def __init__(self, retry: Retry) -> None:
        self.type = type(retry)
        self.exception = einfo.ExceptionWithTraceback(retry, self.traceback)

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.exception.exc!r}>"

    @property
    def exc_info(self) -> tuple[type, Any, None]:
        """As `sys.exc_info` has it."""
        return self.type, self.exception, self.tb


def _handle_retry(self: Any, task: Any, req: Any, store_errors: bool = True, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
    """Tell of a retry as Celery does, but build no traceback where the task has `light_retry`.

    A traceback costs more than all else in a job that goes back: Python reads the source of each
    frame and parses it, to mark the place in the line.
    """
    if not getattr(task, "light_retry", False):
        return _stock_handle_retry(self, task, req, store_errors=store_errors, **kwargs)
    retry = self.retval
    info = LightRetryInfo(retry)
    if store_errors:
        task.backend.mark_as_retry(req.id, retry.exc, None, request=req)
    task.on_retry(retry.exc, req.id, req.args, req.kwargs, info)
    signals.task_retry.send(sender=task, request=req, reason=retry, einfo=info)
    told = {"id": req.id, "name": trace.get_task_name(req, task.name), "exc": str(retry)}
    if waits := getattr(retry, "waits", None):
        told["waits"] = waits
    trace.info(trace.LOG_RETRY, told)
    return info


def install() -> None:
    """Use it from now on."""
    StockTraceInfo.handle_retry = _handle_retry
    trace.Context = JobContext
    einfo._Frame.Code = SharedCode  # noqa: SLF001
    # Celery runs a task's body directly unless its class has a `__call__` of its own; for one it
    # takes also the guard that it itself puts around the default one in workers.
    call = celery.Task.__call__
    if call.__module__ == trace.__name__:
        call.__module__ = "celery.app.task"


def uninstall() -> None:
    """Undo `install`."""
    StockTraceInfo.handle_retry = _stock_handle_retry
    trace.Context = StockContext
    einfo._Frame.Code = StockCode  # noqa: SLF001
