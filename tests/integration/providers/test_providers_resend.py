"""Resend's client: accepted emails, broken answers, and silence."""

import json
from typing import Any

import pytest

from tests.integration.providers.broken_answers import broken_answers
from tests.integration.providers.resend_mail import BODY_TEXT, KEY, MAIL, PAYLOAD, error
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Resend
from worker.verdicts import (
    Dimension,
    Effect,
    Fate,
    ObservedLimit,
    Scope,
    SeenQuota,
    Verdict,
)


async def test_an_accepted_email_returns_its_id_and_the_limits_that_were_observed(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.answer(
        200,
        {"id": "49a3999c"},
        {
            "ratelimit-limit": "10",
            "ratelimit-remaining": "9",
            "ratelimit-reset": "1",
            "ratelimit-policy": "10;w=5",
            "x-resend-daily-quota": "17",
            "x-resend-monthly-quota": "170",
        },
    )

    reply = await mailer.call(KEY, MAIL)

    learned = (ObservedLimit(Dimension.RPS, 10, 9.0, window_ms=5_000),)
    quotas = (SeenQuota(Dimension.EMAILS_DAY, 17), SeenQuota(Dimension.EMAILS_MONTH, 170))
    assert reply.verdict == Verdict(Fate.DONE, "ok", limits=learned, quotas=quotas, status=200)
    assert reply.value == {"id": "49a3999c"}
    sent = scripted.seen[0]
    assert (sent.method, sent.path, sent.key) == ("POST", "/emails", KEY.get_secret_value())
    assert sent.headers["idempotency-key"] == "job-1"
    assert sent.headers["content-type"] == "application/json"
    assert json.loads(sent.body) == PAYLOAD


async def test_an_id_counts_whatever_the_content_type_claims(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.answer(200, {"id": "1"}, {"content-type": "text/plain"})
    assert (await mailer.call(KEY, MAIL)).value == {"id": "1"}


@pytest.mark.parametrize(("fault", "code"), broken_answers(b'{"id": "1"}'))
async def test_a_broken_answer_ties_the_email_to_its_account(
    scripted: ScriptedApi, mailer: Resend, fault: Any, code: str
) -> None:
    fault(scripted)
    verdict = (await mailer.call(KEY, MAIL)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.SAME_ACCOUNT, code, False)
    assert (verdict.effect, verdict.scope, verdict.status) == (Effect.NONE, Scope.HOST, 0)


async def test_silence_and_trickling_tie_the_email_to_its_account(scripted: ScriptedApi) -> None:
    provider = Resend(scripted.url, timeout_s=0.3)
    scripted.hang()
    scripted.trickle(b"HTTP/1.1 200 OK\r\nx-slow: ")
    verdicts = [(await provider.call(KEY, MAIL)).verdict for _ in range(2)]
    assert [verdict.code for verdict in verdicts] == ["read_timeout", "total_timeout"]
    assert {verdict.fate for verdict in verdicts} == {Fate.SAME_ACCOUNT}
    assert not any(verdict.definite for verdict in verdicts)
    await provider.close()


async def test_a_reason_holds_neither_keys_nor_the_mail(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    message = f"Bad {KEY.get_secret_value()} in “{BODY_TEXT}”"
    scripted.answer(422, error(422, "validation_error", message))
    reply = await mailer.call(KEY, MAIL)
    assert reply.verdict.reason == "Resend rejects the email: Bad *** in “[…]”"
    assert "canary" not in repr(reply)
    assert BODY_TEXT not in repr(MAIL)
