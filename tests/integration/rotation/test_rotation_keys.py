"""The keys that a turn calls, and their order."""

import asyncio
import logging

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    DEAD,
    NOT_FOUND,
    NOT_HAD,
    NOT_ITS_DOMAIN,
    NOTHING_OUT,
    SECRETS,
    UNFIT,
    Make,
    leases_out,
    refused,
    serve,
)
from worker.errors import Deferred, RequestRejected, TransientError
from worker.keypool import LeaseRequest, NoLease
from worker.rotation.served import Served
from worker.verdicts import Fate, Reply, Scope, Verdict


async def test_an_answer_is_returned_with_its_key_attempts_and_wait(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make()
    served = await serve(rotation, model="m", tokens=10)
    assert served == Served(
        {"text": "hello"}, "gsk_abc123...", attempts=1, waited_ms=served.waited_ms, model="m"
    )
    assert 0 <= served.waited_ms < 1_000
    assert provider.seen == [(SECRETS[0], "for gsk_abc123...")]
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_answer_without_a_value_gets_an_empty_one(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.DONE, "ok", status=200)))
    assert (await serve(rotation)).value == {}


async def test_the_log_lines_have_their_exact_shape(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rotation, _ = make(DEAD, refused())
    with caplog.at_level(logging.INFO, logger="worker.keys"):
        await serve(rotation)
    assert [record.getMessage() for record in caplog.records if record.name == "worker.keys"] == [
        "🤖 Using Groq key: gsk_abc123... (attempt 1/3)",
        "🚨 API key marked as failed: gsk_abc123... (1/3 failed)",
        "🤖 Using Groq key: gsk_def456... (attempt 2/3)",
        "🚨 API key marked as failed: gsk_def456... (2/3 failed)",
        "🤖 Using Groq key: gsk_ghi789... (attempt 3/3)",
    ]


async def test_a_key_that_was_disabled_already_is_not_logged_again(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = make(DEAD, count=1)
    second, provider = make("hang", count=1)
    slow = asyncio.create_task(serve(second), name="turn")
    await provider.called.wait()
    with caplog.at_level(logging.WARNING, logger="worker.keys"):
        with pytest.raises(Deferred):
            await serve(first)
        slow.cancel()
        await asyncio.wait([slow])
        no_lease = await first.pool.acquire(LeaseRequest())
    assert isinstance(no_lease, NoLease)
    assert caplog.text.count("🚨") == 1


# The scripted replies, and the called keys in order.
@pytest.mark.parametrize(
    ("script", "used"),
    [
        ([DEAD], [0, 1]),  # a disabled key: the next key at once
        ([DEAD, DEAD], [0, 1, 2]),  # two disabled keys
        ([refused()], [0, 1]),  # a limit: the next key at once
        ([refused(None), DEAD], [0, 1, 2]),  # a limit without a wait
        ([UNFIT], [0, 1]),  # unfit for this model only
        ([NOT_FOUND], [0, 1]),  # another account may have the model
        ([NOT_FOUND] * 2, [0, 1, 2]),  # or the last account
        ([NOT_ITS_DOMAIN] * 2, [0, 1, 2]),  # the domain's team may be the last one that is called
    ],
)
async def test_the_next_key_is_called_at_once_after_a_refusal(
    make: Make, redis: Redis, script: list[Reply], used: list[int]
) -> None:
    rotation, provider = make(*script)
    served = await serve(rotation, model="m", resource="m")
    assert provider.keys_used == [SECRETS[n] for n in used]
    assert served.attempts == len(used)
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_disabled_key_is_not_called_by_later_jobs(make: Make) -> None:
    rotation, provider = make(DEAD)
    for _ in range(6):
        await serve(rotation)
    assert provider.keys_used.count(SECRETS[0]) == 1
    assert len(provider.keys_used) == 7


async def test_a_job_whose_keys_are_all_limited_in_one_turn_is_deferred(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(refused(40_000), refused(30_000), refused(50_000))
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert 29_000 <= caught.value.countdown_ms <= 31_000
    assert caught.value.reason == "rate_limit"
    assert len(provider.seen) == 3
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_job_whose_keys_are_all_disabled_in_one_turn_is_deferred(
    make: Make,
) -> None:
    rotation, provider = make(DEAD, DEAD, DEAD)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert caught.value.countdown_ms == 60_000
    assert caught.value.reason == "every groq key is disabled (invalid_key)"
    assert len(provider.seen) == 3


async def test_keys_that_are_free_again_at_once_do_not_make_the_turn_endless(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(*[refused(0)] * 50)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert provider.keys_used == SECRETS
    assert caught.value.reason == "every key was refused a moment ago"
    assert 1_000 <= caught.value.countdown_ms <= 2_000
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_job_without_any_key_is_deferred(make: Make) -> None:
    rotation, _ = make(count=0)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert caught.value.reason == "no groq key is configured for this job"
    assert caught.value.countdown_ms == 60_000


OVERLOADED = Reply(
    Verdict(
        Fate.RETRY, "over_capacity", scope=Scope.MODEL, definite=False, counted=False, status=503
    )
)


# The replies for the first model, and the number of calls until the second model serves.
@pytest.mark.parametrize(
    ("script", "accounts", "attempts"),
    [
        ([OVERLOADED], ("one", "two", "three"), 2),
        ([NOT_HAD], ("one", "one", "one"), 2),
        ([NOT_HAD] * 3, ("one", "two", "three"), 4),
        # The account may have the other model, although it refused the first without a reason.
        ([NOT_FOUND], ("one", "one", "one"), 2),
        ([NOT_FOUND] * 3, ("one", "two", "three"), 4),
        ([refused()], ("one", "one", "one"), 2),
    ],
)
async def test_the_next_model_serves_in_the_same_turn(
    make: Make, script: list[Reply], accounts: tuple[str, ...], attempts: int
) -> None:
    rotation, provider = make(*script, accounts=accounts)
    lease_request = LeaseRequest(model="a", resource="a", fallbacks=(("b", "b"),))
    served = await rotation.serve(lease_request, lambda lease: lease.request.resource)
    assert served.attempts == attempts
    assert [model for _, model in provider.seen] == ["a"] * (attempts - 1) + ["b"]


async def test_a_job_whose_models_are_all_overloaded_ends_with_a_transient_error(
    make: Make,
) -> None:
    rotation, provider = make(OVERLOADED, OVERLOADED)
    with pytest.raises(TransientError):
        await serve(rotation, model="a", resource="a", fallbacks=(("b", "b"),))
    assert len(provider.seen) == 2


async def test_a_job_that_no_account_takes_with_any_model_ends_with_the_providers_words(
    make: Make,
) -> None:
    rotation, provider = make(*[NOT_FOUND] * 6)
    with pytest.raises(RequestRejected, match=r"^model_not_found: there is no such model$"):
        await serve(rotation, model="a", resource="a", fallbacks=(("b", "b"),))
    assert len(provider.seen) == 6
