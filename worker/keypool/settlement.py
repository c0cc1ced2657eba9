"""Translates a verdict into the arguments of settle.lua."""

from typing import Final

from worker.keypool.leases import Lease, LeaseRequest
from worker.keypool.names import BlockedScope
from worker.verdicts import (
    ABANDONED,
    ASKED,
    RATE_LIMIT,
    Cooldown,
    Dimension,
    Effect,
    Fate,
    ObservedLimit,
    Scope,
    Verdict,
)

_SERVER_ERROR = 500
_TOO_MANY_REQUESTS = 429
_EVENTS: Final = {Effect.COOL: "cooled", Effect.DISABLE: "disabled", Effect.UNFIT: "unfit"}
"""The event in the audit stream for each effect of an answer on a scope."""


def report(
    lease: Lease, verdict: Verdict, *, service: str, rest_ms: int, again: bool = False
) -> dict[str, object]:
    """Return the settlement of a verdict, in JSON types.

    Most answers are plain successes, so fields that are false, empty or unknown are left out:

    - `key` (its id), `account`, `model`, `by` (the task's id).
    - `outcome`: `ok`, `refused`, `fault`, `rejected`, or `unused` if no call was made.
    - `answered`: the provider processed the request. `counted`: the call counts against its limits.
    - `tokens` used, of which `input_tokens` and `output_tokens`; `emails` sent; `stated_ms`, the
      wait that the provider stated; `learned`, the account that it named.
    - `turned_down`: the account refused this request, and may refuse others like it.
    - For a call that failed: `reason`; and if the `blamed` scope is blocked, the `event` (`cooled`,
      `disabled` or `unfit`) and `rest_ms`. `fails` is the host or model that the failure counts
      for; with an `event`, it counts only while no other call of the model succeeds. `blamed` and
      `fails` each have three parts: the field in `blocks`, the kind, and the name for people.
    - `sized`: the rest holds only for calls of this size or more.
    - `uncapped`: the request had no cap, and the provider reserved more for the answer than its
      limit, although the pool had reserved less.
    - `real`: the provider knows the model.
    - `again`: an earlier settle of the lease had no reply, and may have arrived.
    - `limits` that the provider stated, each with dimension, limit, window in milliseconds, and
      how much is left if known; `quotas` whose used part it stated, by dimension, each with use,
      window, and 1 if the call was refused for this quota.

    Args:
        lease: The lease of the call.
        verdict: The verdict on the answer.
        service: The service's name.
        rest_ms: How long the blamed scope rests, in milliseconds.
        again: Whether an earlier settle of the lease had no reply.
    """
    request, outcome = lease.request, outcome_of(verdict)
    account = verdict.account or lease.account
    moved = account != lease.account
    fields: dict[str, object] = {
        "key": lease.key.id,
        "account": account,
        "model": request.model,
        "by": request.by,
        "outcome": outcome,
        "answered": _is_answered(verdict, outcome),
        # If the key turned out to belong to another account, the call was reserved in the wrong
        # account's buckets. So nothing may be given back to the right account's.
        "counted": moved or _counted(verdict),
        "turned_down": _is_turned_down(verdict),
        "sized": verdict.sized,
        "uncapped": _is_uncapped(request, verdict),
        "real": bool(request.model) and _is_real(verdict),
        # A stated limit of 0 would make every job look too large.
        "limits": [stated(seen) for seen in verdict.limits if seen.limit > 0],
        "quotas": {
            quota.dimension: [quota.used, quota.dimension.window_ms, int(quota.spent)]
            for quota in verdict.quotas
        },
        "learned": verdict.account or None,
        "again": again,
    }
    fields |= _blame(lease, verdict, account=account, service=service, rest_ms=rest_ms)
    fields |= {} if moved else _counts(verdict)
    return {name: value for name, value in fields.items() if _says_something(value)}


def _says_something(value: object) -> bool:
    return value is not None and value is not False and value not in ([], {})


def _blame(
    lease: Lease, verdict: Verdict, *, account: str, service: str, rest_ms: int
) -> dict[str, object]:
    """Return the fields for the scope that a verdict blames, and for how long it rests."""
    event = None if _is_spared(lease.request, verdict) else _EVENTS.get(verdict.effect)
    is_stated = verdict.cooldown_ms is not None or verdict.cooldown is not Cooldown.LIMIT
    fields: dict[str, object] = {"stated_ms": rest_ms if is_stated else None}
    if event is None and verdict.fate is Fate.DONE:
        return fields
    fails = _what_fails(lease.request, verdict, blocks=event is not None)

    def located(scope: Scope, kept: BlockedScope) -> list[str]:
        return [str(kept), scope, _blamed(lease, scope, account=account, service=service)]

    return fields | {
        "event": event,
        "blamed": located(verdict.scope, _scope_of(lease, verdict, account=account)),
        "fails": located(fails, BlockedScope(fails, resource=lease.request.model)) if fails else [],
        "rest_ms": rest_ms,
        "reason": verdict.code,
    }


