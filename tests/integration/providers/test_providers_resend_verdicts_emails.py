"""Verdicts on answers of Resend to a faulty email, or to one that another call is sending."""

from typing import Any

import pytest

from tests.integration.providers.resend_mail import KEY, MAIL, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Resend
from worker.verdicts import Fate

_TWIN = {"definite": False, "backoff_ms": 3_000}

_ROWS: list[Any] = [
    # an example address, which belongs to nobody
    (
        422,
        error(
            422,
            "validation_error",
            "Invalid `to` field. Use our testing email address, not domains like `example.com`.",
        ),
        {},
        verdict(Fate.FAIL, "example_recipient", 422),
    ),
    # fails for good
    *(
        (status, error(status, name), {}, verdict(Fate.FAIL, "rejected", status))
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
    # a call with the same idempotency key has not ended yet
    *(
        (409, error(409, name), {}, verdict(Fate.SAME_ACCOUNT, name, 409, **_TWIN))
        for name in ("concurrent_idempotent_requests", "resource_locked")
    ),
    (409, b"", {}, verdict(Fate.SAME_ACCOUNT, "conflict", 409, **_TWIN)),
    # the payload changed under the same idempotency key
    (
        409,
        error(409, "invalid_idempotent_request"),
        {},
        verdict(Fate.FAIL, "idempotency_mismatch", 409),
    ),
    # a 200 with an error in its body
    *(
        (200, error(status, "validation_error"), {}, verdict(Fate.FAIL, "rejected", status))
        for status in (400, 422)
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "concurrent_idempotent_requests": ("Resend is still processing the same email",),
    "conflict": ("Resend is still processing the same email",),
    "example_recipient": (
        (
            "Resend sends nothing to example domains (example.com, .net, .org, .edu, .test): write "
            "to a real address, or to delivered@resend.dev in a test"
        ),
    ),
    "idempotency_mismatch": ("Resend rejects the email: no",),
    "rejected": ("Resend rejects the email: no",),
    "resource_locked": ("Resend is still processing the same email",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, mailer: Resend, row: Any
) -> None:
    await assert_judged(mailer, (KEY, MAIL), scripted, row, _SENTENCES)
