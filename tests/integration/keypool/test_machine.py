"""Random interleavings of everything that can happen to a pool, compared with a model in Python.

The model plays the provider: it keeps the true buckets, the rests and the disabled marks. The pool
learns the limits. It must then never overdraw them, never lease a key that rests, and never lose a
lease.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from config.api_key import ApiKey
from tests.integration.keypool.modelled_pool import ROUNDING
from tests.integration.keypool.pool_model import ACCOUNTS, LIMIT
from tests.integration.keypool.settlement_rules import OK, SettlementRules
from worker.keypool import Lease, NoLease
from worker.keypool.leases import LeaseRequest, Line, NoLeaseReason

RESOURCE = "some"
GOLDEN = 0x9E3779B97F4A7C15F39CC0605CEDC835  # spreads small numbers


class PoolMachine(SettlementRules):
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
            outcome = self.run(self.pool.acquire(lease_request, stands))
            now_ms = self.now()
            usable = [key for key in self.keys if self.model.serves(key, resource=resource)]
            if isinstance(outcome, Lease):
                start_ms = now_ms + outcome.wait_ms
                assert 0 <= outcome.wait_ms <= min(ahead_ms, 100 if bulk else ahead_ms)
                assert outcome.key in usable
                assert self.model.blocked_until(outcome.key.id, outcome.account) <= start_ms
                self.model.calls[outcome.account].append(start_ms)
                self._take_out(outcome, start_ms, now_ms)
                if self._overdraft(outcome.account) < -ROUNDING:
                    self._refuse_the_try(len(self.leases) - 1)
            elif outcome.why in {NoLeaseReason.DISABLED, NoLeaseReason.UNFIT}:
                assert not usable
                assert outcome.why is NoLeaseReason.DISABLED or self.model.unfit
            else:
                self._is_right_to_wait(
                    outcome, usable, now_ms, alone=line is None, ahead_ms=100 if bulk else ahead_ms
                )
                return

    def _is_right_to_wait(
        self, no_lease: NoLease, usable: list[ApiKey], now_ms: int, *, alone: bool, ahead_ms: int
    ) -> None:
        """A job waits only while no key that may serve it has room."""
        # A line behind others learns only at its turn that no key is left.
        assert usable or (
            not alone
            and no_lease.reason in {"earlier jobs come first", "interactive jobs come first"}
        )
        assert no_lease.reason
        if no_lease.why is NoLeaseReason.RESTING:
            assert all(
                self.model.blocked_until(key.id, key.account or "") > now_ms + 5_000
                for key in usable
            )
            assert 5_000 < no_lease.first_in_ms < 3_600_000
            return
        assert no_lease.why is NoLeaseReason.WAIT, no_lease
        assert 0 < no_lease.ask_in_ms <= 4_000
        if alone and self.model.faults < 2:
            until_ms = now_ms + min(ahead_ms, self.pool.horizon_ms)
            for key in usable:
                if self.model.blocked_until(key.id, key.account or "") <= until_ms:
                    assert self.model.level(key.account or "", self.began_ms, until_ms) < 2.7, (
                        "less than its call and the margin is left"
                    )

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
        """An acquire removes up to 16 expired leases, whatever its own outcome is."""
        self.pool.horizon_ms = 0
        for _ in range(count // 16 + 1):
            outcome = self.run(self.pool.acquire(LeaseRequest()))
            if isinstance(outcome, Lease):
                now_ms = self.now()
                self.model.calls[outcome.account].append(now_ms)
                self._take_out(outcome, now_ms, now_ms)
                if self._overdraft(outcome.account) < -ROUNDING:
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
        """When all open leases and rests have ended, all capacity is available again."""
        self.reset()
        while self.leases:
            self.run(self.pool.settle(self._take(0)[0], OK))
            self.model.accepted(self.now())
        self.time_passes(120_000)
        for account in set(ACCOUNTS):
            for _ in range(LIMIT - 2):
                outcome = self.run(self.pool.acquire(LeaseRequest(account=account)))
                assert isinstance(outcome, Lease), (account, outcome)
                assert outcome.wait_ms == 0
                self.model.calls[account].append(self.now())
                self.run(self.pool.settle(outcome, OK))
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
            # A block of a key for a resource counts only if the provider has that model; the only
            # one here is "".
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
    # The ids of leases spread the instants at which jobs poll again, and a failure must recur with
    # the same steps.
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