def _what_fails(lease_request: LeaseRequest, verdict: Verdict, *, blocks: bool) -> Scope | None:
    """Return the scope, host or model, that a failure counts for; None: neither."""
    outcome = outcome_of(verdict)
    if _is_answered(verdict, outcome):
        return None
    if blocks and outcome == "fault":
        return Scope.MODEL if lease_request.model else Scope.HOST
    return verdict.scope if verdict.scope in {Scope.HOST, Scope.MODEL} else None


def _counts(verdict: Verdict) -> dict[str, object]:
    """Return the tokens and emails that the provider counted, each None if it did not say."""
    return {
        "tokens": verdict.tokens,
        "input_tokens": verdict.input_tokens,
        "output_tokens": verdict.output_tokens,
        "emails": verdict.emails,
    }


def _is_answered(verdict: Verdict, outcome: str) -> bool:
    """Return whether the provider processed the request, or refused it for a reason."""
    return outcome not in {"fault", "unused"} or (
        verdict.fate is Fate.NEXT_KEY and verdict.status > 0
    )


def _is_spared(lease_request: LeaseRequest, verdict: Verdict) -> bool:
    """Return whether to blame the job for a server error, because it failed with other keys too."""
    failed = verdict.effect is Effect.COOL and verdict.status >= _SERVER_ERROR
    return lease_request.suspect and failed


def _scope_of(lease: Lease, verdict: Verdict, *, account: str) -> BlockedScope:
    """Return the scope that a verdict blames, as a field of `blocks`."""
    match verdict.scope:
        case Scope.KEY | Scope.KEY_RESOURCE:
            return BlockedScope(verdict.scope, lease.key.id, lease.request.resource)
        case Scope.ACCOUNT | Scope.ACCOUNT_MODEL:
            kind = "unfit" if verdict.effect is Effect.UNFIT else verdict.scope
            return BlockedScope(kind, account, lease.request.model)
    return BlockedScope(verdict.scope, resource=lease.request.model)


def _blamed(lease: Lease, scope: Scope, *, account: str, service: str) -> str:
    """Return the name for people of the scope that a verdict blames."""
    model = lease.request.model
    match scope:
        case Scope.KEY:
            return lease.key.label
        case Scope.KEY_RESOURCE:
            return f"{lease.key.label} × {lease.request.resource}"
        case Scope.ACCOUNT:
            return account
        case Scope.ACCOUNT_MODEL:
            return f"{account} × {model}" if model else account
        case Scope.MODEL:
            return model
        case Scope.HOST:
            return service


def outcome_of(verdict: Verdict) -> str:
    """Return how a call ended: `ok`, `refused`, `fault`, `rejected`; `unused` if none was made."""
    if verdict is ABANDONED or verdict.code == ASKED:
        return "unused"
    if verdict.fate is Fate.DONE:
        return "ok"
    if verdict.too_large_limit is not None:  # also with status 429: the rate is not to blame
        return "rejected"
    # Also with status 429: a gateway in front of the provider has answered.
    if verdict.scope is Scope.HOST:
        return "fault"
    if verdict.status == _TOO_MANY_REQUESTS or verdict.code == RATE_LIMIT:
        return "refused"
    return "rejected" if verdict.fate in {Fate.FAIL, Fate.OTHER_ACCOUNT} else "fault"


def _counted(verdict: Verdict) -> bool:
    """Return whether the provider counted the call against its limits; if in doubt, True."""
    if verdict.counted is not None:
        return verdict.counted
    if not verdict.definite or verdict.fate is Fate.DONE:
        return True
    refused = verdict.code == RATE_LIMIT or verdict.too_large_limit is not None
    return not refused and verdict.status not in {0, 401, 403, 413, _TOO_MANY_REQUESTS}


def stated(seen: ObservedLimit) -> list[object]:
    """Return a limit as the scripts read it."""
    fields: list[object] = [seen.dimension, seen.limit, seen.window_ms or seen.dimension.window_ms]
    return fields if seen.remaining is None else [*fields, seen.remaining]


def _is_real(verdict: Verdict) -> bool:
    """Return whether the provider knows the model.

    Models that jobs made up must not push the real ones out of the view.
    """
    return verdict.fate is Fate.DONE or verdict.effect in {Effect.COOL, Effect.DISABLE}


def _is_uncapped(lease_request: LeaseRequest, verdict: Verdict) -> bool:
    """Return whether the provider reserved more for an answer without a cap than the pool did."""
    limit = verdict.too_large_limit or 0
    return (
        lease_request.flexible
        and verdict.too_large_in is Dimension.OTPM
        and lease_request.output_tokens <= limit
    )


def _is_turned_down(verdict: Verdict) -> bool:
    """Return whether the account may refuse the next request as well, without a stated reason.

    Such an account is used only if no other can serve soon.
    """
    return (
        verdict.fate is Fate.OTHER_ACCOUNT
        and verdict.effect is Effect.NONE
        and verdict.too_large_limit is None
    )
