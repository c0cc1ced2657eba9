"""Whole calls of Resend, over connections that answer at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.unit.unstarted_providers import _Asked, _no_process, mail, told
from worker.providers import Resend, SendRequest
from worker.providers.resend import client as resend_client
from worker.verdicts import Effect

__all__ = ["_no_process"]


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
async def test_an_email_is_judged_by_what_came(outcome: Any, fate: str, value: Any) -> None:
    asked = _Asked(Resend, outcome)
    request = mail()
    reply = await asked.call(request)
    assert (told(reply), reply.value) == (fate, value)
    assert "canary" not in reply.verdict.reason
    [sent] = asked.requests
    assert (sent.url.path, sent.content) == ("/emails", request.body.encode())
    assert sent.headers["idempotency-key"] == "job-1"
    assert asked.told == ["sent"]
    assert [one.shape for one in asked.noticed] == ["new"] * (reply.value is not None)


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
async def test_a_batch_is_judged_by_what_came(outcome: Any, fate: str, emails: int) -> None:
    asked = _Asked(Resend, outcome)
    asked.client._has_batches = True
    reply = await asked.call(batch())
    assert (told(reply), reply.verdict.emails) == (fate, emails)
    assert reply.verdict.effect in {Effect.NONE, Effect.COOL}
    if reply.verdict.code == "daily_quota":
        assert reply.verdict.effect is Effect.NONE, "fewer emails may fit"
    [sent] = asked.requests
    assert sent.url.path == "/emails/batch"
    assert (sent.headers["idempotency-key"], sent.headers["x-batch-validation"]) == (
        "batch-7", "permissive"
    )  # fmt: skip
    assert asked.told == ["sent"]


async def test_no_batch_is_sent_to_a_stand_in_that_takes_none() -> None:
    nothing = (404, {"name": "not_found", "message": "no such endpoint"})
    asked = _Asked(Resend, nothing)
    reply = await asked.call(batch())
    assert (told(reply), reply.verdict.emails) == ("fail no_batches", 4)
    assert [request.content for request in asked.requests] == [b"[]"]
    taken = _Asked(Resend, [(200, {"data": []}), (200, {"data": [{"id": "1"}, {"id": "2"}]})])
    assert told(await taken.call(batch())) == "done ok"
    assert len(taken.requests) == 2
    single = _Asked(Resend, (200, {"id": "1"}))
    assert told(await single.call(mail())) == "done ok"
    assert len(single.requests) == 1, "nobody is asked for one email"


async def test_a_quota_that_refuses_one_email_rests_the_team() -> None:
    asked = _Asked(Resend, (429, {"name": "daily_quota_exceeded", "message": "x"}))
    assert (await asked.call(mail())).verdict.effect is Effect.COOL


async def test_an_error_of_ours_before_a_call_comes_out_and_a_call_too_long_is_in_doubt(
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

    asked = _Asked(Resend, [], timeout_s=0.001)
    send(fail)
    with pytest.raises(ZeroDivisionError):
        await asked.call(mail())
    send(nothing)
    assert told(await asked.call(mail())) == "same_account transport_error in doubt"
    send(asyncio.Event().wait)
    assert told(await asked.call(mail())) == "same_account total_timeout in doubt"
