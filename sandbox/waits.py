"""The waits that answers asked for, and the calls that came before their end."""

from dataclasses import dataclass

from sandbox.call import Call

_EARLY_S = 0.001
"""Clients count in whole milliseconds, so a call that is less than one too early is on time."""


@dataclass(slots=True)
class Wait:
    """A wait that a client was asked for.

    Attributes:
        since_s: When the client was asked, in seconds since 1970.
        until_s: When the wait ends, in seconds since 1970.
        tokens: The wait holds for calls of at least this many tokens.
    """

    since_s: float
    until_s: float
    tokens: int


class Waits:
    """The waits in force, by scope: an account or a key, and a model."""

    def __init__(self) -> None:
        self._waits: dict[tuple[str, str], Wait] = {}

    def note(self, scope: tuple[str, str], now_s: float, call: Call) -> None:
        """Take note of the wait that the answer to a call asks for."""
        wait = self._waits.get(scope)
        if wait is None or wait.until_s <= now_s:
            self._waits[scope] = Wait(now_s, call.cool_until_s, call.cool_tokens)
        else:
            wait.until_s = max(wait.until_s, call.cool_until_s)
            wait.tokens = min(wait.tokens, call.cool_tokens)

    def in_force(self, scope: tuple[str, str], call: Call) -> Wait | None:
        """Return the wait that a call should have observed, or None if there is none."""
        wait = self._waits.get(scope)
        if wait is not None and call.arrived_s >= wait.until_s - _EARLY_S:
            del self._waits[scope]
            return None
        return wait if wait is not None and call.requested >= wait.tokens else None
