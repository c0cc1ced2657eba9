"""Random interleavings of all that can happen to a pool, against a model in plain Python.

The model plays the provider: it keeps the true buckets, the rests and the disabled marks. The pool
learns the limits and must then never overdraw them, never hand out a key that rests, and never lose
track of a lease.
"""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from config.api_key import ApiKey
from tests.integration.keypool.pool_model import ACCOUNTS, LIMIT, Model
from worker.keypool import CooldownPolicy, KeyPool, Lease, NoLease
from worker.keypool.leases import LeaseRequest, Line, NoLeaseReason
from worker.verdicts import ABANDONED, Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

CALL_MS = 60_000 // LIMIT
MARGIN = LIMIT / 100  # stays in the pool's bucket
ROUNDING = 2 / CALL_MS  # instants are whole milliseconds
LEASE_MS = 20_000
UNCONFIRMED_MS = 1_500  # a lease that waited is lost if it is not confirmed by then
OK = Verdict(fate=Fate.DONE, code="ok", status=200)
INVALID = Verdict(fate=Fate.NEXT_KEY, code="invalid_key", effect=Effect.DISABLE, status=401)
UNFIT = Verdict(
    fate=Fate.NEXT_KEY, code="unfit", effect=Effect.DISABLE, scope=Scope.KEY_RESOURCE, status=403
)
BANNED = Verdict(
    fate=Fate.NEXT_KEY, code="banned", effect=Effect.DISABLE, scope=Scope.ACCOUNT, status=403
)
REJECTED = Verdict(fate=Fate.FAIL, code="rejected", status=400)
FAILED = Verdict(
    Fate.RETRY, "server_error", effect=Effect.COOL, cooldown_ms=5_000, definite=False, status=500
)
UNREACHED = Verdict(Fate.RETRY, "connect_error", scope=Scope.HOST)
RESOURCE = "some"
GOLDEN = 0x9E3779B97F4A7C15F39CC0605CEDC835  # spreads small numbers
FULL = (ObservedLimit(Dimension.RPM, LIMIT, LIMIT - 1),)  # the call that taught it is counted


