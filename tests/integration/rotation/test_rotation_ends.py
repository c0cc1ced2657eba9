"""Ways in which a turn ends without an answer."""

import asyncio

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    DEAD,
    FAULTY,
    INVALID,
    NOT_FOUND,
    NOT_HAD,
    NOT_ITS_DOMAIN,
    NOTHING_OUT,
    OK,
    SECRETS,
    UNFIT,
    Make,
    leases_out,
    refused,
    serve,
    too_large,
)
from worker.errors import Deferred, RequestRejected, RequestTooLarge, TransientError
from worker.verdicts import Dimension, Fate, ObservedLimit, Reply, Verdict


async def test_a_job_is_deferred_after_its_longest_wait_while_the_limits_are_unknown(
    make: Make,
) -> None:
    rotation, provider = make("hang", count=1, opening=1)
    first = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    with pytest.raises(Deferred) as caught:
        await serve(rotation, longest_s=0)
    assert "limits" in caught.value.reason
    assert 1_000 <= caught.value.countdown_ms <= 2_000
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = await serve(rotation)
    assert second.attempts == 1


async def test_a_waiting_job_gets_its_lease_when_the_call_in_flight_ends(make: Make) -> None:
    rotation, provider = make("hang", count=1, opening=1)
    first = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    second = asyncio.create_task(serve(rotation), name="turn")
    await asyncio.sleep(0)
    assert not second.done()
    first.cancel()
    served = await second
    assert served.attempts == 1
    await asyncio.wait([first])


async def test_a_server_error_ends_the_turn_with_its_backoff(make: Make, redis: Redis) -> None:
    rotation, provider = make(FAULTY)
    with pytest.raises(TransientError) as caught:
        await serve(rotation)
    assert (caught.value.reason, caught.value.backoff_ms) == ("it failed (HTTP 502)", 1_500)
    assert len(provider.seen) == 1
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_transient_error_without_a_reason_names_its_code(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.RETRY, "odd")))
    with pytest.raises(TransientError, match=r"^odd$"):
        await serve(rotation)


async def test_a_rejection_ends_the_job_with_the_providers_words(make: Make) -> None:
    rotation, provider = make(INVALID)
    with pytest.raises(RequestRejected, match=r"^rejected: messages: must not be so$"):
        await serve(rotation)
    assert len(provider.seen) == 1


async def test_a_rejection_without_a_reason_names_its_code(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.FAIL, "rejected", status=400)))
    with pytest.raises(RequestRejected, match=r"^rejected$"):
        await serve(rotation)


async def test_a_model_that_no_account_knows_is_rejected(make: Make) -> None:
    rotation, provider = make(NOT_FOUND, NOT_FOUND, NOT_FOUND)
    with pytest.raises(RequestRejected, match=r"^model_not_found: there is no such model$"):
        await serve(rotation, model="m")
    assert provider.keys_used == SECRETS


async def test_a_model_that_the_only_account_does_not_know_is_rejected(make: Make) -> None:
    rotation, provider = make(NOT_FOUND, accounts=("one", "one", "one"))
    with pytest.raises(RequestRejected, match="model_not_found"):
        await serve(rotation, model="m")
    assert len(provider.seen) == 1


async def test_each_account_is_called_once_for_a_model_that_none_has(make: Make) -> None:
    rotation, provider = make(NOT_HAD, NOT_HAD, NOT_HAD)
    for words in (
        r"^model_not_found: there is no such model$",
        "no groq key may be used for m: model_not_found",
    ):
        with pytest.raises(RequestRejected, match=words):
            await serve(rotation, model="m", resource="m")
    assert provider.keys_used == SECRETS
    assert (await serve(rotation, model="n", resource="n")).attempts == 1
    assert {key.state for key in (await rotation.pool.snapshot()).keys} == {"ready"}
    await rotation.pool.forget_unfit()
    assert (await serve(rotation, model="m", resource="m")).attempts == 1


