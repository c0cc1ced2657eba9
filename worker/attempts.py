"""Who said what when: the calls that were made for a job, noted where they are made."""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, Self

LONGEST = 20
"""Of a job's calls the latest so many are remembered."""

_MOST_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to a provider.

    Attributes:
        at_ms: When its answer came, in milliseconds since 1970.
        key: The key's label.
        code: The verdict's code, such as `rate_limit`.
        in_doubt: It may have been carried out although it was no success.
    """

    at_ms: int
    key: str
    code: str
    in_doubt: bool = False

    @classmethod
    def now(cls, key: str, code: str, *, in_doubt: bool) -> Self:
        """A call whose answer came at this instant."""
        return cls(round(time.time() * 1000), key, code, in_doubt)

    @classmethod
    def of(cls, told: Any) -> Self | None:
        """Read it back; None where a stranger wrote something else."""
        if not isinstance(told, dict):
            return None
        at_ms, key, code = told.get("at_ms"), told.get("key"), told.get("code")
        if type(at_ms) is not int or not isinstance(key, str) or not isinstance(code, str):
            return None
        return cls(
            at_ms,
            key[:_MOST_CHARACTERS],
            code[:_MOST_CHARACTERS],
            in_doubt=told.get("in_doubt") is True,
        )

    def as_json(self) -> dict[str, Any]:
        """In JSON types."""
        return asdict(self)


Trail = tuple[Attempt, ...]

_turn: ContextVar[list[Attempt] | None] = ContextVar("the calls of this turn", default=None)


def begin() -> list[Attempt]:
    """Note the calls of this job's turn from now on; gives the list that they go to."""
    found: list[Attempt] = []
    _turn.set(found)
    return found


def note(key: str, code: str, *, in_doubt: bool = False) -> None:
    """Note a call of the running job. Does nothing outside a turn.

    Args:
        key: The key's label.
        code: The verdict's code.
        in_doubt: The call may have been carried out.
    """
    note_again(Attempt.now(key, code, in_doubt=in_doubt))


def note_again(attempt: Attempt) -> None:
    """Note a call of another job that carried the running job's request as well."""
    calls = _turn.get()
    if calls is not None:
        calls[:] = latest((*calls, attempt))


def of_this_turn() -> Trail:
    """What was noted in the running job's turn."""
    return tuple(_turn.get() or ())


def latest(attempts: Iterable[Attempt]) -> Trail:
    """The latest of them, as many as are remembered; the first doubt is never forgotten."""
    found = tuple(attempts)
    kept = found[-LONGEST:]
    doubt = next((attempt for attempt in found if attempt.in_doubt), None)
    return kept if doubt is None or doubt in kept else (doubt, *kept[1:])
