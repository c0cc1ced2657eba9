"""Verdicts on answers of Groq that refuse a key, an organisation or a model."""

from typing import Any

import pytest

from tests.integration.providers.groq_request import KEY, REQUEST, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Groq
from worker.verdicts import Cooldown, Effect, Fate, Scope

_INVALID = verdict(Fate.NEXT_KEY, "invalid_key", 401, effect=Effect.DISABLE)
_RESTRICTED = {"effect": Effect.DISABLE, "scope": Scope.ACCOUNT}
_UNFIT = {
    "effect": Effect.UNFIT,
    "scope": Scope.ACCOUNT_MODEL,
    "cooldown": Cooldown.HOURLY_PROBE,
}
_BLOCKED = {"effect": Effect.DISABLE, "scope": Scope.KEY_RESOURCE}

_ROWS: list[Any] = [
    # 401: the status decides, whatever the code says
    (401, error("Invalid API Key", "invalid_api_key"), {}, _INVALID),
    (401, error("Invalid API Key", "something_else"), {}, _INVALID),
    (
        401,
        error("messages: invalid API key in line 3", "bad_request"),
        {},
        _INVALID | {"certain": False},
    ),
    # a stand-in for Groq that uses 403
    (403, error("bad key", "invalid_api_key"), {}, _INVALID | {"status": 403}),
    # the whole organisation is banned
    (
        400,
        error("Organization has been restricted.", "organization_restricted"),
        {},
        verdict(Fate.NEXT_KEY, "organization_restricted", 400, **_RESTRICTED),
    ),
    (
        403,
        error("restricted: organization `org_01abc`", "organization_restricted"),
        {},
        verdict(Fate.NEXT_KEY, "organization_restricted", 403, **_RESTRICTED, account="org_01abc"),
    ),
    # the model is off for this key
    (
        403,
        error("blocked", "model_permission_blocked_project"),
        {},
        verdict(Fate.NEXT_KEY, "model_blocked", 403, **_BLOCKED),
    ),
    (
        403,
        error("blocked", "model_permission_blocked_org"),
        {},
        verdict(Fate.NEXT_KEY, "model_blocked", 403, **_BLOCKED),
    ),
    # the organisation has not accepted the model's terms; others may have accepted them
    (
        400,
        error("The model `m` requires terms acceptance.", "model_terms_required"),
        {},
        verdict(Fate.OTHER_ACCOUNT, "model_terms", 400, **_UNFIT),
    ),
    # 403 with an undocumented code
    (403, error("no", "who_knows"), {}, verdict(Fate.OTHER_ACCOUNT, "forbidden", 403)),
    # an unknown or retired model
    (
        404,
        error("no such", "model_not_found"),
        {},
        verdict(Fate.OTHER_ACCOUNT, "model_not_found", 404, **_UNFIT),
    ),
    (404, error("nothing here"), {}, verdict(Fate.OTHER_ACCOUNT, "model_not_found", 404)),
    (
        400,
        error("old", "model_decommissioned"),
        {},
        verdict(Fate.OTHER_ACCOUNT, "model_not_found", 400, **_UNFIT),
    ),
    # a service tier that is not in the organisation's plan
    (
        400,
        error("`service_tier` `flex` is not available for this org. You can check your plan at …"),
        {},
        verdict(Fate.OTHER_ACCOUNT, "tier_unavailable", 400, **_UNFIT),
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "forbidden": ("Groq rejects the request: no",),
    "invalid_key": ("Groq does not accept this key",),
    "model_blocked": ("this model is switched off for this key",),
    "model_not_found": ("Groq rejects the request: ",),
    "model_terms": (
        (
            "the organisation has not accepted the model's terms: accept them in its console, then "
            "reset the key"
        ),
    ),
    "organization_restricted": ("Groq has restricted the whole organisation",),
    "tier_unavailable": ("Groq rejects the request: `service_tier` `flex` is not available",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, groq: Groq, row: Any
) -> None:
    await assert_judged(groq, (KEY, REQUEST), scripted, row, _SENTENCES)
