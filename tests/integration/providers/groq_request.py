"""The request that the tests of Groq send, and an error in Groq's form."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import SecretStr

from tests.integration.providers.verdict_tables import expectation
from worker.providers import Completion

KEY = SecretStr("gsk_canary0123456789abcdef")
PROMPT = "the secret recipe"
MODEL = "openai/gpt-oss-120b"
PARAMS = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50}
REQUEST = Completion.of(PARAMS)
NOW_S = datetime(2026, 11, 10, 12, 0, tzinfo=UTC).timestamp()


def error(
    message: str, code: str | None = None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    error = {"message": message, "type": kind}
    return {"error": error if code is None else error | {"code": code}}


verdict = partial(
    expectation,
    (
        "effect",
        "scope",
        "cooldown",
        "cooldown_ms",
        "sized",
        "definite",
        "counted",
        "backoff_ms",
        "most_repeats",
        "account",
        "limits",
        "too_large_limit",
        "service_tier",
        "certain",
    ),
)
"""The expectation of a row of Groq's tables."""
