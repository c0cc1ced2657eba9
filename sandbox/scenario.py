"""A scenario: control calls at given times.

    {"starts": "first_call",
     "steps": [{"at_s": 5, "do": "exhaust", "service": "groq", "seconds": 10},
               {"at_s": 20, "do": "revoke", "key": "groq:2"}]}

`starts` is `ready` (when the server listens, the default) or `first_call` (when a provider is first
called). A plain list of steps starts when the server listens.
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.control import Control


@dataclass(frozen=True, slots=True)
class Step:
    """One control call.

    Attributes:
        at_s: The time, in seconds after the start.
        do: The verb.
        body: Its arguments.
    """

    at_s: float
    do: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The steps in the order of their times."""

    steps: tuple[Step, ...]
    starts: str = "ready"


def read_scenario(path: Path, verbs: tuple[str, ...]) -> Scenario:
    """Read a scenario.

    Args:
        path: A JSON file.
        verbs: The control calls that exist.

    Raises:
        ValueError: The file is not a valid scenario; the message names the step.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ValueError(f"{path}: {exc}") from exc
    if isinstance(content, list):
        content = {"steps": content}
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise ValueError(  # noqa: TRY004 - one kind of error for a bad file
            f"{path}: must be a list of steps, or an object with `steps`"
        )
    starts = content.get("starts", "ready")
    if starts not in {"ready", "first_call"}:
        raise ValueError(f"{path}: starts must be ready or first_call")
    steps = [_step(path, number, entry, verbs) for number, entry in enumerate(content["steps"])]
    return Scenario(tuple(sorted(steps, key=lambda step: step.at_s)), starts)


def _step(path: Path, number: int, entry: Any, verbs: tuple[str, ...]) -> Step:
    where = f"{path}: steps[{number}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object")  # noqa: TRY004
    at_s, verb = entry.get("at_s"), entry.get("do")
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or at_s < 0:
        raise ValueError(f"{where}.at_s must be a number of seconds")
    if verb not in verbs:
        raise ValueError(f"{where}.do must be one of {', '.join(verbs)}")
    return Step(
        at_s,
        str(verb),
        {name: value for name, value in entry.items() if name not in {"at_s", "do"}},
    )


async def play(scenario: Scenario, control: Control) -> None:
    """Make the control calls at their times, counted from now.

    Raises:
        ControlError: A step is wrong.
    """
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    for step in scenario.steps:
        await asyncio.sleep(max(0.0, start_s + step.at_s - loop.time()))
        control.apply(step.do, step.body)
