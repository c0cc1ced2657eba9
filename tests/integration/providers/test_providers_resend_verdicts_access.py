"""Verdicts on answers of Resend that refuse a key, a team or a from-domain."""

from typing import Any

import pytest

from tests.integration.providers.resend_mail import KEY, MAIL, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Resend
from worker.verdicts import Cooldown, Effect, Fate, Scope

_DEAD = {"fate": Fate.NEXT_KEY, "code": "invalid_key", "effect": Effect.DISABLE}
_NO_DOMAIN = {"effect": Effect.DISABLE, "scope": Scope.KEY_RESOURCE}
_TEAM = {"effect": Effect.COOL, "scope": Scope.ACCOUNT}
_AN_HOUR = {"cooldown": Cooldown.HOURLY_PROBE}

_ROWS: list[Any] = [
    # a dead key, in each form that was seen
    (400, error(400, "validation_error", "API key is invalid"), {}, verdict(status=400, **_DEAD)),
    (401, error(401, "validation_error", "API key is invalid"), {}, verdict(status=401, **_DEAD)),
    (403, error(403, "validation_error", "API key is invalid"), {}, verdict(status=403, **_DEAD)),
    (401, error(401, "missing_api_key"), {}, verdict(status=401, **_DEAD)),
    (403, error(403, "invalid_api_key"), {}, verdict(status=403, **_DEAD)),
    (403, error(403, "suspended_api_key"), {}, verdict(status=403, **_DEAD)),
    (401, {"message": "API key is invalid"}, {}, verdict(status=401, **_DEAD)),
    # the text about a dead key in a message that may quote the email
    (
        400,
        error(400, "validation_error", "Invalid `to`: API key is invalid <a@b.example>"),
        {},
        verdict(status=400, certain=False, **_DEAD),
    ),
    # the from domain is not verified, or it is the test address
    (
        403,
        error(403, "validation_error", "The shop.example domain is not verified."),
        {},
        verdict(Fate.OTHER_ACCOUNT, "domain_not_verified", 403, **_NO_DOMAIN),
    ),
    (
        403,
        error(
            403, "validation_error", "You can only send testing emails to your own email address"
        ),
        {},
        verdict(Fate.OTHER_ACCOUNT, "domain_not_verified", 403, **_NO_DOMAIN),
    ),
    # 403 with an undocumented name
    (403, error(403, "who_knows"), {}, verdict(Fate.OTHER_ACCOUNT, "forbidden", 403)),
    # the key may not send from this domain; the team may, with another key
    *(
        (403, error(403, name), {}, verdict(Fate.NEXT_KEY, "key_restricted", 403, **_NO_DOMAIN))
        for name in ("restricted_api_key", "invalid_permission", "invalid_access")
    ),
    # the team is restricted
    (
        403,
        error(403, "restricted"),
        {},
        verdict(Fate.NEXT_KEY, "account_restricted", 403, **_TEAM, **_AN_HOUR),
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "account_restricted": ("Resend has restricted this team",),
    "domain_not_verified": ("Resend rejects the email: ",),
    "forbidden": ("Resend rejects the email: no",),
    "invalid_key": ("Resend does not accept this key", "Resend has suspended this key"),
    "key_restricted": ("this key may not send from this address",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, mailer: Resend, row: Any
) -> None:
    await assert_judged(mailer, (KEY, MAIL), scripted, row, _SENTENCES)
