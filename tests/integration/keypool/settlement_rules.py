"""The rules for leases: every way to settle a lease, and its confirmation."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.integration.keypool.modelled_pool import (
    BANNED,
    INVALID,
    LEASE_MS,
    UNCONFIRMED_MS,
    UNFIT,
    ModelledPool,
)
from worker.keypool import Lease
from worker.verdicts import ABANDONED, Effect, Fate, Scope, Verdict

OK = Verdict(fate=Fate.DONE, code="ok", status=200)
REJECTED = Verdict(fate=Fate.FAIL, code="rejected", status=400)
FAILED = Verdict(
    Fate.RETRY, "server_error", effect=Effect.COOL, cooldown_ms=5_000, definite=False, status=500
)
UNREACHED = Verdict(Fate.RETRY, "connect_error", scope=Scope.HOST)


class SettlementRules(ModelledPool):
    """Settles and confirms leases, and updates the provider's knowledge in the model."""

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
        lease, start_ms = self._take(index)  # the provider may have counted the call
        self.run(self.pool.settle(lease, FAILED))
        if (
            self.model.ok_ms < start_ms
        ):  # if no call succeeds, a failure is the host's fault as well
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

    @precondition(lambda self: self.expired)
    @rule(verdict=st.sampled_from([OK, INVALID]))
    def settle_late(self, verdict: Verdict) -> None:
        lease, _ = self.expired.pop()
        assert self.run(self.pool.settle(lease, verdict)).late
        self.model.faults = 0
        if verdict is OK:
            self.model.accepted(self.now())
        self._disable(lease, verdict)

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
            ), "a call waits only while another probes the host, or if less was left than assumed"
            now_ms = self.now()
            if self.model.faults < 2 and lease.id in self.model.put_off:  # it is put off only once
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
