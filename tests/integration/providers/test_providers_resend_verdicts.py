"""What each of Resend's answers means: every row of the verdict table."""

from typing import Any

import pytest

from tests.integration.providers.resend_mail import KEY, MAIL, error
from worker.providers import Resend
from worker.verdicts import (
    Cooldown,
    Dimension,
    Effect,
    Fate,
    ObservedLimit,
    Scope,
    SeenQuota,
    Verdict,
)


def _verdict(fate: Fate, code: str, status: int, **more: Any) -> dict[str, Any]:
    """The full expectation: what is not named must be at its default."""
    plain = Verdict(fate, code)
    fields = (
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
    )
    return (
        {"fate": fate, "code": code, "status": status}
        | {name: getattr(plain, name) for name in fields}
        | more
    )


_DEAD = {"fate": Fate.NEXT_KEY, "code": "invalid_key", "effect": Effect.DISABLE}
_NO_DOMAIN = {"effect": Effect.DISABLE, "scope": Scope.KEY_RESOURCE}
_TEAM = {"effect": Effect.COOL, "scope": Scope.ACCOUNT}
_FAULT = {"effect": Effect.COOL, "cooldown": Cooldown.SERVER_ERROR, "definite": False}
_AN_HOUR = {"cooldown": Cooldown.HOURLY_PROBE}
_TWIN = {"definite": False, "backoff_ms": 3_000}
_HTML = {"content-type": "text/html"}

