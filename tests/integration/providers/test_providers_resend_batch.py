"""Batches on the wire: exact bytes, headers, and the result of each email."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.providers.resend_mail import BODY_TEXT, KEY, error
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Resend, SendRequest
from worker.verdicts import Effect, Fate

_EMAILS = [
    {
        "from": "a@shop.example",
        "to": ["ann@example.org", "bob@example.org"],
        "subject": "1",
        "text": BODY_TEXT,
    },
    {
        "from": "a@shop.example",
        "to": "carl@example.org",
        "subject": "2",
        "text": BODY_TEXT,
        "cc": ["d@example.org"],
    },
    {"from": "a@shop.example", "to": ["eve@example.org"], "subject": "3", "html": BODY_TEXT},
]
_BATCH = SendRequest("team1", "batch-1", json.dumps(_EMAILS))


async def test_a_batch_is_sent_as_it_is_and_asks_for_permissive_validation(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.answer(200, {"data": [{"id": "x"}, {"id": "y"}, {"id": "z"}]})
    reply = await mailer.call(KEY, _BATCH)
    assert reply.value == {"results": [{"id": "x"}, {"id": "y"}, {"id": "z"}]}
    assert (reply.verdict.fate, reply.verdict.emails) == (Fate.DONE, 5)
    [sent] = scripted.seen
    assert (sent.method, sent.path, sent.body) == ("POST", "/emails/batch", _BATCH.body.encode())
    assert sent.headers["idempotency-key"] == "batch-1"
    assert sent.headers["x-batch-validation"] == "permissive"
    assert sent.key == KEY.get_secret_value()


async def test_an_email_is_sent_as_it_is(scripted: ScriptedApi, mailer: Resend) -> None:
    text = '{ "to":"ann@example.org",  "subject":"\\u00e9" , "from":"a@shop.example","text":"x"}'
    scripted.answer(200, {"id": "x"})
    reply = await mailer.call(KEY, SendRequest("team1", "mail-1", text))
    assert (reply.value, reply.verdict.emails) == ({"id": "x"}, None)
    [sent] = scripted.seen
    assert (sent.path, sent.body, sent.headers["idempotency-key"]) == (
        "/emails",
        text.encode(),
        "mail-1",
    )


# The data and errors of the answer, the result of each email, and the number of recipients.
@pytest.mark.parametrize(
    ("data", "errors", "results", "count"),
    [
        # the middle email is refused: `data` has no gap for it
        (
            [{"id": "x"}, {"id": "z"}],
            [{"index": 1, "message": "Invalid `to` field."}],
            ["x", None, "z"],
            3,
        ),
        # the errors need not come in order
        (
            [{"id": "y"}],
            [{"index": 2, "message": "no"}, {"index": 0, "message": "no"}],
            [None, "y", None],
            2,
        ),
        # no email is accepted
        ([], [{"index": n, "message": "no"} for n in range(3)], [None, None, None], 0),
        # an error without a message
        ([{"id": "x"}, {"id": "y"}], [{"index": 2}], ["x", "y", None], 4),
        # no errors, in each form
        ([{"id": "x"}, {"id": "y"}, {"id": "z"}], None, ["x", "y", "z"], 5),
        ([{"id": "x"}, {"id": "y"}, {"id": "z"}], [], ["x", "y", "z"], 5),
    ],
)
async def test_each_email_gets_its_own_result_and_accepted_recipients_are_counted(  # noqa: PLR0917 - a table
    scripted: ScriptedApi,
    mailer: Resend,
    data: Any,
    errors: Any,
    results: list[str | None],
    count: int,
) -> None:
    scripted.answer(200, {"data": data} | ({"errors": errors} if errors is not None else {}))
    reply = await mailer.call(KEY, _BATCH)
    assert reply.value is not None
    assert [result.get("id") for result in reply.value["results"]] == results
    assert all("error" in result for result in reply.value["results"] if "id" not in result)
    assert reply.verdict.emails == count


@pytest.mark.parametrize(
    "name", ["daily_quota_exceeded", "monthly_quota_exceeded", "email_above_quota"]
)
async def test_a_batch_above_a_quota_rests_no_account(
    scripted: ScriptedApi, mailer: Resend, name: str
) -> None:
    scripted.answer(429, error(429, name))
    divisible = replace(_BATCH, divisible=True)
    verdict = (await mailer.call(KEY, divisible)).verdict
    assert (verdict.effect, verdict.fate, verdict.definite) == (Effect.NONE, Fate.NEXT_KEY, True)


@pytest.mark.parametrize(("status", "body"), [(404, b"404: Not Found"), (405, b""), (404, b"{}")])
async def test_a_404_of_a_stand_in_without_batches_is_definite_for_a_batch_and_not_for_one_email(
    scripted: ScriptedApi, mailer: Resend, status: int, body: bytes
) -> None:
    scripted.takes_batches = False
    scripted.answer(status, body)
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.code, verdict.fate, verdict.definite) == ("no_batches", Fate.FAIL, True)
    assert [request.body for request in scripted.seen] == [b"[]"], "no email was sent"
    scripted.answer(status, body)
    alone = (await mailer.call(KEY, SendRequest("team1", "job-1", json.dumps(_EMAILS[0])))).verdict
    assert (alone.fate, alone.definite) == (Fate.SAME_ACCOUNT, False)


async def test_if_batches_are_taken_a_bare_404_leaves_one_in_doubt(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.answer(200, {"data": [{"id": "x"}, {"id": "y"}, {"id": "z"}]})
    assert (await mailer.call(KEY, _BATCH)).verdict.fate is Fate.DONE
    scripted.answer(404, b"")
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.fate, verdict.definite) == (Fate.SAME_ACCOUNT, False)


async def test_a_page_instead_of_an_answer_to_a_batch_leaves_it_in_doubt(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.answer(404, b"<html>nothing here</html>")
    assert (await mailer.call(KEY, _BATCH)).verdict.definite is False


# A gateway may answer so after Resend has accepted the batch, even the first one.
@pytest.mark.parametrize(("status", "body"), [(404, b""), (404, b"not found"), (405, b"")])
async def test_a_bare_404_for_the_first_batch_leaves_it_in_doubt(
    scripted: ScriptedApi, mailer: Resend, status: int, body: bytes
) -> None:
    scripted.answer(status, body)
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.fate, verdict.definite) == (Fate.SAME_ACCOUNT, False)


@pytest.mark.parametrize(
    ("status", "body", "fate"),
    [
        (500, b"", Fate.RETRY),
        (200, b"<html>welcome</html>", Fate.RETRY),
        (403, b"blocked", Fate.RETRY),
        (404, b"<html>nothing here</html>", Fate.RETRY),
        (429, b"", Fate.NEXT_KEY),
    ],
)
async def test_no_batch_is_sent_until_a_probe_shows_whether_batches_are_taken(
    scripted: ScriptedApi, mailer: Resend, status: int, body: bytes, fate: Fate
) -> None:
    scripted.takes_batches = False
    scripted.answer(status, body)
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.fate, verdict.definite) == (fate, True)
    scripted.takes_batches = True
    scripted.answer(200, {"data": [{"id": "x"}, {"id": "y"}, {"id": "z"}]})
    assert (await mailer.call(KEY, _BATCH)).verdict.fate is Fate.DONE
    assert [request.body == b"[]" for request in scripted.seen] == [True, False]


async def test_a_probe_that_breaks_leaves_the_batch_unsent(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.takes_batches = False
    scripted.reset_before_answer()
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.fate, verdict.definite) == (Fate.RETRY, True)


async def test_the_error_of_one_email_holds_no_text_of_it(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    errors = [{"index": 1, "message": f"Bad text: {BODY_TEXT} {KEY.get_secret_value()}"}]
    scripted.answer(200, {"data": [{"id": "x"}, {"id": "z"}], "errors": errors})
    reply = await mailer.call(KEY, _BATCH)
    assert reply.value is not None
    assert reply.value["results"][1]["error"] == "Resend rejects the email: Bad text: […] ***"


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": "x"}, {"id": "y"}]},  # a result is missing
        # One result too many.
        {"data": [{"id": "x"}] * 3, "errors": [{"index": 0, "message": "no"}]},
        {
            "data": [{"id": "x"}, {"id": "y"}],
            "errors": [{"index": 3, "message": "no"}],
        },  # an index beyond the batch
        {
            "data": [{"id": "x"}],
            "errors": [{"index": 1}, {"index": 1}],
        },  # two errors for one email, no error for another
        {
            "data": [{"id": "x"}, {"id": "y"}],
            "errors": [{"index": True, "message": "no"}],
        },  # an index that is not a number
        {"data": [{"id": "x"}, {"id": "y"}], "errors": ["no"]},  # an error that is not an object
        {"data": [{"id": "x"}, {"id": ""}, {"id": "z"}]},  # an email without an id
        {"data": [{"id": "x"}, "y", {"id": "z"}]},  # a result that is not an object
        {"data": {"id": "x"}},  # not a list
        {"id": "x"},  # the answer to a single email
        [],  # an empty list
    ],
)
async def test_an_answer_without_a_result_for_each_email_leaves_the_batch_in_doubt(
    scripted: ScriptedApi, mailer: Resend, body: Any
) -> None:
    scripted.answer(200, body)
    reply = await mailer.call(KEY, _BATCH)
    assert reply.value is None
    assert (reply.verdict.fate, reply.verdict.definite) == (Fate.SAME_ACCOUNT, False)
    assert reply.verdict.emails == 5


async def test_a_batch_that_is_cut_off_counts_for_all_its_recipients(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.reset_before_answer()
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.fate, verdict.definite, verdict.emails) == (Fate.SAME_ACCOUNT, False, 5)


async def test_the_reason_of_a_refused_batch_holds_no_text_of_an_email(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    scripted.answer(422, error(422, "validation_error", f"Bad: {BODY_TEXT}"))
    verdict = (await mailer.call(KEY, _BATCH)).verdict
    assert (verdict.fate, verdict.reason) == (Fate.FAIL, "Resend rejects the email: Bad: […]")


def test_a_send_request_hides_its_content_and_checks_its_idempotency_key() -> None:
    assert BODY_TEXT not in repr(_BATCH)
    for key in ("", "a b\n", "x" * 257, "é"):
        with pytest.raises(ValueError, match="idempotency_key"):
            SendRequest("team1", key, "{}")
