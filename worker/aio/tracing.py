"""Removes work that Celery's tracer repeats for each job although the result never changes."""

from functools import lru_cache, wraps
from types import CodeType
from typing import Any, Final

import celery
from billiard import einfo
from celery import signals
from celery.app import trace
from celery.app.task import Context
from celery.exceptions import Retry

from worker.aio import stacks
from worker.aio.job import Job

StockContext: Any = Context  # Celery has no types

_KNOWN: Final = frozenset(
    {*Context.__dict__, "lang", "task", "argsrepr", "kwargsrepr", "compression"}
)
"""The fields of a request that are not the user's own headers, as in Celery's `Context`."""
_NONE: Final = object()


class JobContext(StockContext):
    """Celery's `Context` of a request, which uses the request's dictionary and does not copy it."""

    def __init__(self, *sources: Any, **more: Any) -> None:
        if len(sources) != 1 or type(sources[0]) is not dict:
            super().__init__(*sources, **more)
            return
        # Only the tracer makes a context from a single dictionary: the job's own request.
        fields = self.__dict__ = sources[0]
        fields.update(more)
        limits = fields.get("timelimit", _NONE)
        if limits is not _NONE:
            both = isinstance(limits, list | tuple) and len(limits) >= 2  # noqa: PLR2004 - hard and soft
            fields["time_limit"], fields["soft_time_limit"] = limits[:2] if both else (None, None)
        if fields.get("headers") is None:
            fields["headers"] = {
                name: value for name, value in fields.items() if name not in _KNOWN
            } or None


StockCode: Any = einfo._Code  # noqa: SLF001 - it has no public name


_COPIED: Final = (
    "co_filename", "co_name", "co_argcount", "co_firstlineno", "co_flags", "co_names", "co_nlocals",
    "co_stacksize",
    "co_qualname",
)  # fmt: skip


@lru_cache(maxsize=4096)
def _positions(code: CodeType) -> list[Any]:
    return list(code.co_positions())


class SharedCode(StockCode):
    """billiard's copy of a code object; all copies of one object share a list of its positions.

    billiard makes that list for each frame of each traceback, and a traceback is a reference cycle.
    After a thousand jobs had gone back to their queue, 400 MB of garbage waited for the next
    collection.
    """

    def __init__(self, code: CodeType) -> None:
        for name in _COPIED:
            setattr(self, name, getattr(code, name))
        self.co_cellvars = self.co_freevars = self.co_varnames = ()
        self.co_code = self.co_lnotab = b""
        self._co_positions = _positions(code)


StockFrame: Any = einfo._Frame  # noqa: SLF001 - as above
_HIDES: Final = "__traceback_hide__"


class LightFrame(StockFrame):
    """billiard's copy of a frame, which does not read most frames' variables.

    Each read of `f_locals` stores the variables in the frame, where they stay as long as the frame.
    """

    def __init__(self, frame: Any) -> None:
        if _HIDES in frame.f_code.co_varnames:
            super().__init__(frame)
        else:
            super().__init__(_WithoutVariables(frame))


class _WithoutVariables:
    """A frame with the attributes that billiard's copy reads, and no variables."""

    f_locals: Final[dict[str, Any]] = {}

    def __init__(self, frame: Any) -> None:
        self.f_globals, self.f_code = frame.f_globals, frame.f_code
        self.f_lineno, self.f_lasti = frame.f_lineno, frame.f_lasti


StockTraceInfo: Any = trace.TraceInfo
_ENDS: Final = ("handle_error_state", "handle_ignore", "handle_reject")
"""The methods of the tracer that handle the error of an unsuccessful job."""
_stock_ends = {name: getattr(StockTraceInfo, name) for name in _ENDS}
_stock_handle_retry = StockTraceInfo.handle_retry


def _noting(name: str) -> Any:
    """Return a method that handles an error as Celery does, and notes the error on the job."""

    @wraps(_stock_ends[name])
    def handle(self: Any, *args: Any, **options: Any) -> Any:
        info = _stock_ends[name](self, *args, **options)
        job = stacks.owner()
        if isinstance(job, Job):
            # The info has a different error object if the original cannot be pickled.
            job.errors = (self.retval,) if info is None else (self.retval, info.exception)
        return info

    return handle


class LightRetryInfo:
    """A retry in the form of billiard's `ExceptionInfo`, without a traceback."""

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
        """The retry in the form of `sys.exc_info`."""
        return self.type, self.exception, self.tb


def _handle_retry(self: Any, task: Any, req: Any, store_errors: bool = True, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
    """Report a retry as Celery does, without a traceback if the task has `light_retry`.

    If a job goes back to its queue, a traceback costs more than everything else: Python reads and
    parses the source of each frame to mark the position in the line.
    """
    if not getattr(task, "light_retry", False):
        return _stock_handle_retry(self, task, req, store_errors=store_errors, **kwargs)
    retry = self.retval
    info = LightRetryInfo(retry)
    if store_errors:
        task.backend.mark_as_retry(req.id, retry.exc, None, request=req)
    task.on_retry(retry.exc, req.id, req.args, req.kwargs, info)
    signals.task_retry.send(sender=task, request=req, reason=retry, einfo=info)
    fields = {"id": req.id, "name": trace.get_task_name(req, task.name), "exc": str(retry)}
    if waits := getattr(retry, "waits", None):
        fields["waits"] = waits
    trace.info(trace.LOG_RETRY, fields)
    return info


_stock_saferepr = trace.saferepr


def _short_repr(value: Any, maxlen: int | None = None, **options: Any) -> str:
    """Represent a result as Celery does, but skip the items of a dictionary if none is shown.

    If `resultrepr_maxsize` is 1, Celery spends more time on the result than on its log line.
    """
    if maxlen == 1 and type(value) is dict and value:
        return "{, ...}"
    return str(_stock_saferepr(value, maxlen, **options))


def install() -> None:
    """Replace the parts of Celery and billiard that this module makes faster or lighter."""
    trace.saferepr = _short_repr
    StockTraceInfo.handle_retry = _handle_retry
    for name in _ENDS:
        setattr(StockTraceInfo, name, _noting(name))
    trace.Context = JobContext
    StockFrame.Code = SharedCode
    einfo.Traceback.Frame = LightFrame
    # Celery runs a task's body directly unless the task's class overrides `__call__`. In workers,
    # Celery wraps the default `__call__`, and then mistakes the wrapper for an override.
    call = celery.Task.__call__
    if call.__module__ == trace.__name__:
        call.__module__ = "celery.app.task"


def uninstall() -> None:
    """Undo `install`."""
    trace.saferepr = _stock_saferepr
    StockTraceInfo.handle_retry = _stock_handle_retry
    for name, stock in _stock_ends.items():
        setattr(StockTraceInfo, name, stock)
    trace.Context = StockContext
    StockFrame.Code = StockCode
    einfo.Traceback.Frame = StockFrame
