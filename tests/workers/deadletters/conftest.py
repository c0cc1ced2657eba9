from collections.abc import Iterator

import pytest

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.fleets import WIDE_LIMITS, Stack
from tests.measuring import unmeasured_children
from tests.processes import Producer, Worker
from tests.tuned import tuned

SHOP = """
from dataclasses import replace

from celery.exceptions import Reject
from worker.celery import app
from worker.deadletters import recorder

recorder.RECORD = replace(recorder.RECORD, within_s=2.0)  # no test waits for a letter for a minute

@app.task(name="shop.orders.doom", max_retries=1, default_retry_delay=0)
async def doom(how, words):
    raise {"SystemExit": SystemExit, "MemoryError": MemoryError, "Reject": Reject}[how](words)
"""
"""A task of a project that ends every worker without protection against it."""


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    options = WIDE_LIMITS | {"groq_keys": 2, "resend_keys": 2}
    with EmbeddedRedis(data_dir=folder / "redis") as server, Sandbox(**options) as sandbox:
        environ = sandbox.env() | {
            "REDIS_URL": server.url,
            "KEYWHEEL_RETRY_BACKOFF_S": "0.05",
            "KEYWHEEL_MAX_RETRIES": "2",
            "KEYWHEEL_GROQ_COOLDOWN_S": "0.05",
            "KEYWHEEL_RESEND_COOLDOWN_S": "0.05",
            **tuned(max_deliveries=3),
        }
        producer = Producer(server.url)
        (folder / "shop.py").write_text(SHOP)
        with unmeasured_children():
            worker = Worker(folder, environ, "--include", "shop")
        try:
            yield Stack(server.url, sandbox, environ, worker.await_ready(), producer, folder)
        finally:
            worker.stop()
        producer.close()


@pytest.fixture
def fresh(stack: Stack) -> Stack:
    """The same stack, with all keys reset and no dead letters."""
    stack.sandbox.control("reset")
    stack.producer.ask("tasks.admin.reset_keys")
    client = stack.producer.app.backend.client
    if names := client.keys("{kw:dead}:*"):
        client.delete(*names)
    return stack
