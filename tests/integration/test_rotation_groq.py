"""The rotation against the sandbox.

The effect of a refusal by Groq on later jobs.
"""

import asyncio
import re
from dataclasses import replace
from io import StringIO

import pytest
from redis.asyncio import Redis
from rich.console import Console

from config.api_key import make_key
from sandbox.process import Sandbox
from worker.cli.key_listing import listing
from worker.errors import Deferred, RequestTooLarge
from worker.keypool import KeyPool, Lease, LeaseRequest
from worker.providers import Completion, Groq
from worker.rotation.rotation import Rotation
from worker.rotation.served import Served

MODEL = "openai/gpt-oss-120b"


async def ask(rotation: Rotation[Completion], tokens: int) -> Served:
    messages = [{"role": "user", "content": "go on"}]
    request = Completion.of({"model": MODEL, "messages": messages, "max_completion_tokens": tokens})
    return await rotation.serve(
        LeaseRequest(model=MODEL, resource=MODEL, tokens=request.tokens, by=f"job of {tokens}"),
        lambda _: request,
    )


async def test_a_job_that_the_day_has_no_tokens_for_holds_up_no_smaller_one(redis_url: str) -> None:
    limits = {
        "groq_rpm": 0,
        "groq_rpd": 0,
        "groq_tpm": 0,
        "groq_tpd": 20_000,
        "groq_completion_tokens": 50_000,
    }
    with Sandbox(groq_keys=1, resend_keys=0, **limits) as sandbox:
        [secret] = sandbox.keys("groq")
        groq = Groq(sandbox.groq_base_url)
        async with Redis.from_url(redis_url, decode_responses=True) as redis:
            pool = KeyPool(
                redis, "groq", [make_key("groq", secret=secret, variable="GROQ_API_KEY")]
            )
            rotation: Rotation[Completion] = Rotation(pool, groq)
            assert (await ask(rotation, 19_000)).attempts == 1
            with pytest.raises(Deferred) as refused:
                await ask(
                    rotation, 2_000
                )  # no header states the limit of the day, so it could not be known
            assert refused.value.countdown_ms > 3_600_000
            shown = Console(width=300, file=StringIO())
            shown.print(listing([await pool.snapshot()]))
            assert re.search(
                rf"rate_limit {MODEL} for 2,0\d\d tokens or more", shown.file.getvalue()
            )
            assert (await ask(rotation, 300)).attempts == 1
            with pytest.raises(Deferred):
                await ask(rotation, 2_000)
            statuses = [call["status"] for call in sandbox.ledger(full=True)["calls"]]
            assert statuses == [200, 429, 200]
            assert sandbox.ledger()["judgement"]["calls_while_cooling"] == 0
        await groq.close()


# The account's limit, the tokens that Groq reserves without a cap, and the cap that is then sent.
@pytest.mark.parametrize(("limit", "reserved", "cap"), [(500, 900, 490), (1_500, 2_000, 1_024)])
async def test_if_a_job_names_no_cap_its_answer_is_as_long_as_the_account_allows(
    redis_url: str, limit: int, reserved: int, cap: int
) -> None:
    limits = {
        "groq_rpm": 0,
        "groq_rpd": 0,
        "groq_tpm": 0,
        "groq_tpd": 0,
        "groq_otpm": limit,
        "groq_completion_tokens": reserved,
    }
    with Sandbox(groq_keys=1, resend_keys=0, **limits) as sandbox:
        [secret] = sandbox.keys("groq")
        groq = Groq(sandbox.groq_base_url)
        async with Redis.from_url(redis_url, decode_responses=True) as redis:
            pool = KeyPool(
                redis, "groq", [make_key("groq", secret=secret, variable="GROQ_API_KEY")]
            )
            rotation: Rotation[Completion] = Rotation(pool, groq)
            request = Completion.of(
                {"model": MODEL, "messages": [{"role": "user", "content": "go on"}]}
            )
            lease_request = LeaseRequest(
                model=MODEL,
                resource=MODEL,
                tokens=request.tokens,
                output_tokens=1_024,
                flexible=True,
            )
            built: list[int] = []

            def build(lease: Lease) -> Completion:
                chosen = request.capped(lease.request.output_tokens) if lease.capped else request
                built.append(chosen.params.get("max_completion_tokens", 0))
                return chosen

            served = await rotation.serve(lease_request, build)
            assert (served.attempts, built) == (2, [0, cap]), "the limit could not be known before"
            with pytest.raises(
                RequestTooLarge,
                match=f"reserves 1600 tokens .* limit of any groq key is {limit}: lower",
            ):
                await rotation.serve(
                    replace(lease_request, output_tokens=1_600, flexible=False), build
                )
        await groq.close()


async def test_if_one_of_three_organisations_keeps_a_model_no_job_fails(redis_url: str) -> None:
    limits = {"groq_rpm": 0, "groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0, "groq_latency_ms": 5}
    with Sandbox(groq_keys=3, resend_keys=0, **limits) as sandbox:
        keys = sandbox.keys("groq")
        accounts = [key["account"] for key in sandbox.state()["groq"]]
        for account in accounts[:2]:
            sandbox.control(
                "standing", service="groq", account=account, model=MODEL, code="model_not_found"
            )
        groq = Groq(sandbox.groq_base_url)
        async with Redis.from_url(redis_url, decode_responses=True) as redis:
            pool = KeyPool(
                redis,
                "groq",
                [
                    make_key("groq", secret=secret, variable=f"K{n}")
                    for n, secret in enumerate(keys)
                ],
            )
            rotation: Rotation[Completion] = Rotation(pool, groq)
            served = await asyncio.gather(*(ask(rotation, 10) for _ in range(30)))
            first = [call["status"] for call in sandbox.ledger(full=True)["calls"]]
            served += await asyncio.gather(*(ask(rotation, 10) for _ in range(240)))
        await groq.close()
        statuses = [call["status"] for call in sandbox.ledger(full=True)["calls"]]
    assert len(served) == statuses.count(200) == 270
    assert first.count(404) >= 2
    assert statuses.count(404) == first.count(404), "two organisations are not called again"
