"""Emails in doubt are sent again with the same account and bytes, or end as unknown."""

import asyncio
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis, free_port
from tests.integration.emails.email_senders import (
    ANN,
    CANARY,
    Senders,
    accepted,
    ids,
    impatient_redis,
    outgoing,
    send,
    send_one,
)
from worker.errors import (
    Deferred,
    InvalidArguments,
    OutcomeUnknown,
    RequestRejected,
    TransientError,
)
from worker.redis import retry
from worker.rotation.served import Served


async def test_exactly_the_same_bytes_go_out_again_although_the_from_address_changed(
    senders: Senders,
) -> None:
    senders.sandbox.control("fault", service="resend", kind="reset_after", count=1)
    with pytest.raises(TransientError) as caught:
        await send_one(senders.make(), outgoing(1))
    assert caught.value.in_doubt
    changed = senders.make(senders=("new@team1.example.net", "new@team2.example.net"))
    served = await send_one(changed, outgoing(1, known=True))
    assert served.value["id"]
    first, second = senders.calls()
    assert (first["key"], first["emails"]) == (second["key"], [served.value["id"]])
    assert second["replayed"]
    assert accepted(senders) == (1, 0, 0)


@pytest.mark.parametrize("known", [False, True], ids=["as new", "again"])
async def test_an_email_that_resend_is_still_at_work_on_is_deferred(
    senders: Senders,
    known: bool,  # noqa: FBT001
) -> None:
    sender = senders.make()
    if known:
        await in_doubt(senders, 1)
    at_work = {"kind": "concurrent_idempotent_requests", "count": 1}
    senders.sandbox.control("fault", service="resend", **at_work)
    with pytest.raises(Deferred) as caught:
        await send_one(sender, outgoing(1, known=known))
    assert (caught.value.code, caught.value.in_doubt, caught.value.attempts) == (
        "same_email",
        True,
        1,
    )
    assert (await send_one(sender, outgoing(1, known=True))).value["id"]
    assert len({call["key"] for call in senders.calls()}) == 1
    assert accepted(senders) == (1, 0, 0)


async def in_doubt(senders: Senders, *numbers: int) -> None:
    """Make the first account accept emails, and lose the answers."""
    senders.sandbox.control("fault", service="resend", kind="reset_after", count=2)
    for outcome in await send(senders.make(keys=(0,)), *(outgoing(n) for n in numbers)):
        assert isinstance(outcome, TransientError)
    senders.sandbox.control("clear", service="resend")


async def test_an_email_in_doubt_whose_account_is_gone_ends_as_unknown(senders: Senders) -> None:
    await in_doubt(senders, 1)
    words = (
        "^an earlier attempt may have been accepted, and no key of its account is configured "
        "any more$"
    )
    with pytest.raises(OutcomeUnknown, match=words):
        await send_one(senders.make(keys=(1,)), outgoing(1, known=True))
    assert accepted(senders) == (1, 0, 0)


async def test_an_email_in_doubt_whose_account_is_disabled_is_deferred(senders: Senders) -> None:
    await in_doubt(senders, 1)
    senders.sandbox.control("revoke", key="resend:1")
    with pytest.raises(
        Deferred, match="every resend key of the earlier attempt's account is disabled"
    ) as caught:
        await send_one(senders.make(), outgoing(1, known=True))
    assert caught.value.in_doubt
    assert accepted(senders) == (1, 0, 0)


