"""Carries out what people ask for: disable or enable a key, keep a note, record a reload.

It also lets a worker reinstate keys that were disabled because of a faulty request.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from config.api_key import ApiKey
from worker.keypool.leases import Lease
from worker.keypool.resets import ResetDone
from worker.keypool.scripts import ManualAction, Scripts


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier disabling of a key or service by a person, still in force.

    Attributes:
        left_ms: How much longer it lasts, in milliseconds; None: without end.
        by: The person.
        reason: The reason that the person gave.
    """

    left_ms: int | None
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Disabled:
    """The result of a request to disable a key or a service.

    Attributes:
        newly: The key or service was not disabled until now.
        left_ms: How long it stays disabled, in milliseconds; None: without end.
        before: The earlier disabling by a person, if there was one. If that has no end, it stays.
    """

    newly: bool
    left_ms: int | None
    before: Earlier | None

    @property
    def stays(self) -> bool:
        """Whether nothing has changed, because a person had disabled it before without an end."""
        return self.before is not None and self.before.left_ms is None

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types, for the endpoints."""
        before = self.before and {
            "left_ms": self.before.left_ms,
            "by": self.before.by,
            "reason": self.before.reason,
        }
        return {"newly": self.newly, "left_ms": self.left_ms, "before": before}


class ManualActions:
    """The part of a key pool that acts for people."""

    service: str
    _scripts: Scripts

    @property
    def keys(self) -> Sequence[ApiKey]:
        """The keys that the pool serves from."""
        raise NotImplementedError

    async def disable(
        self,
        key_id: str | None,
        *,
        by: str,
        reason: str = "by hand",
        for_ms: int | None = None,
    ) -> Disabled:
        """Disable a key for a time, or until a person brings it back. Calls in flight continue.

        A time replaces an earlier one. If a person had disabled the key without an end, that stays:
        otherwise the key would come back although somebody wants it to stay out.

        Args:
            key_id: The key; None: all keys, also those of other processes and later ones.
            by: The person or program that asked, for the audit stream.
            reason: The reason, for the audit stream and the views.
            for_ms: How long, in milliseconds; None: without end.

        Raises:
            KeyError: This process has no key of that id.
        """
        newly, *found = await self._act("disabled", key_id, by=by, words=reason, for_ms=for_ms)
        if not found:
            return Disabled(bool(newly), for_ms, None)
        left_ms, person, reason = found
        before = Earlier(None if int(left_ms) < 0 else int(left_ms), person, reason)
        return Disabled(bool(newly), None if before.left_ms is None else for_ms, before)

    async def enable(self, key_id: str | None, *, by: str) -> bool:
        """Enable a key, or all keys (None), that a person had disabled.

        Returns:
            False if no person had disabled it.

        Raises:
            KeyError: This process has no key of that id.
        """
        return bool((await self._act("enabled", key_id, by=by))[0])

    async def _enable_some(
        self, done: ResetDone, key_ids: Collection[str], *, by: str
    ) -> ResetDone:
        """Enable some of the keys that a reset left disabled, and count them as brought back."""
        back = [
            block
            for block in done.left_disabled
            if block.key in key_ids and await self.enable(block.key, by=by)
        ]
        left = tuple(block for block in done.left_disabled if block not in back)
        return ResetDone((*done.brought_back, *back), left)

    async def note(self, key_id: str, text: str, *, by: str) -> None:
        """Keep a note on a key. It replaces an earlier note; an empty text removes it.

        Raises:
            KeyError: This process has no key of that id.
        """
        await self._act("noted", key_id, by=by, words=text)

    async def reinstate(self, leases: Iterable[Lease]) -> None:
        """Reinstate the keys that were refused for one request, which is at fault.

        Args:
            leases: Leases of one job. No other job's settle had disabled the keys of these leases.
        """
        words = "the request was at fault"
        await asyncio.gather(
            *(
                self._scripts.by_hand(
                    "reinstated",
                    by=lease.request.by,
                    service=self.service,
                    key_id=lease.key.id,
                    words=words,
                )
                for lease in leases
            )
        )

    async def _act(
        self,
        action: ManualAction,
        key_id: str | None,
        *,
        by: str,
        words: str = "",
        for_ms: int | None = None,
    ) -> list[Any]:
        self._check_known(key_id)
        return await self._scripts.by_hand(
            action, by=by, service=self.service, key_id=key_id, words=words, for_ms=for_ms
        )

    async def note_reload(self, outcome: str, *, by: str) -> None:
        """Record in the audit stream a reload that a person asked for, and its outcome."""
        await self._act("reloaded", None, by=by, words=outcome)

    def _check_known(self, key_id: str | None) -> None:
        if key_id is not None and all(key.id != key_id for key in self.keys):
            raise KeyError(key_id)
