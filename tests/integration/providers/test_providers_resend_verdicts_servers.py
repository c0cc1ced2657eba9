"""Verdicts on failures of Resend, and on answers without an email's id."""

from typing import Any

import pytest

from tests.integration.providers.resend_mail import KEY, MAIL, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import HTML, assert_judged
from worker.providers import Resend
from worker.verdicts import Cooldown, Effect, Fate

_FAULT = {"effect": Effect.COOL, "cooldown": Cooldown.SERVER_ERROR, "definite": False}

_ROWS: list[Any] = [
    # server errors: the email may have been accepted
    *(
        (status, body, headers, verdict(Fate.SAME_ACCOUNT, "server_error", status, **_FAULT))
        for status, body, headers in (
            (500, error(500, "application_error"), {}),
            (500, error(500, "internal_server_error"), {}),
            (502, b"<html>bad gateway</html>", HTML),
            (503, error(503, "service_unavailable"), {}),
            (504, b"", {}),
            (520, b"<html/>", HTML),
        )
    ),
    # a failure of Resend by its name, whatever the status
    *(
        (
            status,
            error(status, name),
            {},
            verdict(Fate.SAME_ACCOUNT, "server_error", status, **_FAULT),
        )
        for status in (400, 403, 404, 409, 422)
        for name in ("application_error", "internal_server_error", "service_unavailable")
    ),
    (
        200,
        error(422, "application_error"),
        {},
        verdict(Fate.SAME_ACCOUNT, "server_error", 422, **_FAULT),
    ),
    (
        503,
        b"",
        {"retry-after": "9"},
        verdict(Fate.SAME_ACCOUNT, "server_error", 503, **_FAULT, backoff_ms=9_000),
    ),
    (408, b"", {}, verdict(Fate.SAME_ACCOUNT, "server_timeout", 408, **_FAULT)),
    (421, b"", {}, verdict(Fate.SAME_ACCOUNT, "not_now", 421, **_FAULT)),
    (425, b"", {}, verdict(Fate.SAME_ACCOUNT, "not_now", 425, **_FAULT)),
    (499, b"", {}, verdict(Fate.SAME_ACCOUNT, "call_cut", 499, **_FAULT)),
    # a 200 without an id
    *(
        (200, body, headers, verdict(Fate.SAME_ACCOUNT, "unreadable_answer", 200, **_FAULT))
        for body, headers in (
            (b"<html>welcome</html>", HTML),
            (b'{"id": "4', {}),
            (b"null", {}),
            (b"[]", {}),
            (b'{"id": 7}', {}),
            # answers that the SDK itself cannot read
            (b"[" * 100_000, {}),
            (b'{"id": ' + b"9" * 5_000 + b"}", {}),
            # an error with an invalid status
            (error(10**400, "application_error"), {}),
        )
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "call_cut": ("the call was cut before Resend answered (HTTP 499)",),
    "not_now": ("Resend did not accept the request this time (HTTP {status})",),
    "server_error": ("Resend failed (HTTP {status})",),
    "server_timeout": ("Resend gave up waiting for the request",),
    "unreadable_answer": ("Resend answered without the email's id",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, mailer: Resend, row: Any
) -> None:
    await assert_judged(mailer, (KEY, MAIL), scripted, row, _SENTENCES)
