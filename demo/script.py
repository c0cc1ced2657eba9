"""What goes wrong during the demo, and when: control calls to the provider sandbox."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo.plan import MODELS
from sandbox.process import Sandbox

REVOKED = "groq:2"
"""The key that is revoked: one of the two that share an organisation."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One control call.

    Attributes:
        at_s: When, in seconds after the jobs are there.
        words: What it means, for the view.
        verb: The control call.
        body: What it is given.
    """

    at_s: float
    words: str
    verb: str
    body: dict[str, Any] = field(default_factory=dict)


def happenings(pace: float, *, organisation: str, team: str) -> list[Happening]:
    """The script.

    Args:
        pace: How long everything takes, relative to the full demo.
        organisation: The Groq organisation that is rate-limited alone.
        team: The Resend team that is rate-limited alone.
    """
    rest_s, faults_s, exhausted_s = max(2, round(3 * pace)), 3 * pace, round(8 * pace, 1)
    lost = 3

    def at(seconds: float) -> float:
        return seconds * pace

    # What concerns one Groq organisation comes when the limits of all are known: refused alone at
    # the start, it would be the only one that can promise anything, and the jobs would line up
    # behind it.
    return [
        # At once, because emails that wait go out many at a time, and are soon all sent.
        Happening(
            0.0,
            f"Resend accepts what {lost} calls bring but answers 500",
            "fault",
            {"service": "resend", "status": 500, "accept": True, "count": lost},
        ),
        Happening(
            at(1.5),
            f"Resend tells {team} to wait {rest_s} s",
            "exhaust",
            {"service": "resend", "account": team, "seconds": rest_s},
        ),
        Happening(
            at(3.5),
            f"Groq answers 500 to every third call for {faults_s:g} s",
            "fault",
            {"service": "groq", "status": 500, "share": 0.33, "seconds": faults_s},
        ),
        Happening(
            at(5),
            f"Groq switches {MODELS[0]} off",
            "standing",
            {"service": "groq", "model": MODELS[0], "code": "model_not_found"},
        ),
        Happening(
            at(6.5),
            f"Groq tells one organisation to wait {rest_s} s",
            "exhaust",
            {"service": "groq", "account": organisation, "seconds": rest_s},
        ),
        Happening(at(7.5), "Groq revokes one key", "revoke", {"key": REVOKED}),
        Happening(
            at(9),
            f"every Groq key is exhausted for {exhausted_s:g} s",
            "exhaust",
            {"service": "groq", "seconds": exhausted_s},
        ),
    ]


async def play(
    script: list[Happening], sandbox: Sandbox, tell: Callable[[Happening], None]
) -> None:
    """Make the control calls at their times, counted from now.

    Args:
        script: What happens, in order.
        sandbox: Where.
        tell: Is called after each.
    """
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    for happening in script:
        await asyncio.sleep(max(0.0, start_s + happening.at_s - loop.time()))
        await asyncio.to_thread(sandbox.control, happening.verb, **happening.body)
        tell(happening)
