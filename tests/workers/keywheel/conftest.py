import re
from collections.abc import Iterator

import pytest
import redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.fleets import WIDE_LIMITS, Stack
from tests.pages import ROOT, blocks, text_of
from tests.processes import SPACED, Producer, workers
from tests.tuned import tuned


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    options = WIDE_LIMITS | {"groq_keys": 3, "resend_keys": 2}
    with EmbeddedRedis(data_dir=folder / "redis") as server, Sandbox(**options) as sandbox:
        environ = sandbox.env() | {
            "REDIS_URL": server.url,
            "GROQ_API_KEY_4": SPACED,
            "KEYWHEEL_TASKS": "tests.workers.keywheel.custom_jobs,myapp.jobs",
            "PYTHONPATH": f"{ROOT}:{folder}",
            "KEYWHEEL_RETRY_BACKOFF_S": "0.2",
            "KEYWHEEL_GROQ_COOLDOWN_S": "0.3",
            "KEYWHEEL_RESEND_COOLDOWN_S": "0.3",
            **tuned(status_interval_s=0.5),
        }
        # The application of docs/own-tasks.md, which each worker of the tests imports by its path.
        (folder / "myapp").mkdir()
        (folder / "myapp" / "jobs.py").write_text(blocks(ROOT / "docs/own-tasks.md", "python")[0])
        producer = Producer(server.url)
        with workers(folder, environ) as [worker]:
            yield Stack(server.url, sandbox, environ, worker, producer, folder)
        producer.close()


@pytest.fixture
def fresh(stack: Stack) -> Stack:
    """The same stack, with all keys reset."""
    stack.sandbox.control("reset")
    stack.producer.ask("tasks.admin.reset_keys", include_disabled=True)
    return stack


@pytest.fixture(scope="package")
def web_url(stack: Stack) -> str:
    """The URL of the user that deploy/redis/users.acl has for web applications."""
    file = text_of(ROOT / "deploy/redis/users.acl")
    [rules] = re.findall(r"^user web (.*)$", file, re.MULTILINE)
    with redis.Redis.from_url(stack.redis_url) as client:
        client.execute_command("ACL", "SETUSER", "web", ">canary-web", *rules.split())
    return stack.redis_url.replace("redis://", "redis://web:canary-web@")
