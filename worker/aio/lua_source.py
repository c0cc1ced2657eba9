"""Reads Lua scripts from the folder `lua` of a package."""

from functools import cache
from importlib import resources
from typing import Final

_REQUIRES: Final = "-- requires: "
_NOTHING: Final = "nothing"


@cache
def source(package: str, name: str) -> str:
    """Read a script, with the libraries that its first line requires and without comments.

    The first line of `lua/NAME.lua` names the required libraries in `lua/lib/`:
    `-- requires: prelude, buckets`, or `-- requires: nothing`. They come first, in that order.
    Comments are removed because some scripts are sent with each call.

    Args:
        package: The package with the folder `lua`, such as `worker.emails.idempotency`.
        name: The name of the script's file, without `.lua`.

    Raises:
        ValueError: The first line does not name the libraries that the script requires.
    """
    folder = resources.files(package) / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    first = text.partition("\n")[0]
    if not first.startswith(_REQUIRES):
        raise ValueError(f"{package}: the first line of {name}.lua must begin with {_REQUIRES}")
    required = [part for part in first.removeprefix(_REQUIRES).split(", ") if part != _NOTHING]
    libraries = [(folder / "lib" / f"{part}.lua").read_text("utf-8") for part in required]
    lines = "\n".join([*libraries, text]).splitlines()
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("--"))
