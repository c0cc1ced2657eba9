"""The expectation of a row of a verdict table, and its comparison with a verdict."""

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from tests.integration.providers.scripted_api import ScriptedApi
from worker.verdicts import Fate, Verdict

HTML = {"content-type": "text/html"}


def expectation(
    fields: Sequence[str], fate: Fate, code: str, status: int, **more: Any
) -> dict[str, Any]:
    """Return the full expectation: fields that the row does not name must have their defaults."""
    plain = Verdict(fate, code)
    return (
        {"fate": fate, "code": code, "status": status}
        | {name: getattr(plain, name) for name in fields}
        | more
    )


async def assert_judged(
    provider: Any,
    call: tuple[SecretStr, Any],
    scripted: ScriptedApi,
    row: tuple[int, Any, dict[str, str], dict[str, Any]],
    sentences: dict[str, tuple[str, ...]],
) -> None:
    """Give the provider the answer of a row, and compare the verdict with the row's.

    Args:
        provider: The provider under test.
        call: The key and the request.
        scripted: The API that answers.
        row: Status, body and headers of the answer, and the expected verdict.
        sentences: The beginning of the reason for each code, for a caller or an operator.
    """
    *answer, expected = row
    scripted.answer(*answer)

    reply = await provider.call(*call)

    assert {name: getattr(reply.verdict, name) for name in expected} == expected
    assert reply.value is None
    begins = [words.format(status=reply.verdict.status) for words in sentences[reply.verdict.code]]
    assert reply.verdict.reason.startswith(tuple(begins))
    assert len(scripted.seen) == 1  # neither we nor the SDK repeat a call
