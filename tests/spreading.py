"""Which tests run in the same process: those of a file, and of files that share a worker."""

import re
from functools import cache
from pathlib import Path
from typing import Final

from xdist.scheduler import LoadFileScheduling

_ROOT: Final = Path(__file__).parents[1]
_SHARED: Final = re.compile(r"\b(?:stack|fresh): Stack\b")
_STARTING: Final = ("test_worker_start", "test_worker_cli")
"""These take as long as all others of their folder."""
_SHARING: Final = ("tasks", "pools")
"""In these folders all files share what their `conftest.py` starts for the package."""


class BySharedWorker(LoadFileScheduling):
    """Gives a process all files whose tests share the worker of their folder (`Stack`).

    Each process that has one of them starts a worker, a sandbox and a Redis for it.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(super()._split_scope(nodeid))


@cache
def scope_of(file: str) -> str:
    """Name what the tests of a file, given by its path from the root, are kept together with."""
    path = _ROOT / file
    if "workers" not in path.parts:
        return file
    if path.parent.name not in _SHARING and not _SHARED.search(path.read_text()):
        return file
    return f"{path.parent.name}, {'starts' if path.stem in _STARTING else 'jobs'}"
