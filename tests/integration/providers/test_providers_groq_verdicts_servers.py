"""Verdicts on failures of Groq, and on answers that are not completions."""

from typing import Any

import pytest

from tests.integration.providers.groq_request import KEY, REQUEST, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Groq
from worker.verdicts import Cooldown, Effect, Fate, Scope

_FAULT = {
    "effect": Effect.COOL,
    "cooldown": Cooldown.SERVER_ERROR,
    "definite": False,
    "counted": False,
}

_ROWS: list[Any] = [
    # flex capacity: a jittered backoff, the key does not rest
    (
        498,
        error("full", "capacity_exceeded"),
        {},
        verdict(Fate.RETRY, "flex_capacity", 498, backoff_ms=4_500),
    ),
    # the model is overloaded for every key
    (
        503,
        error("over capacity"),
        {"retry-after": "9"},
        verdict(
            Fate.RETRY,
            "over_capacity",
            503,
            scope=Scope.MODEL,
            definite=False,
            counted=False,
            backoff_ms=9_000,
        ),
    ),
    (
        503,
        b"<html/>",
        {},
        verdict(Fate.RETRY, "over_capacity", 503, scope=Scope.MODEL, definite=False, counted=False),
    ),
    # server errors cool the key briefly
    (500, error("Internal Server Error"), {}, verdict(Fate.RETRY, "server_error", 500, **_FAULT)),
    (502, b"<html>bad gateway</html>", {}, verdict(Fate.RETRY, "server_error", 502, **_FAULT)),
    (
        504,
        b"",
        {"retry-after": "86400"},
        verdict(Fate.RETRY, "server_error", 504, **_FAULT, backoff_ms=300_000),
    ),
    # what the SDK would repeat without asking
    (408, b"", {}, verdict(Fate.RETRY, "not_now", 408, definite=False)),
    (409, error("conflict"), {}, verdict(Fate.RETRY, "not_now", 409, definite=False)),
    (
        421,
        b"",
        {"retry-after": "1"},
        verdict(Fate.RETRY, "not_now", 421, definite=False, backoff_ms=1_000),
    ),
    (425, b"", {}, verdict(Fate.RETRY, "not_now", 425, definite=False)),
    (499, b"", {}, verdict(Fate.RETRY, "not_now", 499, definite=False)),
    # a 200 without a completion: text/html (the SDK returns a str), bad JSON (it raises), JSON of
    # another shape
    *(
        (
            200,
            body,
            {"content-type": kind},
            verdict(Fate.RETRY, "unreadable_answer", 200, scope=Scope.HOST, definite=False),
        )
        for body, kind in (
            (b"<html>welcome</html>", "text/html"),
            (b'{"choices": [', "application/json"),
            (b"\xff\xfe\x00", "application/json"),
            (b"[]", "application/json"),
            (b'{"choices": []}', "application/json"),
            (b'{"choices": [{"message": null}]}', "application/json"),
        )
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "flex_capacity": ("Groq has no flex capacity at the moment",),
    "not_now": ("Groq did not accept the request this time (HTTP {status})",),
    "over_capacity": ("the model is overloaded for every key",),
    "server_error": ("Groq failed (HTTP {status})",),
    "unreadable_answer": ("Groq answered with something that is not a completion",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, groq: Groq, row: Any
) -> None:
    await assert_judged(groq, (KEY, REQUEST), scripted, row, _SENTENCES)
