"""Notes the calls to providers that are made for a job."""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, Self

LONGEST = 20
"""How many calls of a job are remembered; see `latest`."""

_MOST_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to a provider.

    Attributes:
        at_ms: When its answer came, in milliseconds since 1970.
        key: The key's label.
        code: The verdict's code, such as `rate_limit`.
        in_doubt: The call did not succeed, but the provider may have carried it out.
    """

    at_ms: int
    key: str
    code: str
    in_doubt: bool = False

    @classmethod
    def now(cls, key: str, code: str, *, in_doubt: bool) -> Self:
        """Make the attempt of a call whose answer comes now."""
        return cls(round(time.time() * 1000), key, code, in_doubt)

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """Read an attempt from JSON; None if it is malformed."""
        if not isinstance(value, dict):
            return None
        at_ms, key, code = value.get("at_ms"), value.get("key"), value.get("code")
        if type(at_ms) is not int or not isinstance(key, str) or not isinstance(code, str):
            return None
        return cls(
            at_ms,
            key[:_MOST_CHARACTERS],
            code[:_MOST_CHARACTERS],
            in_doubt=value.get("in_doubt") is True,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the attempt in JSON types."""
        return asdict(self)


Trail = tuple[Attempt, ...]

_run: ContextVar[list[Attempt] | None] = ContextVar("the calls of this run", default=None)


def begin() -> None:
    """Begin to note the calls of a new run."""
    _run.set([])


def note(key: str, code: str, *, in_doubt: bool = False) -> Attempt:
    """Note a call of the running job, and return it. Outside a run, nothing is noted.

    Args:
        key: The key's label.
        code: The verdict's code.
        in_doubt: The provider may have carried the call out.
    """
    attempt = Attempt.now(key, code, in_doubt=in_doubt)
    note_again(attempt)
    return attempt


def note_again(attempt: Attempt) -> None:
    """Note a call of another job that also carried the running job's request."""
    calls = _run.get()
    if calls is not None:
        calls[:] = latest((*calls, attempt))


def of_this_run() -> Trail:
    """Return the calls of this run."""
    return tuple(_run.get() or ())


def latest(attempts: Iterable[Attempt]) -> Trail:
    """Return the latest calls, at most `LONGEST`. The first call in doubt is always one of them."""
    trail = tuple(attempts)
    kept = trail[-LONGEST:]
    doubt = next((attempt for attempt in trail if attempt.in_doubt), None)
    return kept if doubt is None or doubt in kept else (doubt, *kept[1:])
