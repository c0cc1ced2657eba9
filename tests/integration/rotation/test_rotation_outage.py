"""A failure counts as a job's own only while the calls of other jobs succeed."""

import asyncio
from dataclasses import replace

import pytest

from tests.integration.rotation.scripted_provider import FAULTY, OK, Make, serve
from worker.errors import TransientError
from worker.providers.base import unknown_refusal_of_key
from worker.verdicts import Fate, Reply, Scope, Verdict

REFUSED = Reply(
    Verdict(Fate.RETRY, "connect_error", "the connection could not be opened", scope=Scope.HOST)
)
OVERLOADED = Reply(
    Verdict(Fate.RETRY, "over_capacity", "overloaded", scope=Scope.MODEL, status=503)
)
TIMED_OUT = Reply(
    Verdict(Fate.RETRY, "read_timeout", "no answer", scope=Scope.HOST, definite=False)
)
UNSURE = Reply(replace(FAULTY.verdict, fate=Fate.SAME_ACCOUNT))
BUSY_PROCESS = Reply(Verdict(Fate.RETRY, "pool_timeout", "all connections were in use"))
BAD_GENERATION = Reply(
    Verdict(Fate.RETRY, "bad_generation", "the model failed", most_repeats=2, status=400)
)
NOT_NOW = [
    Reply(Verdict(Fate.RETRY, "not_now", status=status, definite=False))
    for status in (408, 421, 425, 498, 499)
]
WITHOUT_ID = Reply(
    Verdict(Fate.SAME_ACCOUNT, "unreadable_answer", "no id", definite=False, status=200)
)
UNKNOWN_401 = Reply(unknown_refusal_of_key("Groq"))
STILL_AT_WORK = Reply(Verdict(Fate.SAME_ACCOUNT, "conflict", "at work", definite=False, status=409))


@pytest.mark.parametrize(
    "reply",
    [
        REFUSED,
        OVERLOADED,
        TIMED_OUT,
        FAULTY,
        UNSURE,
        BUSY_PROCESS,
        WITHOUT_ID,
        UNKNOWN_401,
        *NOT_NOW,
    ],
)
async def test_a_lone_job_is_not_to_blame_for_an_outage(make: Make, reply: Reply) -> None:
    rotation, _ = make(reply)
    with pytest.raises(TransientError) as caught:
        await serve(rotation)
    assert not caught.value.own


@pytest.mark.parametrize("reply", [BAD_GENERATION, STILL_AT_WORK])
async def test_a_failure_that_the_provider_ascribes_to_the_request_is_the_jobs_own(
    make: Make, reply: Reply
) -> None:
    rotation, _ = make(reply)
    with pytest.raises(TransientError) as caught:
        await serve(rotation)
    assert caught.value.own


async def test_a_job_that_fails_while_another_passes_is_to_blame(make: Make) -> None:
    rotation, provider = make("hang", OK)
    failing = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    provider.release(TIMED_OUT, after=await serve(rotation))
    with pytest.raises(TransientError) as caught:
        await failing
    assert caught.value.own


@pytest.mark.parametrize("reply", [REFUSED, BUSY_PROCESS])
async def test_a_call_that_was_never_sent_is_not_its_jobs_fault_although_another_passes(
    make: Make, reply: Reply
) -> None:
    """An example: a host name was not resolved in time, and the next call resolves it."""
    rotation, provider = make("hang", OK)
    failing = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    provider.release(reply, after=await serve(rotation))
    with pytest.raises(TransientError) as caught:
        await failing
    assert not caught.value.own
