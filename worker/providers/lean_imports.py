"""Imports the SDKs without two parts that a worker does not use, which saves 8 MB of memory.

The parts are the command line of httpx, which imports `pygments` and `rich`, and the blocking
client of Resend's SDK, which imports `requests`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_COMMAND_LINE = "httpx._main"
_BLOCKING_CLIENT = "requests"


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import without the command line of httpx, and postpone `requests` to its first use."""
    if _BLOCKING_CLIENT not in sys.modules:
        sys.modules[_BLOCKING_CLIENT] = _LazyModule(_BLOCKING_CLIENT)
    leaves_out = "httpx" not in sys.modules
    if leaves_out:
        sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment] # no such module
    try:
        yield
    finally:
        if leaves_out:
            del sys.modules[_COMMAND_LINE]


class _LazyModule(ModuleType):
    """Stands in for a module until one of its attributes is read.

    The lazy module of `importlib` would load the module at the next `import`.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)
