"""Whole calls of Resend, over connections that answer at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.unit.unstarted_providers import ScriptedProvider, mail, no_process, summary
from worker.providers import Resend, SendRequest
from worker.providers.resend import client as resend_client
from worker.verdicts import Effect

__all__ = ["no_process"]


def batch(count: int = 2) -> SendRequest:
    return SendRequest.batch([mail(number=number) for number in range(count)], number="7")


@pytest.mark.parametrize(
    ("outcome", "fate", "value"),
    [
        ((200, {"id": "1", "new": 1}), "done ok", {"id": "1"}),
        ((200, {"id": 1}), "same_account unreadable_answer in doubt", None),
        ((500, {"id": "1"}), "same_account server_error in doubt", None),
        (
            (422, {"name": "validation_error", "message": "canary text is bad"}),
            "fail rejected",
            None,
        ),
        (httpx.ReadError("cut"), "same_account read_error in doubt", None),
        (httpx.ConnectError("why"), "retry connect_error", None),
    ],
)
async def test_an_email_is_judged_by_its_answer(outcome: Any, fate: str, value: Any) -> None:
    provider = ScriptedProvider(Resend, outcome)
    request = mail()
    reply = await provider.call(request)
    assert (summary(reply), reply.value) == (fate, value)
    assert "canary" not in reply.verdict.reason
    [sent] = provider.requests
    assert (sent.url.path, sent.content) == ("/emails", request.body.encode())
    assert sent.headers["idempotency-key"] == "job-1"
    assert provider.reports == ["sent"]
    assert [unknown.shape for unknown in provider.noticed] == ["new"] * (reply.value is not None)


@pytest.mark.parametrize(
    ("outcome", "fate", "emails"),
    [
        ((200, {"data": [{"id": "1"}, {"id": "2"}]}), "done ok", 4),
        (
            (200, {"data": [{"id": "1"}], "errors": [{"index": 1, "message": "x"}]}),
            "done ok",
            2,
        ),
        ((200, {"data": [{"id": "1"}]}), "same_account unreadable_answer in doubt", 4),
        (httpx.ReadError("cut"), "same_account read_error in doubt", 4),
        ((429, {"name": "daily_quota_exceeded", "message": "x"}), "next_key daily_quota", 4),
    ],
)
async def test_a_batch_is_judged_by_its_answer(outcome: Any, fate: str, emails: int) -> None:
    provider = ScriptedProvider(Resend, outcome)
    provider.client._has_batches = True
    reply = await provider.call(batch())
    assert (summary(reply), reply.verdict.emails) == (fate, emails)
    assert reply.verdict.effect in {Effect.NONE, Effect.COOL}
    if reply.verdict.code == "daily_quota":
        assert reply.verdict.effect is Effect.NONE, "a smaller batch may fit"
    [sent] = provider.requests
    assert sent.url.path == "/emails/batch"
    assert (sent.headers["idempotency-key"], sent.headers["x-batch-validation"]) == (
        "batch-7", "permissive"
    )  # fmt: skip
    assert provider.reports == ["sent"]


async def test_no_batch_is_sent_to_a_stand_in_that_takes_none() -> None:
    nothing = (404, {"name": "not_found", "message": "no such endpoint"})
    provider = ScriptedProvider(Resend, nothing)
    reply = await provider.call(batch())
    assert (summary(reply), reply.verdict.emails) == ("fail no_batches", 4)
    assert [request.content for request in provider.requests] == [b"[]"]
    taken = ScriptedProvider(
        Resend, [(200, {"data": []}), (200, {"data": [{"id": "1"}, {"id": "2"}]})]
    )
    assert summary(await taken.call(batch())) == "done ok"
    assert len(taken.requests) == 2
    single = ScriptedProvider(Resend, (200, {"id": "1"}))
    assert summary(await single.call(mail())) == "done ok"
    assert len(single.requests) == 1, "one email needs no check for batches"


async def test_a_quota_that_refuses_one_email_rests_the_team() -> None:
    provider = ScriptedProvider(Resend, (429, {"name": "daily_quota_exceeded", "message": "x"}))
    assert (await provider.call(mail())).verdict.effect is Effect.COOL


async def test_a_bug_before_a_call_is_raised_and_a_call_that_takes_too_long_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send(outcome: Callable[[], Any]) -> None:
        async def sent(*_: Any) -> None:
            await outcome()

        monkeypatch.setattr(resend_client, "_send", sent)

    async def fail() -> None:
        raise ZeroDivisionError

    async def nothing() -> None:
        pass

    provider = ScriptedProvider(Resend, [], timeout_s=0.001)
    send(fail)
    with pytest.raises(ZeroDivisionError):
        await provider.call(mail())
    send(nothing)
    assert summary(await provider.call(mail())) == "same_account transport_error in doubt"
    send(asyncio.Event().wait)
    assert summary(await provider.call(mail())) == "same_account total_timeout in doubt"
