"""The email that the tests of Resend send, and the key that sends it."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import SecretStr

from tests.integration.providers.verdict_tables import expectation
from worker.providers import SendRequest

KEY = SecretStr("re_canary0123456789")
BODY_TEXT = "the secret recipe"
PAYLOAD = {
    "from": "Shop <hello@Shop.example>",
    "to": ["ann@example.org"],
    "subject": "Your order is on its way",
    "text": BODY_TEXT,
}
MAIL = SendRequest.single(PAYLOAD, "job-1")
NOW_S = datetime(2026, 11, 10, 22, 0, tzinfo=UTC).timestamp()


def error(status: int, name: str, message: str = "no") -> dict[str, Any]:
    return {"statusCode": status, "name": name, "message": message}


verdict = partial(
    expectation,
    (
        "effect",
        "scope",
        "cooldown",
        "cooldown_ms",
        "definite",
        "backoff_ms",
        "account",
        "limits",
        "quotas",
        "too_large_limit",
        "certain",
    ),
)
"""The expectation of a row of Resend's tables."""
