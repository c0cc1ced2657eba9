"""Refusals of the simulated Resend for the key or for the rate of its team."""

from dataclasses import dataclass

from sandbox import resend_errors
from sandbox.accounts import RESTRICTED, REVOKED, SUSPENDED, Key, Team
from sandbox.faults import Fault
from sandbox.limits import DAY_S, retry_after


@dataclass(frozen=True, slots=True)
class Refused:
    """The decision to refuse a call.

    Attributes:
        kind: The kind of the refusal, which is the code in the ledger.
        message: A message in place of the kind's own.
        name: An error name in place of the kind's own.
        status: A status in place of the kind's own.
        retry_after_s: The wait that the answer asks for, in seconds.
        cool_until_s: Until when the client has to wait, whether or not the answer asks for it.
        hang_s: How long the client waits in vain for an answer, in seconds.
    """

    kind: str
    message: str = ""
    name: str = ""
    status: int = 0
    retry_after_s: int | None = None
    cool_until_s: float = 0.0
    hang_s: float = 0.0


def team_of(key: Key) -> Team:
    """Return the team of a key."""
    team = key.account
    assert isinstance(team, Team)  # noqa: S101 - narrows the type
    return team


def key_refused(key: Key, *, sending: bool) -> Refused | None:
    """Return why a key may not make a call, or None if it may."""
    if key.standing == REVOKED:
        return Refused(resend_errors.key_refusal(key.refusal_form))
    if key.standing == SUSPENDED:
        return Refused("suspended_api_key")
    return Refused("restricted_api_key") if key.standing == RESTRICTED and not sending else None


def slow_down(team: Team, wait_s: float, now_s: float) -> Refused:
    """Return the refusal of a call that exceeds the team's rate."""
    whole_s = retry_after(wait_s)
    words = f"Too many requests. You can only make {team.window.limit} requests per second."
    return Refused(
        "rate_limit_exceeded", words, retry_after_s=whole_s, cool_until_s=now_s + whole_s
    )


def refused_by(fault: Fault, key: Key, now_s: float) -> Refused:
    """Return the refusal of a call that a fault hits before any work is done."""
    kind, asked_s = fault.kind, None
    if kind == "rate_limit_exceeded":
        return slow_down(
            team_of(key), 1.0 if fault.retry_after_s is None else fault.retry_after_s, now_s
        )
    if fault.retry_after_s is not None:
        asked_s = retry_after(fault.retry_after_s)
    cool_until_s = 0.0
    if kind == "daily_quota_exceeded":
        cool_until_s = now_s + DAY_S - now_s % DAY_S
    elif kind == "monthly_quota_exceeded":
        team_of(key).monthly.used_at(now_s)
        cool_until_s = team_of(key).monthly.resets_at_s
    return Refused(
        kind,
        status=fault.status,
        retry_after_s=asked_s,
        cool_until_s=cool_until_s,
        hang_s=fault.hang_s if kind == "hang_before" else 0.0,
    )
