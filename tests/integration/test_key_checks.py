"""Free checks of each key, with the real sandbox.

They find whether the key works, what it may do, and its quotas.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from config.api_key import ApiKey
from sandbox.process import Sandbox
from worker.keypool import KeyPool
from worker.providers import Groq, Resend
from worker.providers.key_check import Checker
from worker.rotation.key_checks import KeyChecks, check_keys, problems_in

MODEL, GONE = "openai/gpt-oss-120b", "llama-3.3-70b-versatile"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(groq_keys=2, resend_keys=2) as running:
        yield running


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.control("reset")
    return running


def _keys(sandbox: Sandbox, service: str) -> list[ApiKey]:
    return [
        ApiKey(
            service=service,
            id=hashlib.sha256(secret.encode()).hexdigest()[:12],
            label=f"{service} {number}",
            secret=SecretStr(secret),
            variable=f"{service.upper()}_API_KEY_{number}",
            account=None,
            sender=None,
        )
        for number, secret in enumerate(sandbox.keys(service), start=1)
    ]


@pytest.fixture
async def pools(sandbox: Sandbox, redis_url: str) -> AsyncIterator[dict[str, KeyPool]]:
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        yield {
            service: KeyPool(redis, service, _keys(sandbox, service))
            for service in ("groq", "resend")
        }


@pytest.fixture
async def checkers(sandbox: Sandbox) -> AsyncIterator[dict[str, Checker]]:
    made: dict[str, Checker] = {
        "groq": Groq(sandbox.groq_base_url),
        "resend": Resend(sandbox.resend_api_url),
    }
    yield made
    for checker in made.values():
        await checker.close()


async def _problems(
    pools: dict[str, KeyPool], checkers: dict[str, Checker], *models: str
) -> list[str]:
    wanted = {"groq": models}
    return list(problems_in(await check_keys(pools, checkers, models=wanted), models=wanted))


async def test_live_keys_are_reported_with_their_models_and_quotas(
    sandbox: Sandbox, pools: dict[str, KeyPool], checkers: dict[str, Checker]
) -> None:
    sandbox.control("revoke", key="resend:2", standing="restricted")
    checked = await check_keys(pools, checkers, models={"groq": [MODEL, GONE]})
    results = [
        {name: result.as_json()[name] for name in ("service", "state", "models", "limits")}
        for result in checked
    ]
    assert results[0] == {
        "service": "groq",
        "state": "alive",
        "models": {MODEL: True, GONE: False},
        "limits": {},
    }
    assert results[2] == {
        "service": "resend",
        "state": "alive",
        "models": {},
        "limits": {"epd": 100, "epmo": 3_000, "rps": 2},
    }
    assert results[3] == {
        "service": "resend",
        "state": "alive",
        "models": {},
        "limits": {},
    }  # this key may only send
    assert (
        checked[3].check.detail
        == "the key may only send, so its quotas are unknown until they are used up"
    )
    assert await _problems(pools, checkers, MODEL) == []
    assert sandbox.ledger()["services"]["groq"]["accepted"] == 0
    secrets = [*sandbox.keys("groq"), *sandbox.keys("resend")]
    assert not any(secret in repr(checked) for secret in secrets)


async def test_the_reason_why_a_key_does_not_serve_is_reported_in_the_providers_words(
    sandbox: Sandbox, pools: dict[str, KeyPool], checkers: dict[str, Checker]
) -> None:
    sandbox.control("revoke", key="groq:1")
    sandbox.control("revoke", key="resend:1", form=403)
    assert await _problems(pools, checkers, MODEL) == [
        "groq key groq 1 is not accepted: Invalid API Key (HTTP 401)",
        "resend key resend 1 is not accepted: API key is invalid (HTTP 403)",
    ]
    sandbox.control("reset")
    sandbox.control("standing", service="groq", standing="organization_restricted")
    assert all(
        "is not accepted: Organization has been restr" in problem
        for problem in await _problems(pools, checkers, MODEL)
    )


async def test_a_model_that_only_some_or_no_keys_have_is_reported(
    sandbox: Sandbox, pools: dict[str, KeyPool], checkers: dict[str, Checker]
) -> None:
    account = sandbox.state()["groq"][1]["account"]
    sandbox.control(
        "standing", service="groq", model=MODEL, code="model_not_found", account=account
    )
    assert await _problems(pools, checkers, MODEL) == [
        f"groq key groq 2 may not use the model {MODEL}"
    ]
    assert await _problems(pools, checkers, GONE) == [
        f"no groq key may use {GONE}: set GROQ_MODEL to one of {MODEL}, openai/gpt-oss-20b"
    ]
    sandbox.control("reset")
    assert await _problems(pools, checkers, GONE, MODEL) == [
        f"no groq key may use {GONE}: take it out of GROQ_MODEL"
    ], "the other model of the list serves"


async def test_keys_of_an_unreachable_provider_are_reported_as_unknown(
    pools: dict[str, KeyPool], sandbox: Sandbox
) -> None:
    checkers: dict[str, Checker] = {
        "groq": Groq("http://127.0.0.1:1"),
        "resend": Resend(sandbox.resend_api_url),
    }
    results = await check_keys(pools, checkers, models={"groq": [MODEL]})
    assert [result.check.state for result in results] == ["unknown", "unknown", "alive", "alive"]
    assert "could not be checked: the connection could not be opened" in next(
        problems_in(results, models={"groq": [MODEL]})
    )
    for checker in checkers.values():
        await checker.close()


async def test_a_worker_learns_quotas_and_warns_once_for_as_long_as_something_stays_wrong(
    sandbox: Sandbox,
    pools: dict[str, KeyPool],
    checkers: dict[str, Checker],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sandbox.control("revoke", key="groq:1")
    checks = KeyChecks(pools, checkers, models={"groq": [MODEL]}, every_s=3_600)
    with caplog.at_level(logging.WARNING):
        await checks.once()
        await checks.once()
    assert caplog.messages == ["groq key groq 1 is not accepted: Invalid API Key (HTTP 401)"]
    view = await pools["resend"].snapshot()
    learned: dict[str, Any] = {
        bucket.dimension: (bucket.limit, bucket.remaining) for bucket in view.keys[0].buckets
    }
    assert {name: limit for name, (limit, _) in learned.items()} == {
        "epd": 100,
        "epmo": 3_000,
        "rps": 2,
    }
    assert (view.keys[0].calls, view.keys[0].state) == (0, "ready")
    await KeyChecks(
        pools, checkers, models={"groq": [MODEL]}, every_s=0
    ).run()  # no check is made, so it returns at once
