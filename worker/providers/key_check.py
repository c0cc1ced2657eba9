"""Defines the check of a key: whether it is alive, its models and its limits.

A check costs no completion and no email.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from worker.foreign_json import member
from worker.providers.base import UNSENDABLE_KEY
from worker.providers.durations import duration_ms
from worker.providers.response import Answer, is_count, safe_sentence
from worker.verdicts import Dimension, Effect, ObservedLimit, Scope, Verdict

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The outcome of the check of a key.

    Attributes:
        state: `alive`, `dead` (the provider does not accept it) or `unknown` (the check failed).
        detail: Why the key is not alive, in the provider's words if there are any; or which facts
            the check could not find out.
        models: The models that the key may use (Groq); None if they are not known.
        limits: The limits of the key's account.
    """

    state: Literal["alive", "dead", "unknown"]
    detail: str = ""
    models: frozenset[str] | None = None
    limits: tuple[ObservedLimit, ...] = ()


class Checker(Protocol):
    """Asks a provider about keys."""

    async def check(self, secret: SecretStr) -> KeyCheck:
        """Ask about one key. Only a cancellation is raised."""
        ...

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        ...


UNSENDABLE: KeyCheck = KeyCheck("dead", UNSENDABLE_KEY.reason)
"""The check of a key that no header can carry."""


def refused(answer: Answer, verdict: Verdict, secret: SecretStr) -> KeyCheck:
    """Return the outcome of a check whose answer is not a success.

    Args:
        answer: The provider's answer.
        verdict: The verdict on the answer.
        secret: The key.
    """
    detail = safe_sentence(answer.message, secret=secret.get_secret_value()) or verdict.reason
    dead = verdict.effect is Effect.DISABLE and verdict.scope in {Scope.KEY, Scope.ACCOUNT}
    return KeyCheck("dead" if dead else "unknown", f"{detail} (HTTP {answer.status})")


def models_in(body: Any) -> frozenset[str] | None:
    """Return the models in Groq's list that are not switched off; None if the body has no list."""
    listed = member(body, "data")
    if not isinstance(listed, list):
        return None
    active = (model for model in listed if member(model, "active") is not False)
    names = (member(model, "id") for model in active)
    return frozenset(name for name in names if isinstance(name, str))


def quotas_in(body: Any) -> tuple[ObservedLimit, ...]:
    """Return the quotas and the rate limit in the answer of Resend's `GET /usage`."""
    emails = member(body, "emails")
    limits = [
        _quota(member(emails, "daily"), Dimension.EMAILS_DAY),
        _quota(member(emails, "monthly"), Dimension.EMAILS_MONTH),
        _rate(member(body, "rate_limit")),
    ]
    return tuple(limit for limit in limits if limit is not None)


def _quota(quota: Any, dimension: Dimension) -> ObservedLimit | None:
    limit = member(quota, "limit")
    if not is_count(limit) or not limit:  # without a limit, the emails are not limited
        return None
    used = quota.get("used")
    return ObservedLimit(dimension, limit, float(max(0, limit - used)) if is_count(used) else None)


def _rate(rate: Any) -> ObservedLimit | None:
    limit, window_ms = member(rate, "limit"), duration_ms(str(member(rate, "duration")))
    if not is_count(limit) or not limit or window_ms is None or not 0 < window_ms <= _DAY_MS:
        return None
    return ObservedLimit(
        Dimension.RPS, limit, window_ms=None if window_ms == Dimension.RPS.window_ms else window_ms
    )
