from collections.abc import AsyncIterator, Iterator

import groq
import pytest

from sandbox.process import Sandbox
from tests.tls import TRUSTS_NOBODY


@pytest.fixture(scope="package")
def running() -> Iterator[Sandbox]:
    with Sandbox(
        groq_keys=3, groq_keys_per_org=2, groq_rpm=5, groq_tpm=2_000, grace_ms=5_000, seed=1
    ) as running:
        yield running


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.control("reset")
    return running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[groq.AsyncGroq]:
    async with groq.AsyncGroq(
        api_key=sandbox.keys("groq")[0],
        base_url=sandbox.groq_base_url,
        max_retries=0,
        timeout=5.0,
        http_client=groq.DefaultAsyncHttpxClient(verify=TRUSTS_NOBODY),
    ) as client:
        yield client
