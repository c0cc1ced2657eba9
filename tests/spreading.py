"""Assigns tests to processes: the tests of a file, or of files that share a worker, to one process.

Reading all tests takes a process 4 s of CPU, and three quarters of that are for the unit tests.
Therefore only some processes of a whole run read the unit tests; the schedulers of pytest-xdist
require the same tests in all processes.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_ROOT: Final = Path(__file__).parents[1]
_SHARED: Final = re.compile(r"\b(?:stack|fresh): Stack\b")
_STARTING: Final = ("test_worker_start", "test_worker_cli")
"""The files that take as long as all others of their folder."""
_SHARING: Final = ("tasks", "pools")
"""The folders in which all files share the processes that their `conftest.py` starts."""

_UNIT: Final = "tests/unit/"
_READING_UNIT_TESTS: Final = {"gw0", "gw1", "gw2"}
"""The processes that read the unit tests; these run last, and three processes occupy two cores."""


def reads_unit_tests(config: pytest.Config) -> bool:
    """Whether this process reads the unit tests if no argument names them."""
    return getattr(config, "workerinput", {}).get("workerid", "gw0") in _READING_UNIT_TESTS


class BySharedWorker(LoadFileScheduling):
    """Gives all files whose tests share the worker of their folder (`Stack`) to one process.

    Each process that runs such a file has to start a worker, a sandbox and a Redis for it.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(super()._split_scope(nodeid))

    def _check_nodes_have_same_collection(self) -> bool:
        by_most = sorted(self.registered_collections.items(), key=lambda read: -len(read[1]))
        self.registered_collections = dict(by_most)  # `schedule` reads the first entry only
        every = by_most[0][1]
        others = [test for test in every if not test.startswith(_UNIT)]
        if all(read in (every, others) for _, read in by_most):
            return True
        return super()._check_nodes_have_same_collection()

    def _assign_work_unit(self, node: WorkerController) -> None:
        known = set(self.registered_collections[node])
        for scope, tests in self.workqueue.items():
            if known.issuperset(tests):
                self.workqueue.move_to_end(scope, last=False)
                super()._assign_work_unit(node)
                return
        node.shutdown()


@cache
def scope_of(file: str) -> str:
    """Name the group of a test file, given by its path from the root; a group shares a process."""
    path = _ROOT / file
    if "workers" not in path.parts:
        return file
    if path.parent.name not in _SHARING and not _SHARED.search(path.read_text()):
        return file
    return f"{path.parent.name}, {'starts' if path.stem in _STARTING else 'jobs'}"
