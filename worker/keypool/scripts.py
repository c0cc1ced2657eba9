"""The pool's Lua scripts, each as one typed method: one verb, one round trip."""

from collections.abc import Sequence
from importlib import resources
from typing import Any, Protocol

from redis.asyncio import Redis

_FRAGMENTS = {
    "acquire": ("prelude", "lines", "choice", "acquire"),
    "confirm": ("prelude", "confirm"),
    "carry": ("prelude", "carry"),
    "settle": ("prelude", "learn", "settle"),
    "reset": ("prelude", "reset"),
    "disable": ("prelude", "disable"),
    "absolve": ("prelude", "absolve"),
    "snapshot": ("prelude", "snapshot"),
}

Arg = str | int | float


class _Script(Protocol):
    async def __call__(self, keys: Sequence[str], args: Sequence[Arg]) -> Any: ...


def source(verb: str) -> str:
    """The whole text of one verb's script, as Redis runs it."""
    folder = resources.files("worker.keypool") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in _FRAGMENTS[verb])


class Scripts:
    """Calls the scripts on one Redis. A script that the server has lost (restart, flush) is loaded again by itself.

    Args:
        redis: A client that decodes responses to text.
        now_ms: A clock for tests, in milliseconds. Default: Redis' own.
    """

    def __init__(self, redis: Redis, *, now_ms: "Clock | None" = None) -> None:
        self._now_ms = now_ms
        self._acquire: _Script = redis.register_script(source("acquire"))
        self._confirm: _Script = redis.register_script(source("confirm"))
        self._carry: _Script = redis.register_script(source("carry"))
        self._settle: _Script = redis.register_script(source("settle"))
        self._reset: _Script = redis.register_script(source("reset"))
        self._disable: _Script = redis.register_script(source("disable"))
        self._absolve: _Script = redis.register_script(source("absolve"))
        self._snapshot: _Script = redis.register_script(source("snapshot"))

    def _now(self) -> Arg:
        return self._now_ms() if self._now_ms else ""

    async def acquire(self, *, keys: Sequence[str], args: Sequence[Arg]) -> list[Any]:
        """Reserve a call; see acquire.lua for the reply."""
        return list(await self._acquire(keys=keys, args=[self._now(), *args]))

    async def confirm(self, *, keys: Sequence[str], lease_id: str, topic: str) -> list[Any]:
        """Check a lease after its wait; see confirm.lua."""
        return list(await self._confirm(keys=keys, args=[self._now(), lease_id, topic]))

    async def carry(self, *, keys: Sequence[str], lease_id: str, emails: int) -> None:
        """Reserve emails that go along; see carry.lua."""
        await self._carry(keys=keys, args=[self._now(), lease_id, emails])

    async def settle(self, *, keys: Sequence[str], args: Sequence[Arg]) -> list[Any]:
        """End a lease with its verdict; see settle.lua."""
        return list(await self._settle(keys=keys, args=[self._now(), *args]))

    async def reset(self, *, keys: Sequence[str], by: str, what: str, channel: str) -> int:
        """Clear records; returns how many were blocked."""
        return int(await self._reset(keys=keys, args=[self._now(), by, what, channel]))

    async def disable(self, *, keys: Sequence[str], by: str, key_id: str, reason: str) -> bool:
        """Disable one key; returns False where it was disabled already."""
        return bool(await self._disable(keys=keys, args=[self._now(), by, key_id, reason]))

    async def absolve(self, *, keys: Sequence[str], by: str, reason: str, key_ids: Sequence[str]) -> bool:
        """Free keys that a request was at fault for; returns False where nothing says that it was."""
        return bool(await self._absolve(keys=keys, args=[self._now(), by, reason, *key_ids]))

    async def snapshot(self, *, keys: Sequence[str]) -> str:
        """The records as JSON text; see snapshot.lua."""
        return str(await self._snapshot(keys=keys, args=[self._now()]))


class Clock(Protocol):
    """A clock for tests: whole milliseconds."""

    def __call__(self) -> int:
        """Now."""
        ...
