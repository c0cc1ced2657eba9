"""Spares Celery's tracer what it does anew for each job and what comes to the same every time."""

from functools import lru_cache
from types import CodeType
from typing import Any, Final

import celery
from billiard import einfo
from celery.app import trace
from celery.app.task import Context

StockContext: Any = Context  # Celery has no types

_KNOWN: Final = frozenset({*Context.__dict__, "lang", "task", "argsrepr", "kwargsrepr", "compression"})
"""What is no header of the user's own, as in Celery's `Context`."""
_NONE: Final = object()


class JobContext(StockContext):
    """Celery's view of a request, without a copy of it and without building the names of its own parts each time."""

    def __init__(self, *sources: Any, **more: Any) -> None:
        if len(sources) != 1 or type(sources[0]) is not dict:
            super().__init__(*sources, **more)
            return
        # The tracer is the only one to make a context of a job's dictionary, which it has filled for that.
        given = self.__dict__ = sources[0]
        given.update(more)
        limits = given.get("timelimit", _NONE)
        if limits is not _NONE:
            both = isinstance(limits, list | tuple) and len(limits) >= 2  # noqa: PLR2004 - hard and soft
            given["time_limit"], given["soft_time_limit"] = limits[:2] if both else (None, None)
        if given.get("headers") is None:
            given["headers"] = {name: value for name, value in given.items() if name not in _KNOWN} or None


StockCode: Any = einfo._Code  # noqa: SLF001 - what a frame of a traceback is made of has no public name


_COPIED: Final = (
    "co_filename", "co_name", "co_argcount", "co_firstlineno", "co_flags", "co_names", "co_nlocals", "co_stacksize",
    "co_qualname",
)  # fmt: skip


@lru_cache(maxsize=4096)
def _positions(code: CodeType) -> list[Any]:
    return list(code.co_positions())


class SharedCode(StockCode):
    """billiard's copy of a code object, with one list of the positions for all copies of it.

    billiard makes that list anew for each frame of each traceback, and a traceback is a cycle: a thousand jobs that go
    back to their queue were 400 MB of garbage until the next collection.
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


def install() -> None:
    """Use it from now on."""
    trace.Context = JobContext
    einfo._Frame.Code = SharedCode  # noqa: SLF001
    # Celery runs a task's body directly unless its class has a `__call__` of its own; for one it takes also the guard
    # that it itself puts around the default one in workers.
    call = celery.Task.__call__
    if call.__module__ == trace.__name__:
        call.__module__ = "celery.app.task"


def uninstall() -> None:
    """Undo `install`."""
    trace.Context = StockContext
    einfo._Frame.Code = StockCode  # noqa: SLF001
