"""Verdicts, and requests for a lease that must or must not be granted."""

from collections.abc import Callable
from typing import Any

from worker.keypool import KeyPool, Lease, LeaseRequest, Line, NoLease
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

Make = Callable[..., KeyPool]
OK = Verdict(fate=Fate.DONE, code="ok", status=200)
INVALID = Verdict(fate=Fate.NEXT_KEY, code="invalid_key", effect=Effect.DISABLE, status=401)


def refused(
    cooldown_ms: int | None = None,
    scope: Scope = Scope.ACCOUNT_MODEL,
    *limits: ObservedLimit,
    account: str | None = None,
) -> Verdict:
    return Verdict(
        fate=Fate.NEXT_KEY,
        code="rate_limit",
        effect=Effect.COOL,
        scope=scope,
        cooldown_ms=cooldown_ms,
        status=429,
        limits=limits,
        account=account,
    )


def rpm(limit: int, remaining: float | None = None) -> Verdict:
    return Verdict(
        fate=Fate.DONE,
        code="ok",
        status=200,
        limits=(ObservedLimit(Dimension.RPM, limit, remaining),),
    )


async def ask(
    pool: KeyPool, *, ahead_ms: int = 0, line: Line | None = None, **lease_request: object
) -> Lease | NoLease:
    """Request a lease for a call that begins at most `ahead_ms` from now."""
    pool.horizon_ms = ahead_ms
    return await pool.acquire(LeaseRequest(**lease_request), line)  # type: ignore[arg-type]


async def lease(pool: KeyPool, **lease_request: object) -> Lease:
    outcome = await ask(pool, **lease_request)  # type: ignore[arg-type]
    assert isinstance(outcome, Lease), outcome
    return outcome


async def no_lease(pool: KeyPool, **lease_request: object) -> NoLease:
    outcome = await ask(pool, **lease_request)  # type: ignore[arg-type]
    assert isinstance(outcome, NoLease), outcome
    return outcome


async def at_once(pool: KeyPool) -> list[Lease]:
    taken = []
    while isinstance(outcome := await ask(pool), Lease):
        taken.append(outcome)
    assert outcome.why is NoLeaseReason.BUSY
    return taken


def fault(scope: Scope) -> Verdict:
    return Verdict(fate=Fate.RETRY, code="connect_error", scope=scope)


async def limited(make_pool: Make, limit: int, *, count: int = 1, **options: Any) -> KeyPool:
    """A pool whose keys have used up their limit of `limit` calls a minute each."""
    pool = make_pool(count, **options)
    for _ in range(count):
        refusal = refused(1, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, limit, 0))
        await pool.settle(await lease(pool), refusal)
    return pool


async def remaining(pool: KeyPool) -> float:
    """Return the level of the only bucket of the only key."""
    [key] = (await pool.snapshot()).keys
    [bucket] = key.buckets
    return bucket.remaining
