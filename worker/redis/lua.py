"""Runs Lua scripts on Redis by their hash, and loads a script that Redis does not have.

`python -m worker.redis.lua worker.keypool acquire` prints a script as Redis runs it.
"""

import hashlib
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import NoScriptError

from worker.aio.lua_source import source
from worker.redis.autopipeline import AutoPipeline
from worker.redis.resp import Argument, Encoded, encode


class Clock(Protocol):
    """A clock for tests, in place of Redis' own."""

    def __call__(self) -> int:
        """Return the time in whole milliseconds since 1970."""
        ...


class Script:
    """A script on one Redis. It is loaded again if the server has lost it (restart, flush).

    Args:
        pipeline: The connection to Redis.
        text: The script, as Redis runs it.
    """

    def __init__(self, pipeline: AutoPipeline, text: str) -> None:
        self._pipeline = pipeline
        self._text = text
        digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._evalsha = encode("EVALSHA", digest)

    async def __call__(self, keys: Encoded, *args: Argument | Encoded) -> Any:
        """Run the script.

        Args:
            keys: The names of the records that the script touches, encoded by `keys_of`.
            *args: The script's other arguments.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or rejects the script.
        """
        try:
            return await self._pipeline.send(self._evalsha, keys, *args)
        except NoScriptError:
            await self._pipeline.send("SCRIPT", "LOAD", self._text)
            return await self._pipeline.send(self._evalsha, keys, *args)


def keys_of(names: Sequence[str]) -> Encoded:
    """Encode the number of a script's records, and then their names."""
    return encode(len(names), *names)


def _print_one() -> None:
    import argparse  # noqa: PLC0415 - workers do not need it

    parser = argparse.ArgumentParser(
        prog="python -m worker.redis.lua", description="Prints a Lua script as Redis runs it."
    )
    parser.add_argument("package", help="the package with the folder lua, such as worker.keypool")
    parser.add_argument("verb", help="the script, such as acquire")
    options = parser.parse_args()
    try:
        sys.stdout.write(source(options.package, options.verb))
    except (ImportError, OSError, ValueError, TypeError):
        parser.error(f"there is no script {options.verb} in {options.package}")


if __name__ == "__main__":
    _print_one()
