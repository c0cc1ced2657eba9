"""The promises that a Celery task relies on in any pool: one worker for each pool, started at once.

Prefork, threads and our pool keep each promise, or `pool_differences.py` says why not. All files
of this folder share the workers; tests/spreading.py keeps them in one process.

Any other pool that Celery knows by a name runs the same tests: `CONFORMANCE_POOLS=gevent,solo`.
"""

import uuid
from collections.abc import Callable, Iterator

import pytest

from sandbox.redis import EmbeddedRedis
from tests.measuring import unmeasured_children
from tests.processes import collect_results
from tests.workers.pools.pool_differences import DIFFERENCES, NOT_TRIED
from tests.workers.pools.pool_worker import KINDS, Pool


@pytest.fixture(scope="package")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Pool]]:
    folder = tmp_path_factory.mktemp("pools")
    with unmeasured_children(), EmbeddedRedis(data_dir=folder) as server:
        started = {
            name: Pool(kind, f"{server.url.removesuffix('/0')}/{number}", folder / f"{number}.log")
            for number, (name, kind) in enumerate(KINDS.items())
        }
        yield started.__getitem__
        collect_results()
        for pool in started.values():
            pool.close()


@pytest.fixture(scope="module", params=list(KINDS))
def pool(pools: Callable[[str], Pool], request: pytest.FixtureRequest) -> Pool:
    worker = pools(request.param)
    worker.await_ready()
    return worker


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture(autouse=True)
def _judge_by_difference(request: pytest.FixtureRequest) -> None:
    promise = request.node.originalname, request.node.callspec.params["pool"]
    if reason := NOT_TRIED.get(promise):
        pytest.skip(reason)
    if reason := DIFFERENCES.get(promise):
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