class PoolMachine(RuleBasedStateMachine):
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
        self.leases: list[tuple[Lease, int]] = []  # with the instant of their call
        self.expired: list[tuple[Lease, int]] = []
        self.due: dict[str, tuple[int, bool]] = {}  # when a lease ends, and whether it waits
        self.starts: dict[str, int] = {}  # when the call of a lease begins
        self.run(self._open())

    def run(self, coroutine: Any) -> Any:
        # `run` of the runner would set a handler for SIGINT each time, which costs 0.2 ms.
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
        """The pool's clock, which goes on although Redis' own is set.

        It is read once for each tick: the pool's clock stands as long as its caller's does, which
        `every_lease_is_accounted_for` checks after each step.
        """
        if self.now_ms is None:
            self.now_ms = self.run(self.pool.snapshot()).now_ms
        return self.now_ms

    def _tick(self, ms: int) -> None:
        self.clock.tick(ms)
        self.redis_clock.tick(ms)
        self.now_ms = None

    @rule(
        ahead_ms=st.sampled_from([0, 500, 2_000]),
        line=st.sampled_from([None, "a", "b"]),
        resource=st.sampled_from(["", RESOURCE]),
        bulk=st.booleans(),
        count=st.integers(1, 30),
    )
    def acquire(
        self,
        ahead_ms: int,
        line: str | None,
        resource: str,
        bulk: bool,  # noqa: FBT001
        count: int,
    ) -> None:
        self.pool.horizon_ms = ahead_ms
        for _ in range(count):
            lease_request = LeaseRequest(bulk=bulk, resource=resource)
            stands = None if line is None else Line("m bulk" if bulk else "m", line, entered=True)
            got = self.run(self.pool.acquire(lease_request, stands))
            now_ms = self.now()
            usable = [key for key in self.keys if self.model.serves(key, resource=resource)]
            if isinstance(got, Lease):
                start_ms = now_ms + got.wait_ms
                assert 0 <= got.wait_ms <= min(ahead_ms, 100 if bulk else ahead_ms)
                assert got.key in usable
                assert self.model.blocked_until(got.key.id, got.account) <= start_ms
                self.model.calls[got.account].append(start_ms)
                self._take_out(got, start_ms, now_ms)
                if self._overdraft(got.account) < -ROUNDING:
                    self._refuse_the_try(len(self.leases) - 1)
            elif got.why in {NoLeaseReason.DISABLED, NoLeaseReason.UNFIT}:
                assert not usable
                assert got.why is NoLeaseReason.DISABLED or self.model.unfit
            else:
                self._is_right_to_wait(
                    got, usable, now_ms, alone=line is None, ahead_ms=100 if bulk else ahead_ms
                )
                return

    def _take_out(self, lease: Lease, start_ms: int, now_ms: int) -> None:
        waits = start_ms > now_ms
        self.leases.append((lease, start_ms))
        self.starts[lease.id] = start_ms
        self.due[lease.id] = start_ms + (UNCONFIRMED_MS if waits else LEASE_MS), waits

    def _is_right_to_wait(
        self, got: NoLease, usable: list[ApiKey], now_ms: int, *, alone: bool, ahead_ms: int
    ) -> None:
        """Work is conserved: a job waits only while no key that may serve it has room."""
        # Who stands behind others is not told that no key is left before it is his turn.
        assert usable or (
            not alone and got.reason in {"earlier jobs come first", "interactive jobs come first"}
        )
        assert got.reason
        if got.why is NoLeaseReason.RESTING:
            assert all(
                self.model.blocked_until(key.id, key.account or "") > now_ms + 5_000
                for key in usable
            )
            assert 5_000 < got.first_in_ms < 3_600_000
            return
        assert got.why is NoLeaseReason.WAIT, got
        assert 0 < got.ask_in_ms <= 4_000
        if alone and self.model.faults < 2:
            until_ms = now_ms + min(ahead_ms, self.pool.horizon_ms)
            for key in usable:
                if self.model.blocked_until(key.id, key.account or "") <= until_ms:
                    assert self.model.level(key.account or "", self.began_ms, until_ms) < 2.7, (
                        "its call and the margin"
                    )

    def _refuse_the_try(self, index: int) -> None:
        """The provider refuses a call beyond the limit, and tells the limit."""
        lease, _ = self.leases.pop(index)
        self.model.tries[lease.account] -= 1
        assert self.model.tries[lease.account] >= 0, "seldom, and once after a reset"
        self.model.calls[lease.account].pop()
        level = self.model.level(lease.account, self.began_ms, self.now())
        wait_ms = max(1, round((1 - level) * CALL_MS))
        told = ObservedLimit(Dimension.RPM, LIMIT, max(0.0, level))
        verdict = Verdict(
            Fate.NEXT_KEY, "rate_limit", effect=Effect.COOL, scope=Scope.ACCOUNT_MODEL,
            cooldown_ms=wait_ms, status=429,
            limits=(told,),
        )  # fmt: skip
        self.run(self.pool.settle(lease, verdict))
        self.model.put_off |= {one.id for one, _ in self.leases if one.account == lease.account}
        if level < MARGIN:
            self.model.told_ms[lease.account] = self.now()
        self.model.faults = 0
        name = f"pair {lease.account}"
        self.model.rests[name] = max(self.model.rests.get(name, 0), self.now() + wait_ms)

    def _take(self, index: int) -> tuple[Lease, int]:
        return self.leases.pop(index % len(self.leases))

    def _not_counted(self, lease: Lease, start_ms: int) -> None:
        """A refused call counts for nothing, but for one that the provider has told as counted."""
        if self.starts[lease.id] > self.model.told_ms[lease.account]:
            self.model.drop_call(lease.account, start_ms)

    def _overdraft(self, account: str) -> float:
        waiting = [
            start_ms
            for lease, start_ms in self.leases
            if lease.account == account and lease.id in self.model.put_off and self.due[lease.id][1]
        ]
        return self.model.overdraft(account, self.began_ms, without=waiting)

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 50), verdict=st.sampled_from([OK, REJECTED]))
    def settle_as_counted(self, index: int, verdict: Verdict) -> None:
        lease, _ = self._take(index)
        assert not self.run(self.pool.settle(lease, verdict)).late
        self.model.faults = 0
        if verdict is OK:
            self.model.accepted(self.now())

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 50))
    def settle_as_not_used(self, index: int) -> None:
        lease, start_ms = self._take(index)
        before = {key.id: key.calls for key in self.run(self.pool.snapshot()).keys}
        self.run(self.pool.settle(lease, ABANDONED))
        self._not_counted(lease, start_ms)
        assert {key.id: key.calls for key in self.run(self.pool.snapshot()).keys} == before

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 50))
    def settle_as_failed(self, index: int) -> None:
        lease, start_ms = self._take(index)  # the provider may have counted it
        self.run(self.pool.settle(lease, FAILED))
        if (
            self.model.ok_ms < start_ms
        ):  # what fails while nothing passes is the host's fault as well
            self.model.host_failed(self.now())
        name = f"key {lease.key.id}"
        self.model.rests[name] = max(self.model.rests.get(name, 0), self.now() + 5_000)

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 50))
    def settle_as_unreached(self, index: int) -> None:
        lease, start_ms = self._take(index)
        assert self.run(self.pool.settle(lease, UNREACHED)).blocked is self.model.host_failed(
            self.now()
        )
        self._not_counted(lease, start_ms)

    @precondition(lambda self: self.leases)
    @rule(
        index=st.integers(0, 50),
        cooldown_ms=st.sampled_from([None, 1, 2_000, 45_000]),
        scope=st.sampled_from([Scope.KEY, Scope.ACCOUNT, Scope.ACCOUNT_MODEL]),
    )
    def settle_as_refused(self, index: int, cooldown_ms: int | None, scope: Scope) -> None:
        lease, start_ms = self._take(index)
        verdict = Verdict(
            fate=Fate.NEXT_KEY,
            code="rate_limit",
            effect=Effect.COOL,
            scope=scope,
            cooldown_ms=cooldown_ms,
            status=429,
        )
        settled = self.run(self.pool.settle(lease, verdict))
        self._not_counted(lease, start_ms)
        self.model.faults = 0
        name = {Scope.KEY: f"key {lease.key.id}", Scope.ACCOUNT: f"account {lease.account}"}.get(
            scope, f"pair {lease.account}"
        )
        before = self.model.rests.get(name, 0)
        self.model.rests[name] = max(
            before, self.now() + (30_000 if cooldown_ms is None else cooldown_ms)
        )
        assert settled.blocked
        out = (
            lease.key.id in self.model.disabled
            if scope is Scope.KEY
            else lease.account in self.model.banned
        )
        if scope is Scope.ACCOUNT_MODEL or not out:
            assert settled.newly == (before <= self.now())

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 50), verdict=st.sampled_from([INVALID, UNFIT, BANNED]))
    def settle_as_disabled(self, index: int, verdict: Verdict) -> None:
        lease, start_ms = self._take(index)
        self.run(self.pool.settle(lease, verdict))
        self._not_counted(lease, start_ms)
        self.model.faults = 0
        self._disable(lease, verdict)

    def _disable(self, lease: Lease, verdict: Verdict) -> None:
        if verdict is INVALID:
            self.model.disabled.add(lease.key.id)
        elif verdict is BANNED:
            self.model.banned.add(lease.account)
        elif verdict is UNFIT:
            self.model.unfit.add((lease.key.id, lease.request.resource))

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 50))
    def confirm(self, index: int) -> None:
        lease, start_ms = self.leases[index % len(self.leases)]
        stays = self.model.serves(lease.key, resource=lease.request.resource) and (
            self.model.blocked_until(lease.key.id, lease.account) <= self.now()
        )
        confirmed = self.run(self.pool.confirm(lease))
        assert (confirmed is not None) is stays
        if confirmed is None:
            self.leases.remove((lease, start_ms))
            self._not_counted(lease, start_ms)
        else:
            assert (
                not confirmed.wait_ms or self.model.faults >= 2 or lease.id in self.model.put_off
            ), (
                "only while another one tries whether the host works, and where less was left than "
                "was thought"
            )
            now_ms = self.now()
            if self.model.faults < 2 and lease.id in self.model.put_off:  # it is put off once
                self.model.put_off.discard(lease.id)
                if self.due[lease.id][1]:
                    self._move_call(lease, start_ms, now_ms + confirmed.wait_ms)
            if confirmed.wait_ms:
                if self.model.faults < 2:
                    self.starts[lease.id] = now_ms + confirmed.wait_ms
                self.due[lease.id] = now_ms + confirmed.wait_ms + UNCONFIRMED_MS, True
            elif self.due[lease.id][1]:
                self.starts[lease.id] = now_ms
                self.due[lease.id] = now_ms + LEASE_MS, False

    def _move_call(self, lease: Lease, start_ms: int, then_ms: int) -> None:
        self.model.drop_call(lease.account, start_ms)
        self.model.calls[lease.account].append(then_ms)
        self.leases[self.leases.index((lease, start_ms))] = (lease, then_ms)

    @precondition(lambda self: self.expired)
    @rule(verdict=st.sampled_from([OK, INVALID]))
    def settle_late(self, verdict: Verdict) -> None:
        lease, _ = self.expired.pop()
        assert self.run(self.pool.settle(lease, verdict)).late
        self.model.faults = 0
        if verdict is OK:
            self.model.accepted(self.now())
        self._disable(lease, verdict)

    @rule(ms=st.sampled_from([1, 40, 1_000, 9_000, 60_000]))
    def time_passes(self, ms: int) -> None:
        self._tick(ms)
        now_ms = self.now()
        gone = [(lease, start) for lease, start in self.leases if self.due[lease.id][0] <= now_ms]
        if gone:
            self.leases = [pair for pair in self.leases if pair not in gone]
            for lease, start_ms in gone:
                if self.due[lease.id][1]:
                    self._not_counted(lease, start_ms)
                else:
                    self.expired.append((lease, start_ms))
            self._sweep(len(gone))

    @rule(ms=st.sampled_from([-3_600_000, -4_000, -300, -1, 4_000, 3_600_000]))
    def the_clock_of_redis_is_set(self, ms: int) -> None:
        before_ms = self.now()
        self.redis_clock.tick(ms)
        self.now_ms = None
        assert self.now() == before_ms

    def _sweep(self, count: int) -> None:
        """An acquire clears up to 16 expired leases away, whatever it gets itself."""
        self.pool.horizon_ms = 0
        for _ in range(count // 16 + 1):
            got = self.run(self.pool.acquire(LeaseRequest()))
            if isinstance(got, Lease):
                now_ms = self.now()
                self.model.calls[got.account].append(now_ms)
                self._take_out(got, now_ms, now_ms)
                if self._overdraft(got.account) < -ROUNDING:
                    self._refuse_the_try(len(self.leases) - 1)

    @rule()
    def reset(self) -> None:
        self.run(self.pool.reset(by="machine"))
        self.model.rests.clear()
        for gone in (self.model.disabled, self.model.banned, self.model.unfit):
            gone.clear()
        self.model.faults, self.model.fault_ms = 0, 0
        self.model.tries = dict.fromkeys(ACCOUNTS, 1)

    @rule()
    def nothing_is_held_back_for_ever(self) -> None:
        """When all that was out is over, everything is there once more."""
        self.reset()
        while self.leases:
            self.run(self.pool.settle(self._take(0)[0], OK))
            self.model.accepted(self.now())
        self.time_passes(120_000)
        for account in set(ACCOUNTS):
            for _ in range(LIMIT - 2):
                got = self.run(self.pool.acquire(LeaseRequest(account=account)))
                assert isinstance(got, Lease), (account, got)
                assert got.wait_ms == 0
                self.model.calls[account].append(self.now())
                self.run(self.pool.settle(got, OK))
                self.model.accepted(self.now())

    @invariant()
    def no_bucket_is_overdrawn(self) -> None:
        for account in set(ACCOUNTS):
            assert self._overdraft(account) >= -ROUNDING

    @invariant()
    def every_lease_is_accounted_for(self) -> None:
        view = self.run(self.pool.snapshot())
        now_ms = view.now_ms
        assert now_ms == self.now()
        assert sum(key.in_flight for key in view.keys) == len(self.leases)
        for key in view.keys:
            until_ms = self.model.blocked_until(key.id, key.account)
            disabled = key.id in self.model.disabled or key.account in self.model.banned
            # What a key may not be used for counts where it is a model that the provider has; here
            # the only one is "".
            cooling = until_ms > now_ms or (key.id, "") in self.model.unfit
            assert key.state == ("disabled" if disabled else "cooling" if cooling else "ready")


@pytest.mark.usefixtures("untraced")
@pytest.mark.timeout(300)
def test_no_interleaving_breaks_the_pool(
    redis_url: str,
    new_clock: Callable[[], Any],
    new_key: Callable[..., ApiKey],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The ids of leases spread who looks again when, and a failure must come again with the same
    # steps.
    monkeypatch.setattr(
        os,
        "urandom",
        lambda size: (next(PoolMachine.numbers) * GOLDEN % 2**128).to_bytes(16)[:size],
    )
    PoolMachine.url, PoolMachine.new_clock, PoolMachine.new_key = redis_url, new_clock, new_key
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Not `explain`: it traces every line, so a failure would run out of time before it is
            # shown.
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        ),
    )
