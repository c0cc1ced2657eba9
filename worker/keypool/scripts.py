"""The pool's Lua scripts, each as one typed method: one verb, one round trip."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from worker.redis.autopipeline import AutoPipeline, pipeline_of
from worker.redis.resp import Argument, Encoded, encode

_REQUIRES = "-- requires: "

as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""How a script is told of what has parts.

What has none goes as a word of its own, which Redis need not read.
"""


def source(verb: str) -> str:
    """The whole text of one verb's script, as Redis runs it.

    Its first line names the libraries in `lua/lib/` that it requires, and in which order.
    """
    folder = resources.files("worker.keypool") / "lua"
    text = (folder / f"{verb}.lua").read_text("utf-8")
    names = text.splitlines()[0].removeprefix(_REQUIRES).split(", ")
    libraries = [(folder / "lib" / f"{name}.lua").read_text("utf-8") for name in names]
    return "\n".join([*libraries, text])


class Script:
    """One script on one Redis. Where the server has lost it (restart, flush), it is loaded again.

    Args:
        wire: The way to Redis.
        text: The script, as Redis runs it.
    """

    def __init__(self, wire: AutoPipeline, text: str) -> None:
        self._wire = wire
        self._text = text
        digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._evalsha = encode("EVALSHA", digest)

    async def __call__(self, keys: Encoded, *args: Argument | Encoded) -> Any:
        """Run it; `keys` begin with how many they are."""
        try:
            return await self._wire.send(self._evalsha, keys, *args)
        except NoScriptError:
            await self._wire.send("SCRIPT", "LOAD", self._text)
            return await self._wire.send(self._evalsha, keys, *args)


def keys_of(names: Sequence[str]) -> Encoded:
    """Write the keys of a script, and before them how many they are."""
    return encode(len(names), *names)


class Scripts:
    """Calls the scripts on one Redis.

    A script that the server has lost (restart, flush) is loaded again by itself.

    Args:
        redis: A client that decodes responses to text.
        root: What the names of all records begin with.
        now_ms: A clock for tests, in milliseconds. Default: Redis' own.
    """

    def __init__(self, redis: Redis, *, root: str, now_ms: "Clock | None" = None) -> None:
        self._now_ms = now_ms
        self._root_name, self._root, wire = root, keys_of([root]), pipeline_of(redis)
        self._acquire = Script(wire, source("acquire"))
        self._confirm = Script(wire, source("confirm"))
        self._extend = Script(wire, source("extend"))
        self._settle = Script(wire, source("settle"))
        self._reset = Script(wire, source("reset"))
        self._disable = Script(wire, source("disable"))
        self._reinstate = Script(wire, source("reinstate"))
        self._snapshot = Script(wire, source("snapshot"))

    def _now(self) -> Argument:
        return self._now_ms() if self._now_ms else ""

    async def acquire(self, lease_id: str, *said: Argument | Encoded) -> list[Any]:
        """Reserve a call; see acquire.lua for what is said and answered."""
        return list(await self._acquire(self._root, self._now(), lease_id, *said))

    async def confirm(
        self, *, lease_id: str, key_id: str, account: str, model: str, resource: str
    ) -> int:
        """Check a lease after its wait; see confirm.lua."""
        return int(
            await self._confirm(self._root, self._now(), lease_id, key_id, account, model, resource)
        )

    async def extend(self, *, lease_id: str, account: str, model: str, emails: int) -> None:
        """Reserve emails that go along; see extend.lua."""
        await self._extend(self._root, self._now(), lease_id, account, model, emails)

    async def settle(self, *, lease_id: str, said: Mapping[str, object]) -> list[Any]:
        """End a lease with its verdict; see settle.lua for what is said and answered."""
        return list(await self._settle(self._root, self._now(), lease_id, as_json(said)))

    async def reset(
        self,
        *,
        records: Sequence[str],
        by: str,
        scope: str,
        name: str,
        include_disabled: bool,
    ) -> list[list[Any]]:
        """Clear records; returns the blocks that held, as reset.lua tells them."""
        told = (by, scope, name, "1" if include_disabled else "")
        return list(await self._reset(keys_of([self._root_name, *records]), self._now(), *told))

    async def disable(self, *, by: str, key_id: str, reason: str) -> bool:
        """Disable one key; returns False where it was disabled already."""
        return bool(await self._disable(self._root, self._now(), by, key_id, reason))

    async def reinstate(self, *, by: str, reason: str, key_ids: Sequence[str]) -> bool:
        """Bring keys back that a request was at fault for.

        Returns False where nothing says that it was.
        """
        return bool(await self._reinstate(self._root, self._now(), by, reason, *key_ids))

    async def snapshot(self, *, records: Sequence[str]) -> str:
        """The records as JSON text; see snapshot.lua."""
        return str(await self._snapshot(keys_of([self._root_name, *records]), self._now()))


class Clock(Protocol):
    """A clock for tests: whole milliseconds."""

    def __call__(self) -> int:
        """Now."""
        ...


if __name__ == "__main__":
    sys.stdout.write(source(sys.argv[1]))