async def test_an_account_that_rejects_requests_comes_last(make: Make) -> None:
    rotation, provider = make(NOT_FOUND, NOT_FOUND)
    for _ in range(9):
        await serve(rotation, model="m")
    assert len(provider.seen) == 11
    assert set(provider.keys_used[3:]) == {SECRETS[2]}


async def test_a_resting_key_is_waited_for_although_another_account_rejected_the_job(
    make: Make,
) -> None:
    rotation, provider = make(DEAD, OK, refused(30_000), NOT_FOUND)
    await serve(rotation, model="n")  # the first key is disabled from now on
    with pytest.raises(Deferred) as caught:
        await serve(rotation, model="m")
    assert len(provider.seen) == 4
    assert not caught.value.for_good
    assert 20_000 < caught.value.countdown_ms <= 31_000


async def test_a_model_is_rejected_if_the_keys_of_all_other_accounts_are_disabled(
    make: Make,
) -> None:
    rotation, provider = make(DEAD, DEAD, OK, NOT_FOUND)
    await serve(rotation, model="n")
    with pytest.raises(RequestRejected, match="model_not_found"):
        await serve(rotation, model="m")
    assert len(provider.seen) == 4


async def test_a_model_is_rejected_if_the_next_key_turns_out_to_be_of_the_same_account(
    make: Make,
) -> None:
    rotation, provider = make(
        NOT_FOUND, refused(account="org_one"), NOT_FOUND, count=2, accounts=("org_one", "two")
    )
    with pytest.raises(RequestRejected, match="model_not_found"):
        await serve(rotation, model="m")
    assert len(provider.seen) == 2


# The from-domain (empty if each key has its own from address), and its name in the message.
@pytest.mark.parametrize(
    ("domain", "words"),
    [("example.com", "example.com"), ("", "the from address that is set for it")],
)
async def test_a_domain_that_no_account_has_is_rejected_by_each_once(
    make: Make, domain: str, words: str
) -> None:
    rotation, provider = make(*[NOT_ITS_DOMAIN] * 3)
    with pytest.raises(RequestRejected, match=r"^domain_not_verified: not verified$"):
        await serve(rotation, resource=domain)
    with pytest.raises(
        RequestRejected, match=f"no groq key may be used for {words}: domain_not_verified"
    ):
        await serve(rotation, resource=domain)
    assert len(provider.seen) == 3


async def test_a_request_too_large_is_tried_on_every_account_then_rejected(make: Make) -> None:
    rotation, provider = make(too_large(100), too_large(300), too_large(200))
    with pytest.raises(RequestTooLarge, match=r"^request_too_large: too many tokens$"):
        await serve(rotation, model="m", tokens=1_000)
    assert len(provider.seen) == 3
    # The pool now knows the limits, so no call is made.
    with pytest.raises(RequestTooLarge, match=r"about 1000 tokens a minute.*limit.*is 300"):
        await serve(rotation, model="m", tokens=1_000)
    assert len(provider.seen) == 3


async def test_an_email_to_more_recipients_than_any_quota_holds_is_rejected_unsent(
    make: Make,
) -> None:
    rotation, provider = make(limits=(ObservedLimit(Dimension.EMAILS_DAY, 20),))
    with pytest.raises(
        RequestTooLarge,
        match=r"the email has 21 recipients, and the largest quota .* is 20: split it",
    ):
        await serve(rotation, emails=21)
    assert provider.seen == []


async def test_keys_that_are_all_unfit_for_the_model_reject_the_job(make: Make) -> None:
    rotation, provider = make(UNFIT, UNFIT, UNFIT)
    with pytest.raises(RequestRejected, match=r"no groq key may be used for m: model_blocked"):
        await serve(rotation, model="m", resource="m")
    with pytest.raises(RequestRejected, match=r"no groq key may be used for m: model_blocked"):
        await serve(rotation, model="m", resource="m")
    assert len(provider.seen) == 3
    assert (await serve(rotation, model="n", resource="n")).attempts == 1
