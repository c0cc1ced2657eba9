"""Resend's client reads answers to batches, and finds out whether it may send any."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.unit.answering_client import SECRET, Requests, client
from worker.providers import Resend
from worker.providers.resend import client as resend_client
from worker.providers.response import Answer
from worker.verdicts import Cooldown, Effect, Fate, SeenQuota, Verdict

__all__ = ["client"]


# A stand-in's answer to an empty batch, and the result: None if it accepts batches.
@pytest.mark.parametrize(
    ("outcome", "fate", "code", "takes"),
    [
        ((200, {"data": []}), None, "", True),
        ((422, {"name": "validation_error", "message": "empty"}), None, "", True),
        ((404, {"name": "not_found", "message": "no endpoint"}), "fail", "no_batches", False),
        ((405, {"name": "method_not_allowed", "message": "x"}), "fail", "no_batches", False),
        ((500, {"name": "x", "message": "x"}), "retry", "server_error", False),
        (
            (401, {"name": "missing_api_key", "message": "x"}),
            "next_key",
            "invalid_key",
            False,
        ),
        (httpx.ReadError("x"), "retry", "read_error", False),
    ],
)
async def test_a_stand_in_is_asked_once_whether_it_takes_batches(
    client: Callable[..., tuple[Any, Requests]],
    *,
    outcome: Any,
    fate: str | None,
    code: str,
    takes: bool,
) -> None:
    made, requests = client("resend", outcome)
    assert made._has_batches is False
    verdict = await made._ask(SECRET)
    assert made._has_batches is takes
    if fate is None:
        assert verdict is None
    else:
        assert (verdict.fate, verdict.code, verdict.definite) == (fate, code, True)
    [(method, path, options)] = requests
    assert (method, path, options["json"]) == ("post", "/emails/batch", [])


async def test_resends_own_address_takes_batches() -> None:
    made = Resend("https://api.resend.com")
    assert made._has_batches
    await made.close()
    await made.close()


EMAILS: list[dict[str, Any]] = [
    {"to": ["a@x.example", "b@x.example"], "subject": "one", "text": "canary text"},
    {"to": ["c@x.example"], "cc": ["d@x.example"], "subject": "two"},
    {"to": ["e@x.example"], "subject": "three"},
]


def results(body: Any, status: int = 200) -> Any:
    answer = Answer.parse(status, {}, json.dumps(body).encode())
    return resend_client._results(answer, EMAILS, SECRET)


def test_the_results_of_a_batch_have_the_order_of_its_emails() -> None:
    ids = [{"id": "1"}, {"id": "2"}, {"id": "3"}]
    assert results({"data": ids}) == {"results": ids}
    refused = [{"index": 1, "message": "no such domain for gsk_canary"}]
    value = results({"data": [ids[0], ids[2]], "errors": refused})
    first, second, third = value["results"]
    assert (first, third) == (ids[0], ids[2])
    assert second["error"].startswith("Resend rejects the email: no such domain for ")
    assert "canary" not in second["error"]
    silent = results({"data": ids[:2], "errors": [{"index": 2}]})
    assert silent["results"][2] == {"error": "Resend rejects the email"}


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": "1"}]},
        {"data": [{"id": "1"}] * 4},
        {"data": [{"id": "1"}, {"id": "2"}, {"id": ""}]},
        {"data": [{"id": "1"}, {"id": "2"}, {"id": 3}]},
        {"data": {"0": {"id": "1"}}},
        {"data": [{"id": "1"}] * 2, "errors": {"index": 2}},
        {"data": [{"id": "1"}] * 2, "errors": [{"index": 3}]},
        {"data": [{"id": "1"}] * 2, "errors": [{"index": -1}]},
        {"data": [{"id": "1"}] * 2, "errors": [{"index": True}]},
        {"data": [{"id": "1"}] * 2, "errors": ["odd"]},
        {"data": [{"id": "1"}], "errors": [{"index": 2}, {"index": 2}]},
        {},
        [],
    ],
)
def test_an_answer_without_a_result_for_each_email_of_a_batch_has_none(body: Any) -> None:
    assert results(body) is None


def test_only_a_success_has_results_or_an_id() -> None:
    assert results({"data": [{"id": "1"}] * 3}, status=500) is None
    for status, body, value in (
        (200, {"id": "1"}, {"id": "1"}),
        (500, {"id": "1"}, None),
        (200, {"id": ""}, None),
        (200, {"id": 7}, None),
    ):
        answer = Answer.parse(status, {}, json.dumps(body).encode())
        assert resend_client._value(answer) == value


def test_a_batch_counts_the_recipients_of_the_emails_that_were_accepted() -> None:
    verdict = Verdict(Fate.DONE, "ok")
    charged = resend_client._charged
    assert charged(verdict, EMAILS[0], None) is verdict
    assert charged(verdict, EMAILS, None).emails == 5, "it is not known which emails were accepted"
    value = {"results": [{"id": "1"}, {"error": "x"}, {"id": "3"}]}
    assert charged(verdict, EMAILS, value).emails == 3


def test_a_quota_that_refuses_a_batch_rests_no_key() -> None:
    quotas = (SeenQuota("daily", 90, spent=True),)  # type: ignore[call-arg, arg-type]
    verdict = Verdict(
        Fate.NEXT_KEY, "daily_quota", effect=Effect.COOL, cooldown=Cooldown.DAILY_PROBE,
        cooldown_ms=5, quotas=quotas,
    )  # fmt: skip
    left = resend_client._of_a_batch(verdict)
    assert (left.effect, left.cooldown, left.cooldown_ms) == (Effect.NONE, Cooldown.LIMIT, None)
    assert [quota.spent for quota in left.quotas] == [False]
    assert (left.fate, left.code) == (Fate.NEXT_KEY, "daily_quota")
