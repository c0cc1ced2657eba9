"""The pool of one service's keys, shared by every worker through Redis."""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from config.api_key import ApiKey
from worker.keypool import audit_trail, latest_calls, resets
from worker.keypool import snapshot as snapshots
from worker.keypool.by_hand import ManualActions
from worker.keypool.caller_clock import CallerClock, since_boot_ms
from worker.keypool.candidates import KeyDirectory
from worker.keypool.cooldowns import CooldownPolicy
from worker.keypool.latest_calls import LatestCall
from worker.keypool.leases import Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.keypool.names import Names
from worker.keypool.resets import ResetDone
from worker.keypool.scripts import Scripts, Settled, as_json, read_acquire, read_settle
from worker.keypool.settlement import report, stated
from worker.redis.lua import Clock
from worker.verdicts import ObservedLimit, Verdict

HORIZON_MS = 2_000
"""How far ahead a call is reserved at most, in milliseconds.

After this time, all leases that were granted before a change have started.
"""
TENANT_HORIZON_MS = 250
"""The horizon of jobs with a tenant, shorter so that other tenants' jobs soon get their turn."""
BULK_HORIZON_MS = 100
_REMAPS = 5  # each `remap` corrects the keys that were looked at; few keys need it


class KeyPool(ManualActions):
    """Hands out keys so that no limit is overdrawn and no resting key is called.

    Every decision is one script in Redis, on Redis' clock. This object remembers only the account
    that each key was last seen to belong to; a script's reply corrects an outdated one.

    Args:
        redis: A client that decodes responses to text. The pool does not close it.
        service: The service's name.
        keys: The keys of this process; `replace_keys` replaces them.
        namespace: The prefix of all names, which separates installations that share a Redis.
        cooldowns: How long scopes rest if the provider does not say.
        lease_ms: How long a call may take before its lease expires, in milliseconds.
        limits: The limits assumed for an account and model until its own are known; may be empty.
        patience_ms: How long a job waits in its process, in milliseconds, while all keys rest or
            wait for a limit of a day or more. If that takes longer, `acquire` returns `RESTING` at
            once. A wait for a limit of a minute may be longer.
        horizon_ms: How far ahead a call may be reserved, in milliseconds.
        opening: How many calls of an account and model may be in flight at first, while no request
            limit is known. The number grows as calls succeed.
        now_ms: A clock for tests, in place of Redis' clock.
        own_ms: A clock for tests, in place of this machine's time since its start; default:
            `now_ms`.
    """

    def __init__(
        self,
        redis: Redis,
        service: str,
        keys: Sequence[ApiKey],
        *,
        namespace: str = "kw",
        cooldowns: CooldownPolicy | None = None,
        lease_ms: int = 300_000,
        limits: Sequence[ObservedLimit] = (),
        patience_ms: int = 5_000,
        horizon_ms: int = HORIZON_MS,
        opening: int = 4,
        now_ms: Clock | None = None,
        own_ms: Clock | None = None,
    ) -> None:
        self.service = service
        self.names = Names(namespace, service)
        self._redis = redis
        clock = CallerClock(own_ms or now_ms or since_boot_ms)
        self._scripts = Scripts(redis, root=self.names.root(), now_ms=now_ms, clock=clock)
        self.horizon_ms = horizon_ms
        self._cooldowns = cooldowns or CooldownPolicy()
        terms = {"lease_ms": lease_ms, "patience_ms": patience_ms, "opening": opening}
        self._terms = as_json(terms | {"limits": [stated(limit) for limit in limits]})
        self._directory = KeyDirectory(keys)
        self._has_read_keys = False

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys that the pool serves from."""
        return self._directory.keys

    def replace_keys(self, keys: Sequence[ApiKey]) -> None:
        """Replace the keys that the pool serves from. Leases already granted stay valid."""
        self._directory.replace(keys)

    def account_of(self, key: ApiKey) -> str:
        """Return the account that a key is known to belong to."""
        return self._directory.accounts[key.id]

    async def acquire(
        self, lease_request: LeaseRequest, line: Line | None = None
    ) -> Lease | NoLease:
        """Reserve one call.

        Args:
            lease_request: What the call needs.
            line: The line that the job stands in; None: it takes no part in the wait list.

        Returns:
            A lease, usable after its `wait_ms` (at most the horizon), or the reason for none.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        has_no_key = lease_request.account and not self._directory.candidates(lease_request).keys
        if has_no_key or not self._has_read_keys:
            await self._read_keys()  # another process may have learned the accounts of these keys
        for _ in range(_REMAPS):
            candidates = self._directory.candidates(lease_request)
            if not candidates.keys:
                return NoLease(
                    NoLeaseReason.GONE if lease_request.account else NoLeaseReason.NO_KEYS
                )
            lease_id = os.urandom(16).hex()  # not `random`, which a task may have seeded
            reply = await self._scripts.acquire(
                lease_id=lease_id,
                request=lease_request,
                line=line,
                horizon_ms=self._horizon_for(lease_request),
                terms=self._terms,
                candidates=candidates,
            )
            if reply[0] != "remap":
                return read_acquire(reply, lease_request, candidates, lease_id)
            self._directory.learn(dict(zip(reply[1::2], reply[2::2], strict=True)))
        raise AssertionError("the accounts of the keys change faster than they can be read")

    def _horizon_for(self, lease_request: LeaseRequest) -> int:
        """Return how far ahead a call of this job may be reserved, in milliseconds."""
        longest_ms = TENANT_HORIZON_MS if lease_request.tenant else self.horizon_ms
        return min(self.horizon_ms, BULK_HORIZON_MS if lease_request.bulk else longest_ms)

    async def leave(self, line: Line) -> None:
        """Remove a line that no job stands in any more from its wait list.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached. The line then soon counts as late,
                and another process removes it.
        """
        waiting = self.names.waiting(line.wait_list)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(waiting, line.id)
            pipe.zrem(f"{waiting}:due", line.id)
            await pipe.execute()

    async def confirm(self, lease: Lease) -> Lease | None:
        """Check that a lease may still be used after its wait.

        While a job waits for its instant, the key may be refused to another job or revoked. And if
        the provider counts in windows, calls that left late delay the next ones.

        Args:
            lease: A lease that had to wait, or whose job was delayed.

        Returns:
            The lease, whose `wait_ms` says how long it still has to wait (mostly 0; if not, confirm
            it again then). None if the lease has ended; it then cost nothing.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        wait_ms = await self._scripts.confirm(
            lease_id=lease.id,
            key_id=lease.key.id,
            account=lease.account,
            model=lease.request.model,
            resource=lease.request.resource,
        )
        return replace(lease, wait_ms=wait_ms) if wait_ms >= 0 else None

    async def extend(self, lease: Lease, emails: int) -> None:
        """Count further emails that go out with a lease's call against the quotas.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._scripts.extend(lease_id=lease.id, emails=emails)

    async def settle(self, lease: Lease, verdict: Verdict, *, again: bool = False) -> Settled:
        """End a lease with the verdict on the provider's answer.

        If the lease has expired, its charge is not corrected, but the limits and rests that the
        answer taught still hold. `again`: an earlier settle had no reply. If it arrived, the call
        is not counted a second time.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached. The lease then expires.
        """
        account = verdict.account or lease.account
        if account != lease.account:
            self._directory.learn({lease.key.id: account})
        settlement = report(
            lease,
            verdict,
            service=self.service,
            rest_ms=self._cooldowns.rest_ms(verdict),
            again=again,
        )
        reply = await self._scripts.settle(lease_id=lease.id, settlement=settlement)
        return read_settle(reply)

    async def _view_models(self) -> tuple[str, ...]:
        names = await self._redis.zrange(self.names.models, 0, -1)
        return tuple(str(model) for model in names) or ("",)

    async def snapshot(self) -> snapshots.PoolView:
        """Return the state of each key now, its reason and its end. Redis is never scanned."""
        await self._read_keys()
        models = await self._view_models()
        # A reload may replace keys and accounts while Redis is asked.
        keys, accounts = self.keys, self._directory.accounts
        records = [
            record
            for key in keys
            for record in (self.names.key(key.id), *self._pairs(accounts[key.id], models))
        ]
        seen = await self._scripts.snapshot(records=records)
        return snapshots.parse(
            seen, service=self.service, keys=keys, accounts=accounts, models=tuple(models)
        )

    def _pairs(self, account: str, models: Sequence[str]) -> list[str]:
        return [self.names.account_model(account, model) for model in models]

    async def _read_keys(self) -> None:
        """Read the accounts of keys, and which keys a person disabled with an earlier version."""
        keys = self.keys
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(self.names.key(key.id), "account", "person", "reason")
            records = dict(zip((key.id for key in keys), await pipe.execute(), strict=True))
        self._directory.learn(
            {key_id: fields[0] for key_id, fields in records.items() if fields[0]}
        )
        for key_id, (_, person, reason) in records.items():
            if person:
                await self.disable(key_id, by=person, reason=reason or "")
                await self._redis.hdel(self.names.key(key_id), "person")
        self._has_read_keys = True

    async def reset(
        self,
        *,
        by: str,
        key_id: str | None = None,
        include_disabled: bool | Collection[str] = False,
    ) -> ResetDone:
        """Clear the blocks of keys, and wake the jobs that wait.

        A key that a person disabled comes back only by a reset of that key, or by one that includes
        disabled keys.

        Args:
            by: The person or program that asked, for the audit stream.
            key_id: One key; default: the whole service.
            include_disabled: Whether keys that a person disabled come back, too; or the ids of the
                only such keys that come back.

        Returns:
            The cleared blocks, and the keys that stay disabled because a person disabled them.

        Raises:
            KeyError: This process has no key of that id.
        """
        await self._read_keys()
        self._check_known(key_id)
        keys = [key for key in self.keys if key_id in {None, key.id}]
        owners, models = self._names_of(keys), await self._view_models()
        named = () if isinstance(include_disabled, bool) else include_disabled
        all_disabled = include_disabled is True or (include_disabled is False and bool(key_id))
        rows = await self._scripts.reset(
            records=[pair for name in owners for pair in self._pairs(name, models)],
            by=by,
            scope="key" if key_id else "service",
            name=key_id or self.service,
            include_disabled=all_disabled,
            owners=list(owners),
        )
        done = resets.parse(rows, service=self.service, owners=owners, with_disabled=all_disabled)
        return await self._enable_some(done, named, by=by)

    def _names_of(self, keys: Sequence[ApiKey]) -> dict[str, str]:
        """Return what people call these keys and their accounts, by id."""
        names = {key.id: key.label for key in keys}
        # While the account of a key is unknown, the key's id stands for it.
        accounts = [self._directory.accounts[key.id] for key in keys]
        return names | {account: names.get(account, account) for account in accounts}

    async def latest_calls(self, key_id: str) -> list[LatestCall]:
        """Return the latest calls with a key, at most eight, the latest first.

        Raises:
            KeyError: This process has no key of that id.
        """
        self._check_known(key_id)
        text: Any = await self._redis.hget(self.names.key(key_id), "latest")
        return latest_calls.read(text)

    async def calls_of_job(self, job: str) -> list[tuple[ApiKey, LatestCall]]:
        """Return a job's calls among the latest calls with each key, the earliest first."""
        keys = self.keys
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(self.names.key(key.id), "latest")
            texts = await pipe.execute()
        calls = [
            (key, call)
            for key, text in zip(keys, texts, strict=True)
            for call in latest_calls.read(text)
            if call.job == job
        ]
        return sorted(calls, key=lambda pair: pair[1].at_ms)

    async def forget_unfit(self) -> None:
        """Clear the unfit marks, so that accounts are asked again for models that they lacked."""
        scopes = [str(scope) for scope in await self._redis.hkeys(self.names.blocks)]
        if unfit := [scope for scope in scopes if scope.startswith("unfit:")]:
            await self._redis.hdel(self.names.blocks, *unfit)

    async def audit(
        self, *, count: int = 100, before_ms: int | None = None, people_only: bool = False
    ) -> list[dict[str, str]]:
        """Return the latest entries of the audit stream, newest first; see `audit_trail.read`.

        Args:
            count: The maximum number of entries.
            before_ms: Only entries before this instant, in milliseconds since 1970.
            people_only: Only actions that a person or a program asked for.
        """
        stream = self.names.actions if people_only else self.names.audit
        return await audit_trail.read(
            self._redis, stream, keys=self.keys, count=count, before_ms=before_ms
        )
