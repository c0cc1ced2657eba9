"""Verdicts on answers of a gateway in front of Resend, and of an address other than Resend's."""

from typing import Any

import pytest

from tests.integration.providers.resend_mail import KEY, MAIL, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import HTML, assert_judged
from worker.providers import Resend
from worker.verdicts import Cooldown, Effect, Fate, Scope

_EDGE: dict[str, Any] = {"scope": Scope.HOST, "definite": False, "counted": False}

_ROWS: list[Any] = [
    # a 401 in a format other than Resend's rests the key; the email was certainly not accepted
    *(
        (
            401,
            body,
            {},
            verdict(
                Fate.RETRY,
                "edge_blocked",
                401,
                effect=Effect.COOL,
                cooldown=Cooldown.SERVER_ERROR,
            ),
        )
        for body in (b"", b"Jwt is missing", {"message": "who are you?"})
    ),
    # an answer in another format may come from a gateway after Resend has accepted the email
    (
        403,
        b"<html>blocked</html>",
        HTML,
        verdict(Fate.SAME_ACCOUNT, "edge_blocked", 403, **_EDGE),
    ),
    (
        307,
        b"",
        {"location": "/elsewhere"},
        verdict(Fate.SAME_ACCOUNT, "edge_blocked", 307, **_EDGE),
    ),
    *(
        (status, body, {}, verdict(Fate.SAME_ACCOUNT, "edge_blocked", status, **_EDGE))
        for status in (
            300,
            302,
            400,
            402,
            403,
            404,
            405,
            406,
            410,
            413,
            414,
            415,
            418,
            422,
            431,
            451,
        )
        for body in (
            b"",
            b'{"message": "no"}',
            b"no",
            b'{"error": {"code": "402", "message": ""}}',
            b'{"name": "NotFound", "message": "no", "code": 404}',
        )
    ),
    # the base URL is wrong: certainly not sent, and no email is at fault
    *(
        (status, body, {}, verdict(Fate.RETRY, "wrong_address", status, scope=Scope.HOST))
        for status, body in (
            (404, error(404, "not_found", "The requested endpoint does not exist.")),
            (405, error(405, "method_not_allowed")),
        )
    ),
    # a page: a gateway in front of Resend limits this address, and the email may have been accepted
    (
        429,
        b"<html/>",
        HTML | {"retry-after": "3, 5"},
        verdict(
            Fate.SAME_ACCOUNT,
            "edge_limited",
            429,
            scope=Scope.HOST,
            definite=False,
            backoff_ms=5_000,
        ),
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "edge_blocked": (
        "a gateway in front of Resend answered instead of it (HTTP {status})",
        "a gateway in front of Resend refuses this address (HTTP {status})",
    ),
    "edge_limited": ("a gateway in front of Resend limits the calls from this address",),
    "wrong_address": ("Resend does not know this URL: RESEND_API_URL is probably wrong",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, mailer: Resend, row: Any
) -> None:
    await assert_judged(mailer, (KEY, MAIL), scripted, row, _SENTENCES)
