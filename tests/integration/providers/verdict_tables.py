"""What a row of a verdict table expects, and how an answer is compared with it."""

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from tests.integration.providers.scripted_api import ScriptedApi
from worker.verdicts import Fate, Verdict

HTML = {"content-type": "text/html"}


def expectation(
    fields: Sequence[str], fate: Fate, code: str, status: int, **more: Any
) -> dict[str, Any]:
    """Return the full expectation: fields that are not named must have their defaults."""
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
    """Let the provider be answered as the row says, and compare its verdict with the row's.

    Args:
        provider: The provider under test.
        call: The key and the request.
        scripted: What answers it.
        row: Status, body and headers of the answer, and the expected verdict.
        sentences: How the reason of each code begins, for a caller or an operator.
    """
    *answer, expected = row
    scripted.answer(*answer)

    reply = await provider.call(*call)

    assert {name: getattr(reply.verdict, name) for name in expected} == expected
    assert reply.value is None
    begins = [words.format(status=reply.verdict.status) for words in sentences[reply.verdict.code]]
    assert reply.verdict.reason.startswith(tuple(begins))
    assert len(scripted.seen) == 1  # neither we nor the SDK repeat a call
