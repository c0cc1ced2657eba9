"""Calls the pool's Lua scripts: one typed method and one round trip for each script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis.asyncio import Redis

from worker.aio.lua_source import source
from worker.keypool.caller_clock import CallerClock
from worker.keypool.candidates import Candidates
from worker.keypool.leases import Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.redis.autopipeline import pipeline_of
from worker.redis.lua import Clock, Script, keys_of
from worker.redis.resp import Argument
from worker.verdicts import Dimension

as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Encodes a structured argument of a script. Simple arguments are passed as they are."""


ManualAction = Literal["disabled", "enabled", "noted", "reloaded", "reinstated"]
_OF_ALL: Final = {"disabled": "paused", "enabled": "resumed", "reloaded": "reloaded"}
"""The event in the audit stream for an action on all keys of a service."""


class Scripts:
    """Calls the scripts on one Redis.

    A script that the server has lost (restart, flush) is loaded again automatically.

    Args:
        redis: A client that decodes responses to text.
        root: The beginning of all records' names.
        now_ms: A clock for tests, in milliseconds. Default: Redis' clock.
        clock: Gives the caller's lower bound of the pool's time.
    """

    def __init__(
        self, redis: Redis, *, root: str, now_ms: Clock | None = None, clock: CallerClock
    ) -> None:
        self._now_ms, self._clock = now_ms, clock
        self._root_name, self._root, pipeline = root, keys_of([root]), pipeline_of(redis)

        def script(verb: str) -> Script:
            return Script(pipeline, source(__package__, verb))

        self._acquire = script("acquire")
        self._confirm = script("confirm")
        self._extend = script("extend")
        self._settle = script("settle")
        self._reset = script("reset")
        self._by_hand = script("by_hand")
        self._snapshot = script("snapshot")

    def _now(self) -> Argument:
        least_ms, test_ms = self._clock.least_ms(), self._now_ms() if self._now_ms else ""
        return test_ms if least_ms is None else f"{test_ms}>{least_ms}"

    async def acquire(
        self,
        *,
        lease_id: str,
        request: LeaseRequest,
        line: Line | None,
        horizon_ms: int,
        terms: str,
        candidates: Candidates,
    ) -> list[Any]:
        """Reserve a call; `read_acquire` lists the replies of acquire.lua.

        Most names in the job's JSON are those of `LeaseRequest` and `Line`. The others are `lease`
        (the id), `list`, `line`, `listed` (the line is in the list) and `cost` (requests, tokens
        and so on).

        Args:
            lease_id: The id of the lease, if one is granted.
            request: What the call needs.
            line: The line that the job stands in, if it stands in one.
            horizon_ms: How far ahead the call may be reserved, in milliseconds.
            terms: The pool's parameters for all calls, as JSON.
            candidates: The keys that may serve.
        """
        job: dict[str, object] = {
            "lease": lease_id,
            "by": request.by,
            "models": request.models,
            "cost": {
                "requests": 1,
                "tokens": request.tokens,
                "input_tokens": request.input_tokens,
                "output_tokens": request.output_tokens,
                "emails": request.emails,
            },
            "flexible": request.flexible,
            "bulk": request.bulk,
            "horizon_ms": horizon_ms,
            "waited_ms": request.waited_ms,
        }
        if line is not None:
            job |= {"list": line.wait_list, "line": line.id, "listed": line.entered}
            if line.next_waited_ms is not None:
                job["next_waited_ms"] = line.next_waited_ms
        reply = await self._acquire(
            self._root, self._now(), as_json(job), terms, candidates.arguments
        )
        return list(reply)

    async def confirm(
        self, *, lease_id: str, key_id: str, account: str, model: str, resource: str
    ) -> int:
        """Check a lease after its wait; see confirm.lua.

        Returns:
            How long the lease still has to wait, in milliseconds (0: the call may begin); -1: the
            lease has ended.
        """
        return int(
            await self._confirm(self._root, self._now(), lease_id, key_id, account, model, resource)
        )

    async def extend(self, *, lease_id: str, emails: int) -> None:
        """Reserve further emails that go with a lease's call; see extend.lua."""
        await self._extend(self._root, self._now(), lease_id, emails)

    async def settle(self, *, lease_id: str, settlement: Mapping[str, object]) -> list[Any]:
        """End a lease with its verdict; `settlement.report` makes the settlement.

        Returns:
            The reply of settle.lua without its first part, the time by the pool's clock.
        """
        began_ms, arguments = self._clock.own_ms(), as_json(settlement)
        now_ms, *reply = await self._settle(self._root, self._now(), lease_id, arguments)
        self._clock.read(now_ms, began_ms=began_ms)
        return list(reply)

    async def reset(
        self,
        *,
        records: Sequence[str],
        by: str,
        scope: str,
        name: str,
        include_disabled: bool,
        owners: Sequence[str],
    ) -> list[list[Any]]:
        """Clear the blocks of keys and accounts, and of the host and the models.

        Args:
            records: The records of accounts × models.
            by: The person or program that asked.
            scope: `service` or `key`, for the audit stream.
            name: The service's name, or the key's id, for the audit stream.
            include_disabled: Whether keys that a person disabled come back, too.
            owners: The ids of the keys, and their accounts.

        Returns:
            The blocks that the script met, each with its scope, 1 if it had no end, its reason, and
            the task or person that caused it.
        """
        arguments = (by, scope, name, "1" if include_disabled else "", *owners)
        return list(
            await self._reset(keys_of([self._root_name, *records]), self._now(), *arguments)
        )

    async def by_hand(
        self,
        action: ManualAction,
        *,
        by: str,
        service: str,
        key_id: str | None,
        words: str,
        for_ms: int | None = None,
    ) -> list[Any]:
        """Carry out an action on one key or all keys, and record it in the audit stream.

        Args:
            action: The action.
            by: The person; or the job whose request was at fault.
            service: The service's name.
            key_id: The key; None: the whole service.
            words: A reason, a note, or the outcome of a reload.
            for_ms: How long a key is disabled, in milliseconds; None: without end.

        Returns:
            First 1; or 0 if the key to disable was disabled already, or if the key to enable or
            reinstate was not disabled by a person or by that job. Then, if a person had disabled
            the key before: how much longer, in milliseconds (-1: without end, and that stays), the
            person, and the reason.
        """
        event, kind = (action, "key") if key_id else (_OF_ALL[action], "service")
        ends, name = "" if for_ms is None else for_ms, key_id or service
        arguments = (by, key_id or "", words, ends, event, kind, name)
        return list(await self._by_hand(self._root, self._now(), *arguments))

    async def snapshot(self, *, records: Sequence[str]) -> dict[str, Any]:
        """Read all blocks and these records, of keys and of accounts × models, at one instant.

        Returns:
            `now_ms` by the pool's clock, and `redis_ms` by Redis' clock; `blocks` by scope, whose
            `until_ms` is -1 if the block has no end; `records`, each with its fields, and with its
            `buckets` by dimension, if any.
        """
        began_ms = self._clock.own_ms()
        text = await self._snapshot(keys_of([self._root_name, *records]), self._now())
        seen: dict[str, Any] = json.loads(text)
        self._clock.read(int(seen["now_ms"]), began_ms=began_ms)
        return seen


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of a settle.

    Attributes:
        late: The lease had ended before the settle.
        blocked: The verdict blocked a scope.
        newly: The scope was not blocked before this settle.
        passing: Another call of this model succeeded after this one began, so the failure is this
            request's own.
        alone: Only this job's answer blocks the key, which had served other jobs shortly before.
        learned: The limits that were learned, such as `rpm=30`.
    """

    late: bool
    blocked: bool
    newly: bool
    passing: bool = False
    alone: bool = False
    learned: tuple[str, ...] = ()


def read_acquire(
    reply: list[Any], request: LeaseRequest, candidates: Candidates, lease_id: str
) -> Lease | NoLease:
    """Parse the reply to an acquire.

    Args:
        reply: The reply of acquire.lua, in the order of the patterns below. `index` is the number
            of the candidate and `which` that of the model, both from 1; `spare` is -1 if no quota
            of emails is known.
        request: The request.
        candidates: The keys to choose from.
        lease_id: The id of the lease, if one was granted.
    """
    match reply:
        case ["lease", index, wait_ms, spare, output_tokens, capped, which]:
            number, more = int(index) - 1, None if int(spare) < 0 else int(spare)
            key, account = candidates.keys[number], candidates.accounts[number]
            return Lease(
                lease_id,
                key,
                account,
                request.reserving(int(output_tokens)).taking(int(which) - 1),
                int(wait_ms),
                more,
                capped=bool(capped),
            )
        case [("wait" | "busy") as why, ask_in_ms, reason, first_in_ms]:
            return NoLease(
                NoLeaseReason(why),
                ask_in_ms=int(ask_in_ms),
                first_in_ms=int(first_in_ms),
                reason=str(reason),
            )
        case ["resting", first_in_ms, reason]:
            return NoLease(NoLeaseReason.RESTING, first_in_ms=int(first_in_ms), reason=str(reason))
        case [("disabled" | "unfit") as why, reason]:
            return NoLease(NoLeaseReason(why), reason=str(reason))
        case ["too_large", limit, dimension]:
            return NoLease(
                NoLeaseReason.TOO_LARGE, limit=int(limit), dimension=Dimension(dimension)
            )
    raise AssertionError(f"acquire.lua answered {reply!r}")


def read_settle(reply: list[Any]) -> Settled:
    """Parse the reply to a settle.

    Args:
        reply: The reply of settle.lua, without the time.
    """
    return Settled(
        late=reply[0] == "late",
        blocked=bool(reply[1]),
        newly=bool(reply[2]),
        passing=bool(reply[3]),
        alone=bool(reply[4]),
        learned=tuple(reply[5:]),
    )
