"""Each reader of our records ignores texts of other programs in their place."""

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from celery import Celery

from worker.dashboard.auth import _login
from worker.dashboard.deferred_jobs import _waits_in, ms_of
from worker.dashboard.job_view import _headers_in
from worker.jobs.deferred import _stamps_of
from worker.providers.exchange import Exchange
from worker.quotes.place import _model_of

NESTED = "[" * 100_000
NO_RECORDS = (
    "",
    "no JSON",
    "null",
    "7",
    '"headers"',
    "[]",
    "{}",
    '{"headers": null}',
    '{"headers": 7}',
    '{"headers": ["stamps"]}',
)


def model_in(body: object) -> str:
    app = Celery(set_as_current=False)
    asks = SimpleNamespace(resources_of=lambda kwargs: kwargs["models"])
    app.tasks["job"] = asks  # type: ignore[assignment]
    return _model_of(app, "job", {"body": body} if body != "none" else {})


def basic(credentials: str) -> str | None:
    return _login("Basic", credentials, ["a:b"])


def body_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("read", "text", "stored"),
    [
        *((_headers_in, text, {}) for text in NO_RECORDS),
        (_headers_in, None, {}),
        (_headers_in, '{"headers": {"task": "a"}}', {"task": "a"}),
        *((_stamps_of, text, ()) for text in NO_RECORDS),
        # Without this word, the reader stops here.
        *((_stamps_of, text, ()) for text in ('"stamps"', '["stamps"]', '"stamps" {')),
        *((_stamps_of, text, ()) for text in ('{"stamps": 7}', '{"headers": {"stamps": 7}}')),
        *((ms_of, instant, None) for instant in (None, "", "tomorrow", 7, "2026-13-01")),
        (ms_of, "2026-11-29T00:00:00.001+00:00", 1_795_910_400_001),
        *((model_in, body, "") for body in ("none", None, "!", "A", body_of("no JSON"))),
        *((model_in, body_of(text), "") for text in ("7", "null", "[1, 2]", "[[], 7, {}]")),
        *((model_in, body_of(text), "") for text in ("[[], {}, {}]", '[[], {"models": []}, {}]')),
        (model_in, body_of('[[], {"models": ["a", "b"]}, {}]'), "a"),
        *((basic, text, None) for text in ("!", "A", "/w==", "YTpj")),
        (basic, "YTpi", "a"),
    ],
)  # fmt: skip
def test_a_reader_ignores_a_text_that_is_not_a_record(
    read: Callable[[Any], Any], text: Any, stored: Any
) -> None:
    assert read(text) == stored


@pytest.mark.parametrize("text", [*NO_RECORDS, pytest.param(NESTED, id="nested")])
async def test_a_call_whose_body_is_not_an_object_is_passed_on_without_parameters(
    text: str,
) -> None:
    exchange = Exchange.of(httpx.Request("POST", "https://groq", content=text.encode()))
    assert exchange.params == (json.loads(text) if text.startswith("{") else {})
    assert exchange.is_streamed is False


def test_a_result_of_another_program_has_no_waits() -> None:
    backend = Celery(set_as_current=False).backend
    assert [_waits_in(backend, text) for text in (*NO_RECORDS, '{"waits": 7}')] == [{}] * 11
    assert _waits_in(backend, '{"waits": {"code": "rpm"}}') == {"code": "rpm"}