@pytest.mark.parametrize("how", ["gone", "revoked", "refused"])
async def test_at_least_once_sends_emails_in_doubt_with_another_account(
    senders: Senders, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    await in_doubt(senders, 1, 2, 3)
    if how == "revoked":
        senders.sandbox.control("revoke", key="resend:1")
    if how == "refused":
        senders.sandbox.control("fault", service="resend", kind="domain_not_verified", count=1)
    sender = senders.make(keys=(1,) if how == "gone" else (0, 1), at_least_once=True)
    again = await send(sender, *(outgoing(n, known=True) for n in (1, 2, 3)))
    assert len(set(ids(again))) == 3
    assert accepted(senders)[0] >= 4
    sentence = "email(s) that may have been accepted are sent again, with another account"
    lines = [record.getMessage() for record in caplog.records if sentence in record.getMessage()]
    assert all(int(line.removesuffix(sentence)) >= 1 for line in lines)
    assert lines


@pytest.mark.parametrize("at_least_once", [False, True])
async def test_an_email_without_a_from_address_any_more_is_looked_up_before_it_is_refused(
    senders: Senders, *, at_least_once: bool
) -> None:
    await in_doubt(senders, 1)
    nameless = senders.make(senders=("", ""), at_least_once=at_least_once)
    served = await send_one(nameless, outgoing(1, unsendable="from: is required"))
    assert served.value["id"]
    assert accepted(senders) == (1, 0, 0)
    with pytest.raises(InvalidArguments, match="from: is required"):
        await send_one(nameless, outgoing(2, unsendable="from: is required"))
    await in_doubt(senders, 3)
    gone = senders.make(senders=("", ""), keys=(1,), at_least_once=at_least_once)
    with pytest.raises(OutcomeUnknown):
        await send_one(gone, outgoing(3, unsendable="from: is required"))


async def test_a_refusal_of_a_later_attempt_says_that_an_earlier_one_may_have_been_accepted(
    senders: Senders,
) -> None:
    await in_doubt(senders, 1)
    senders.sandbox.control("fault", service="resend", kind="domain_not_verified", count=1)
    words = (
        r"^an earlier attempt may have been accepted, and the same account refuses to repeat it: "
        "domain_not_verified: "
    )
    with pytest.raises(OutcomeUnknown, match=words):
        await send_one(senders.make(), outgoing(1, known=True))


async def test_a_limit_on_a_later_attempt_leaves_the_email_in_doubt(senders: Senders) -> None:
    await in_doubt(senders, 1)
    senders.sandbox.control(
        "fault", service="resend", kind="rate_limit_exceeded", count=1, retry_after_s=30
    )
    with pytest.raises(Deferred) as caught:
        await send_one(senders.make(), outgoing(1, known=True))
    assert caught.value.in_doubt
    assert accepted(senders) == (1, 0, 0)


async def test_an_attempt_that_never_reached_resend_leaves_no_record(senders: Senders) -> None:
    sender, unreachable = senders.make(), senders.make()
    with socket.socket() as free:  # bound, but not listening
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        unreachable.rotation.provider._http.base_url = url  # type: ignore[attr-defined]
        with pytest.raises(TransientError) as caught:
            await send_one(unreachable, outgoing(1))
    assert not caught.value.in_doubt
    assert ":mail:" not in await senders.everything_in_redis()
    assert (await send_one(sender, outgoing(1))).attempts == 1


async def test_a_mail_body_is_in_redis_only_while_its_outcome_is_open_and_an_address_in_no_name(
    senders: Senders,
) -> None:
    sender = senders.make()
    key = f"welcome/{ANN}"
    senders.sandbox.control("fault", service="resend", kind="reset_after", count=1)
    with pytest.raises(TransientError):
        await send_one(sender, outgoing(1, key=key))
    stored = await senders.everything_in_redis()
    assert stored.count(CANARY) == 1
    assert [line for line in stored.splitlines() if ANN in line.split()[0]] == []
    await send_one(sender, outgoing(1, key=key))
    ids(await send(sender, *(outgoing(n) for n in range(2, 9))))
    with pytest.raises(RequestRejected):
        await send_one(sender, outgoing(9, to=["nobody at all"]))
    stored = await senders.everything_in_redis()
    assert CANARY not in stored
    assert stored.count(":mail:") == 8


@pytest.mark.parametrize("at_least_once", [False, True])
async def test_only_at_least_once_sends_an_email_again_that_resend_may_have_forgotten(
    senders: Senders,
    at_least_once: bool,  # noqa: FBT001 - a row
) -> None:
    await in_doubt(senders, 1)
    future_ms = round(time.time() * 1000) + 24 * 3_600_000
    sender = senders.make(now_ms=lambda: future_ms, at_least_once=at_least_once)
    [outcome] = await send(sender, outgoing(1, known=True))
    if at_least_once:
        assert isinstance(outcome, Served)
    else:
        assert isinstance(outcome, OutcomeUnknown)
        assert str(outcome).endswith("it is too long ago to be repeated safely")
    assert (
        accepted(senders)[0] == 1 + at_least_once - at_least_once * senders.calls()[-1]["replayed"]
    )


async def test_an_email_is_served_although_redis_is_gone_when_its_answer_comes(
    senders: Senders, running: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedRedis(data_dir=tmp_path, options={"appendfsync": "always"}) as server:
        async with impatient_redis(server.url) as redis, Senders(running, redis) as own_senders:
            sender = own_senders.make(call_ms=1)
            call = sender.rotation.provider.call

            async def call_and_stop_redis(*args: Any, **options: Any) -> Any:
                reply = await call(*args, **options)
                await asyncio.to_thread(server.stop)
                return reply

            sender.rotation.provider.call = call_and_stop_redis  # type: ignore[method-assign]
            served = await send_one(sender, outgoing(1))
            assert "cannot store the outcome of an email" in caplog.text
            await asyncio.to_thread(server.start)
            sender.rotation.provider.call = call  # type: ignore[method-assign]
            again = await send_one(own_senders.make(), outgoing(1, known=True))
    assert again.value == served.value
    assert accepted(senders) == (1, 0, 0)


async def test_a_new_email_is_not_in_doubt_while_redis_is_down(
    running: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "JOB", replace(retry.JOB, within_s=0.2))
    refused_url = f"redis://127.0.0.1:{free_port()}"
    async with impatient_redis(refused_url) as redis, Senders(running, redis) as own:
        with pytest.raises(Deferred, match="Redis does not answer") as caught:
            await send_one(own.make(), outgoing(1))
    assert not caught.value.in_doubt


@pytest.mark.parametrize("field", ["result", "a text"])
@pytest.mark.parametrize("at_least_once", [False, True])
async def test_an_email_whose_record_another_program_has_changed_is_not_sent_again(
    senders: Senders, redis: Redis, field: str, *, at_least_once: bool
) -> None:
    sender = senders.make(at_least_once=at_least_once)
    await send_one(sender, outgoing(1))
    name = sender.shared.store.names.mail("job-1")
    await (redis.hset(name, field, "{") if field == "result" else redis.set(name, field))
    for known in (True, False):  # once as a job that comes back, once as a new job
        with pytest.raises((OutcomeUnknown, Deferred)) as caught:
            await send_one(sender, outgoing(1, known=known))
        if known or field == "result":
            assert isinstance(caught.value, OutcomeUnknown)
            assert name in str(caught.value)
    assert accepted(senders) == (1, 0, 0)
