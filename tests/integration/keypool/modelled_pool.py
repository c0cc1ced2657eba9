"""A pool and its model, and the actions of a state machine on both at once."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine
from redis.asyncio import Redis

from config.api_key import ApiKey
from tests.integration.keypool.pool_model import ACCOUNTS, LIMIT, Model
from worker.keypool import CooldownPolicy, KeyPool, Lease
from worker.keypool.leases import LeaseRequest
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

CALL_MS = 60_000 // LIMIT
MARGIN = LIMIT / 100  # stays in the pool's bucket
ROUNDING = 2 / CALL_MS  # instants are whole milliseconds
LEASE_MS = 20_000
UNCONFIRMED_MS = 1_500  # a lease that waited is lost if it is not confirmed by then
INVALID = Verdict(fate=Fate.NEXT_KEY, code="invalid_key", effect=Effect.DISABLE, status=401)
UNFIT = Verdict(
    fate=Fate.NEXT_KEY, code="unfit", effect=Effect.DISABLE, scope=Scope.KEY_RESOURCE, status=403
)
BANNED = Verdict(
    fate=Fate.NEXT_KEY, code="banned", effect=Effect.DISABLE, scope=Scope.ACCOUNT, status=403
)
FULL = (ObservedLimit(Dimension.RPM, LIMIT, LIMIT - 1),)  # includes the call whose answer stated it


class ModelledPool(RuleBasedStateMachine):
    """A pool on a real Redis, its clocks, its keys and the open leases."""

    url = ""
    new_clock: Callable[[], Any]
    new_key: Callable[..., ApiKey]
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        type(self).numbers = itertools.count(1)
        self.runner = asyncio.Runner()
        self.clock, self.redis_clock = type(self).new_clock(), type(self).new_clock()
        self.began_ms = self.clock.ms
        self.now_ms: int | None = None
        self.model = Model()
        self.keys = [
            type(self).new_key(number, account=account) for number, account in enumerate(ACCOUNTS)
        ]
        self.leases: list[tuple[Lease, int]] = []  # each with the start of its call
        self.expired: list[tuple[Lease, int]] = []
        self.due: dict[str, tuple[int, bool]] = {}  # when a lease ends, and whether it waits
        self.starts: dict[str, int] = {}  # when the call of a lease begins
        self.run(self._open())

    def run(self, coroutine: Any) -> Any:
        # The runner's `run` would set a handler for SIGINT each time, which takes 0.2 ms.
        return self.runner.get_loop().run_until_complete(coroutine)

    async def _open(self) -> None:
        self.redis = Redis.from_url(self.url, decode_responses=True)
        await self.redis.flushall()
        cooldowns = CooldownPolicy(limit_ms=30_000)
        self.pool = KeyPool(
            self.redis,
            "groq",
            self.keys,
            cooldowns=cooldowns,
            lease_ms=LEASE_MS,
            opening=1000,
            now_ms=self.redis_clock,
            own_ms=self.clock,
        )
        for other in ("org_b", "org_a"):
            lease = await self.pool.acquire(LeaseRequest(exclude_accounts=frozenset({other})))
            assert isinstance(lease, Lease)
            self.model.calls[lease.account].append(self.clock.ms)
            await self.pool.settle(
                lease, Verdict(fate=Fate.DONE, code="ok", status=200, limits=FULL)
            )
            self.model.accepted(self.clock.ms)

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    def now(self) -> int:
        """The pool's clock, which goes on while Redis' own clock is set.

        It is read once for each tick, because `every_lease_is_accounted_for` checks after each step
        that the pool's clock stands still as long as its caller's does.
        """
        if self.now_ms is None:
            self.now_ms = self.run(self.pool.snapshot()).now_ms
        return self.now_ms

    def _tick(self, ms: int) -> None:
        self.clock.tick(ms)
        self.redis_clock.tick(ms)
        self.now_ms = None

    def _take_out(self, lease: Lease, start_ms: int, now_ms: int) -> None:
        waits = start_ms > now_ms
        self.leases.append((lease, start_ms))
        self.starts[lease.id] = start_ms
        self.due[lease.id] = start_ms + (UNCONFIRMED_MS if waits else LEASE_MS), waits

    def _take(self, index: int) -> tuple[Lease, int]:
        return self.leases.pop(index % len(self.leases))

    def _not_counted(self, lease: Lease, start_ms: int) -> None:
        """Forget a refused call, unless the level that the provider stated includes the call."""
        if self.starts[lease.id] > self.model.stated_ms[lease.account]:
            self.model.drop_call(lease.account, start_ms)

    def _overdraft(self, account: str) -> float:
        waiting = [
            start_ms
            for lease, start_ms in self.leases
            if lease.account == account and lease.id in self.model.put_off and self.due[lease.id][1]
        ]
        return self.model.overdraft(account, self.began_ms, without=waiting)

    def _refuse_the_try(self, index: int) -> None:
        """The provider refuses a call beyond the limit, and states the limit."""
        lease, _ = self.leases.pop(index)
        self.model.tries[lease.account] -= 1
        assert self.model.tries[lease.account] >= 0, "tries are rare, and one comes after a reset"
        self.model.calls[lease.account].pop()
        level = self.model.level(lease.account, self.began_ms, self.now())
        wait_ms = max(1, round((1 - level) * CALL_MS))
        stated = ObservedLimit(Dimension.RPM, LIMIT, max(0.0, level))
        verdict = Verdict(
            Fate.NEXT_KEY, "rate_limit", effect=Effect.COOL, scope=Scope.ACCOUNT_MODEL,
            cooldown_ms=wait_ms, status=429,
            limits=(stated,),
        )  # fmt: skip
        self.run(self.pool.settle(lease, verdict))
        self.model.put_off |= {held.id for held, _ in self.leases if held.account == lease.account}
        if level < MARGIN:
            self.model.stated_ms[lease.account] = self.now()
        self.model.faults = 0
        name = f"pair {lease.account}"
        self.model.rests[name] = max(self.model.rests.get(name, 0), self.now() + wait_ms)

    def _disable(self, lease: Lease, verdict: Verdict) -> None:
        if verdict is INVALID:
            self.model.disabled.add(lease.key.id)
        elif verdict is BANNED:
            self.model.banned.add(lease.account)
        elif verdict is UNFIT:
            self.model.unfit.add((lease.key.id, lease.request.resource))
