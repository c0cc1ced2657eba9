"""Verdicts on answers of Groq to a request that is itself at fault."""

from typing import Any

import pytest

from tests.integration.providers.groq_request import KEY, REQUEST, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Groq
from worker.verdicts import Fate

_TWICE_MORE = {"definite": False, "most_repeats": 2}

_ROWS: list[Any] = [
    # validation and context length
    (400, error("'messages.0' : no"), {}, verdict(Fate.FAIL, "rejected", 400)),
    (400, error("too long", "context_length_exceeded"), {}, verdict(Fate.FAIL, "rejected", 400)),
    (422, error("semantic"), {}, verdict(Fate.FAIL, "rejected", 422)),
    (418, error("a teapot"), {}, verdict(Fate.FAIL, "rejected", 418)),
    # a bad generation
    (
        400,
        error("no JSON", "json_validate_failed"),
        {},
        verdict(Fate.RETRY, "bad_generation", 400, **_TWICE_MORE),
    ),
    (
        400,
        error("no tool", "tool_use_failed"),
        {},
        verdict(Fate.RETRY, "bad_generation", 400, **_TWICE_MORE),
    ),
    # a tool server that the request names failed: the key is not at fault
    (
        424,
        error("failed dependency"),
        {},
        verdict(Fate.RETRY, "dependency_failed", 424, definite=False),
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "bad_generation": ("the model's output did not fit the requested format",),
    "dependency_failed": ("a tool server that the request names has failed",),
    "rejected": ("Groq rejects the request: ",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, groq: Groq, row: Any
) -> None:
    await assert_judged(groq, (KEY, REQUEST), scripted, row, _SENTENCES)