_EDGE: dict[str, Any] = {"scope": Scope.HOST, "definite": False, "counted": False}
_ROWS: list[Any] = [
    # a dead key, in each form in which it was seen
    (400, error(400, "validation_error", "API key is invalid"), {}, _verdict(status=400, **_DEAD)),
    (401, error(401, "validation_error", "API key is invalid"), {}, _verdict(status=401, **_DEAD)),
    (403, error(403, "validation_error", "API key is invalid"), {}, _verdict(status=403, **_DEAD)),
    (401, error(401, "missing_api_key"), {}, _verdict(status=401, **_DEAD)),
    (403, error(403, "invalid_api_key"), {}, _verdict(status=403, **_DEAD)),
    (403, error(403, "suspended_api_key"), {}, _verdict(status=403, **_DEAD)),
    (401, {"message": "API key is invalid"}, {}, _verdict(status=401, **_DEAD)),
    # a 401 that is not in Resend's form rests the key; the email was surely not taken
    *(
        (401, body, {}, _verdict(Fate.RETRY, "edge_blocked", 401, **_FAULT | {"definite": True}))
        for body in (b"", b"Jwt is missing", {"message": "who are you?"})
    ),
    # the words of a dead key in a message that may quote the email
    (
        400,
        error(400, "validation_error", "Invalid `to`: API key is invalid <a@b.example>"),
        {},
        _verdict(status=400, certain=False, **_DEAD),
    ),
    # the from domain is not verified, or it is the test address
    (
        403,
        error(403, "validation_error", "The shop.example domain is not verified."),
        {},
        _verdict(Fate.OTHER_ACCOUNT, "domain_not_verified", 403, **_NO_DOMAIN),
    ),
    (
        403,
        error(
            403, "validation_error", "You can only send testing emails to your own email address"
        ),
        {},
        _verdict(Fate.OTHER_ACCOUNT, "domain_not_verified", 403, **_NO_DOMAIN),
    ),
    # 403 of another kind: with a name that nobody has described, and by the edge
    (403, error(403, "who_knows"), {}, _verdict(Fate.OTHER_ACCOUNT, "forbidden", 403)),
    # without Resend's own words something before it may have answered, after it had accepted the
    # email
    (
        403,
        b"<html>blocked</html>",
        _HTML,
        _verdict(Fate.SAME_ACCOUNT, "edge_blocked", 403, **_EDGE),
    ),
    (
        307,
        b"",
        {"location": "/elsewhere"},
        _verdict(Fate.SAME_ACCOUNT, "edge_blocked", 307, **_EDGE),
    ),
    *(
        (status, body, {}, _verdict(Fate.SAME_ACCOUNT, "edge_blocked", status, **_EDGE))
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
    # the key may not send from this domain; the team may, with another
    *(
        (403, error(403, name), {}, _verdict(Fate.NEXT_KEY, "key_restricted", 403, **_NO_DOMAIN))
        for name in ("restricted_api_key", "invalid_permission", "invalid_access")
    ),
    # the team is restricted, or has less left of a quota than the email needs
    (
        403,
        error(403, "restricted"),
        {},
        _verdict(Fate.NEXT_KEY, "account_restricted", 403, **_TEAM, **_AN_HOUR),
    ),
    *(
        (
            status,
            error(status, "email_above_quota"),
            {},
            _verdict(Fate.NEXT_KEY, "email_above_quota", status, **_TEAM, **_AN_HOUR),
        )
        for status in (400, 403, 422, 429)
    ),
    # an address that stands for nobody
    (
        422,
        error(
            422,
            "validation_error",
            "Invalid `to` field. Use our testing email address, not domains like `example.com`.",
        ),
        {},
        _verdict(Fate.FAIL, "example_recipient", 422),
    ),
    # fails for good
    *(
        (status, error(status, name), {}, _verdict(Fate.FAIL, "rejected", status))
        for status, name in (
            (401, "restricted_api_key"),
            (403, "invalid_from_address"),
            (400, "validation_error"),
            (400, "invalid_idempotency_key"),
            (404, "not_found"),
            (413, "payload_too_large"),
            (422, "missing_required_field"),
            (422, "missing_required_parameter"),
            (422, "invalid_from_address"),
            (422, "invalid_access"),
            (422, "invalid_region"),
            (422, "invalid_attachment"),
            (422, "invalid_parameter"),
            (422, "validation_error"),
            (451, "security_error"),
        )
    ),
    # nothing is where all emails go: surely not sent, and no email's fault
    *(
        (status, body, {}, _verdict(Fate.RETRY, "wrong_address", status, scope=Scope.HOST))
        for status, body in (
            (404, error(404, "not_found", "The requested endpoint does not exist.")),
            (405, error(405, "method_not_allowed")),
        )
    ),
    # the rate limit of the team
    (
        429,
        error(429, "rate_limit_exceeded"),
        {"retry-after": "3"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=3_000),
    ),
    (
        429,
        error(429, "rate_limit_exceeded"),
        {
            "retry-after": "0",
            "ratelimit-limit": "2",
            "ratelimit-policy": "2;w=1",
            "ratelimit-remaining": "0",
        },
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_TEAM,
            cooldown_ms=1_000,  # at least a second
            limits=(ObservedLimit(Dimension.RPS, 2, 0.0),),
        ),
    ),
    # without retry-after the reset counts; a wait beyond reason is cut
    (
        429,
        error(429, "rate_limit_exceeded"),
        {"ratelimit-reset": "2"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=2_000),
    ),
    (
        429,
        b"",
        {"retry-after": "999999"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=3_600_000),
    ),
    # it says what cannot be meant: the service's default
    (
        429,
        b"",
        {"retry-after": "9999999"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM),
    ),
    # it says nothing: the service's default
    (
        429,
        error(429, "rate_limit_exceeded"),
        {},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM),
    ),
    # a page: something before Resend limits this address, and nobody knows how far the email came
    (
        429,
        b"<html/>",
        _HTML | {"retry-after": "3, 5"},
        _verdict(
            Fate.SAME_ACCOUNT,
            "edge_limited",
            429,
            scope=Scope.HOST,
            definite=False,
            backoff_ms=5_000,
        ),
    ),
    # a window beyond reason is not believed
    (
        429,
        error(429, "rate_limit_exceeded"),
        {"retry-after": "1", "ratelimit-limit": "2", "ratelimit-policy": "2;w=999999999"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=1_000),
    ),
    # the quota of the day: until 00:00 UTC plus jitter, whatever retry-after says
    (
        429,
        error(429, "daily_quota_exceeded", "You have reached your daily email sending quota."),
        {"retry-after": "1", "x-resend-daily-quota": "100", "x-resend-monthly-quota": "412"},
        _verdict(
            Fate.NEXT_KEY,
            "daily_quota",
            429,
            **_TEAM,
            cooldown_ms=2 * 3_600_000 + 30_000,
            quotas=(
                SeenQuota(Dimension.EMAILS_DAY, 100, spent=True),
                SeenQuota(Dimension.EMAILS_MONTH, 412),
            ),
        ),
    ),
    # what is used of it is told by the header alone
    (
        429,
        error(429, "daily_quota_exceeded", "You have reached your daily quota of 100 emails."),
        {},
        _verdict(Fate.NEXT_KEY, "daily_quota", 429, **_TEAM, cooldown_ms=2 * 3_600_000 + 30_000),
    ),
    # the quota of the month: one try a day
    (
        429,
        error(429, "monthly_quota_exceeded", "You can send 3,000 emails a month."),
        {"x-resend-monthly-quota": "3000"},
        _verdict(
            Fate.NEXT_KEY,
            "monthly_quota",
            429,
            **_TEAM,
            cooldown=Cooldown.DAILY_PROBE,
            quotas=(SeenQuota(Dimension.EMAILS_MONTH, 3_000, spent=True),),
        ),
    ),
    # an unfinished twin
    *(
        (409, error(409, name), {}, _verdict(Fate.SAME_ACCOUNT, name, 409, **_TWIN))
        for name in ("concurrent_idempotent_requests", "resource_locked")
    ),
    (409, b"", {}, _verdict(Fate.SAME_ACCOUNT, "conflict", 409, **_TWIN)),
    # the payload changed under the same idempotency key
    (
        409,
        error(409, "invalid_idempotent_request"),
        {},
        _verdict(Fate.FAIL, "idempotency_mismatch", 409),
    ),
    # server errors: the email may have been accepted
    *(
        (status, body, headers, _verdict(Fate.SAME_ACCOUNT, "server_error", status, **_FAULT))
        for status, body, headers in (
            (500, error(500, "application_error"), {}),
            (500, error(500, "internal_server_error"), {}),
            (502, b"<html>bad gateway</html>", _HTML),
            (503, error(503, "service_unavailable"), {}),
            (504, b"", {}),
            (520, b"<html/>", _HTML),
        )
    ),
    # a failure of Resend's own by its name, whatever the status
    *(
        (
            status,
            error(status, name),
            {},
            _verdict(Fate.SAME_ACCOUNT, "server_error", status, **_FAULT),
        )
        for status in (400, 403, 404, 409, 422)
        for name in ("application_error", "internal_server_error", "service_unavailable")
    ),
    (
        200,
        error(422, "application_error"),
        {},
        _verdict(Fate.SAME_ACCOUNT, "server_error", 422, **_FAULT),
    ),
    (
        503,
        b"",
        {"retry-after": "9"},
        _verdict(Fate.SAME_ACCOUNT, "server_error", 503, **_FAULT, backoff_ms=9_000),
    ),
    (408, b"", {}, _verdict(Fate.SAME_ACCOUNT, "server_timeout", 408, **_FAULT)),
    (421, b"", {}, _verdict(Fate.SAME_ACCOUNT, "not_now", 421, **_FAULT)),
    (425, b"", {}, _verdict(Fate.SAME_ACCOUNT, "not_now", 425, **_FAULT)),
    (499, b"", {}, _verdict(Fate.SAME_ACCOUNT, "call_cut", 499, **_FAULT)),
    # a 200 that brings no id
    *(
        (200, body, headers, _verdict(Fate.SAME_ACCOUNT, "unreadable_answer", 200, **_FAULT))
        for body, headers in (
            (b"<html>welcome</html>", _HTML),
            (b'{"id": "4', {}),
            (b"null", {}),
            (b"[]", {}),
            (b'{"id": 7}', {}),
            # what the SDK itself cannot read
            (b"[" * 100_000, {}),
            (b'{"id": ' + b"9" * 5_000 + b"}", {}),
            # an error whose status is none
            (error(10**400, "application_error"), {}),
        )
    ),
    # a 200 that admits to an error in its body
    *(
        (200, error(status, "validation_error"), {}, _verdict(Fate.FAIL, "rejected", status))
        for status in (400, 422)
    ),
]


