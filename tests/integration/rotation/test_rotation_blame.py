"""Whether a key is at fault, or a request that several keys refuse in the same way."""

from dataclasses import replace

import pytest

from tests.integration.rotation.scripted_provider import DEAD, FAULTY, OK, SECRETS, Make, serve
from worker.errors import Deferred, RequestRejected, TransientError
from worker.verdicts import Reply

ODD = Reply(replace(DEAD.verdict, reason="not accepted: line 3 makes no sense", certain=False))


async def test_a_request_that_two_accounts_refuse_a_key_for_is_at_fault_and_reinstates_them(
    make: Make,
) -> None:
    rotation, provider = make(OK, OK, OK, ODD, ODD)
    for _ in range(3):
        await serve(rotation)
    with pytest.raises(RequestRejected, match="line 3 makes no sense"):
        await serve(rotation, by="poison")
    assert len(provider.seen) == 5
    assert (await rotation.pool.snapshot()).failed == 0
    events = [(entry["event"], entry["by"]) for entry in await rotation.pool.audit()]
    assert events.count(("reinstated", "poison")) == 2
    assert (await serve(rotation)).attempts == 1


async def test_a_request_that_failed_with_several_keys_rests_no_other_key(make: Make) -> None:
    rotation, _ = make(FAULTY, FAULTY)
    with pytest.raises(TransientError):
        await serve(rotation, suspect=True)
    assert (await rotation.pool.snapshot()).failed == 0
    with pytest.raises(TransientError):
        await serve(rotation)
    assert (await rotation.pool.snapshot()).failed == 1


async def test_a_certain_refusal_is_the_keys_fault(make: Make) -> None:
    rotation, provider = make(OK, OK, OK, DEAD, DEAD)
    for _ in range(3):
        await serve(rotation)
    assert (await serve(rotation, by="job")).attempts == 3
    assert (await rotation.pool.snapshot()).failed == 2
    assert provider.keys_used.count(SECRETS[0]) == 2


async def test_keys_that_have_served_nothing_are_at_fault(make: Make) -> None:
    rotation, _ = make(ODD, ODD, ODD)
    with pytest.raises(Deferred, match="every groq key is disabled"):
        await serve(rotation, by="job")
    assert (await rotation.pool.snapshot()).failed == 3


async def test_refusals_by_one_account_reinstate_no_key(make: Make) -> None:
    rotation, _ = make(OK, OK, OK, ODD, ODD, accounts=("one", "one", "two"))
    for _ in range(3):
        await serve(rotation)
    assert (await serve(rotation, by="job")).attempts == 3
    assert (await rotation.pool.snapshot()).failed == 2


async def test_revoked_keys_fail_one_job_and_are_then_disabled(make: Make) -> None:
    """Keys revoked just after they served look at first as if the request were at fault."""
    rotation, provider = make(OK, OK, OK, *[ODD] * 5)
    for _ in range(3):
        await serve(rotation)
    with pytest.raises(RequestRejected):
        await serve(rotation, by="first")
    with pytest.raises(Deferred, match="every groq key is disabled"):
        await serve(rotation, by="second")
    assert len(provider.seen) == 3 + 2 + 3
    assert (await rotation.pool.snapshot()).failed == 3
