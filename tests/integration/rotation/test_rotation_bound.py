"""Requests that are bound to an account, and requests with hooks around their calls."""

import asyncio

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    AMBIGUOUS,
    DEAD,
    NOT_FOUND,
    NOTHING_OUT,
    SECRETS,
    Make,
    NotedCalls,
    first_account,
    leases_out,
    refused,
    serve,
)
from worker.errors import Deferred, OutcomeUnknown, RequestRejected, TransientError
from worker.keypool import LeaseRequest


async def test_a_request_that_may_have_been_carried_out_ends_the_turn(make: Make) -> None:
    rotation, provider = make(AMBIGUOUS)
    with pytest.raises(TransientError, match="no answer came in time"):
        await serve(rotation)
    assert len(provider.seen) == 1


async def test_a_bound_request_stays_with_its_account(make: Make) -> None:
    rotation, provider = make()
    for _ in range(4):
        await serve(rotation, account=first_account())
    assert set(provider.keys_used) == {SECRETS[0]}


async def test_a_limit_does_not_move_a_bound_request_to_another_account(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(refused(20_000))
    with pytest.raises(Deferred) as caught:
        await serve(rotation, account=first_account())
    assert 19_000 <= caught.value.countdown_ms <= 21_000
    assert not caught.value.for_good
    assert provider.keys_used == [SECRETS[0]]
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_bound_request_uses_another_key_of_its_account_when_the_first_is_disabled(
    make: Make,
) -> None:
    rotation, provider = make(DEAD, accounts=("one", "one", "two"))
    await serve(rotation, account="one")
    assert provider.keys_used == SECRETS[:2]


async def test_a_bound_request_whose_keys_are_all_disabled_waits_for_a_person(make: Make) -> None:
    rotation, provider = make(DEAD, DEAD, accounts=("one", "one", "two"))
    with pytest.raises(
        Deferred, match="every groq key of the earlier attempt's account is disabled"
    ) as caught:
        await serve(rotation, account="one")
    assert caught.value.for_good
    assert len(provider.seen) == 2


async def test_a_bound_request_whose_account_is_gone_has_an_unknown_outcome(make: Make) -> None:
    rotation, provider = make()
    with pytest.raises(OutcomeUnknown, match="no key of its account is configured"):
        await serve(rotation, account="somebody else")
    assert provider.seen == []


async def test_a_bound_request_that_its_account_refuses_is_not_sent_with_another(
    make: Make,
) -> None:
    rotation, provider = make(NOT_FOUND)
    with pytest.raises(RequestRejected, match="model_not_found"):
        await serve(rotation, account=first_account())
    assert len(provider.seen) == 1


async def test_hooks_run_before_and_after_every_call(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rotation, provider = make(refused())
    calls = NotedCalls()
    served = await rotation.run(LeaseRequest(), calls)
    assert "marked as failed: gsk_abc123... (1/3 failed)" in caplog.text, (
        "the log line is the same as without hooks"
    )
    assert calls.noted == ["before", "gsk_abc rate_limit", "before", "gsk_def ok"]
    assert served.attempts == 2
    assert provider.seen[1][1] == "for gsk_def456..."


async def test_a_hook_that_fails_before_a_call_prevents_it_and_gives_its_lease_back(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make()
    with pytest.raises(ZeroDivisionError):
        await rotation.run(LeaseRequest(), NotedCalls(ZeroDivisionError()))
    assert provider.seen == []
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_hook_runs_after_a_call_whose_job_was_stopped(make: Make, redis: Redis) -> None:
    rotation, provider = make("hang")
    calls = NotedCalls()
    calling = asyncio.create_task(rotation.run(LeaseRequest(), calls), name="turn")
    await provider.called.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert calls.noted == ["before", "gsk_abc interrupted"]
    assert await leases_out(redis) == NOTHING_OUT
