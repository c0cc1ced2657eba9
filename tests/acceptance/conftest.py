import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `processes`: test folders are no packages

from processes import Fleet, Producer, workers

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis


@pytest.fixture(scope="module")
def start_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Fleet]]:
    """Starts a Redis, a sandbox and two workers, which end with the module."""
    with ExitStack() as stack:

        def start(
            *, settings: dict[str, str] | None = None, count: int = 2, password: str = "", **options: Any
        ) -> Fleet:
            folder = tmp_path_factory.mktemp("fleet")
            server = stack.enter_context(EmbeddedRedis(data_dir=folder / "redis"))
            sandbox = stack.enter_context(Sandbox(**options))
            url = server.url
            if password:
                url = url.replace("redis://", f"redis://:{password}@")
                with redis.Redis(port=server.port) as client:
                    client.config_set("requirepass", password)
            environ = sandbox.env() | {"REDIS_URL": url} | (settings or {})
            producer = Producer(url)
            stack.callback(producer.close)
            started = stack.enter_context(workers(folder, environ, count=count))
            return Fleet(server, sandbox, environ, started, producer, folder)

        yield start