# What a caller or an operator reads of each code: how its sentence begins.
_SAYS: dict[str, tuple[str, ...]] = {
    "account_restricted": ("Resend has restricted this team",),
    "call_cut": ("the call was cut before Resend answered (HTTP 499)",),
    "concurrent_idempotent_requests": ("Resend is still at work on the same email",),
    "conflict": ("Resend is still at work on the same email",),
    "daily_quota": ("the team's quota of the day is used up",),
    "domain_not_verified": ("Resend rejects the email: ",),
    "edge_blocked": (
        "something before Resend answered instead of it (HTTP {status})",
        "something before Resend refuses this address (HTTP {status})",
    ),
    "edge_limited": ("something before Resend limits the calls from this address",),
    "email_above_quota": ("the email is more than what is left of a quota",),
    "example_recipient": (
        (
            "Resend sends nothing to example domains (example.com, .net, .org, .edu, .test): write "
            "to a real address, or to delivered@resend.dev in a test"
        ),
    ),
    "forbidden": ("Resend rejects the email: no",),
    "idempotency_mismatch": ("Resend rejects the email: no",),
    "invalid_key": ("Resend does not accept this key", "Resend has suspended this key"),
    "key_restricted": ("this key may not send from this address",),
    "monthly_quota": ("the team's quota of the month is used up",),
    "not_now": ("Resend did not take the request this time (HTTP {status})",),
    "rate_limit": ("the team's rate limit at Resend is reached",),
    "rejected": ("Resend rejects the email: no",),
    "resource_locked": ("Resend is still at work on the same email",),
    "server_error": ("Resend failed (HTTP {status})",),
    "server_timeout": ("Resend gave up waiting for the request",),
    "unreadable_answer": ("Resend answered without the email's id",),
    "wrong_address": ("Resend has nothing at this address: RESEND_API_URL is probably wrong",),
}


@pytest.mark.parametrize(("answer", "expected"), [(row[:3], row[3]) for row in _ROWS])
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: Any, mailer: Resend, answer: tuple[int, Any, dict[str, str]], expected: dict[str, Any]
) -> None:
    scripted.answer(*answer)

    reply = await mailer.call(KEY, MAIL)

    assert {name: getattr(reply.verdict, name) for name in expected} == expected
    assert reply.value is None
    says = [words.format(status=reply.verdict.status) for words in _SAYS[reply.verdict.code]]
    assert reply.verdict.reason.startswith(tuple(says))
    assert len(scripted.seen) == 1  # nothing is tried twice here
