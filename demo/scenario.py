"""The scenario: the incidents of the demo and their times, as calls that control the sandbox."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo.plan import MODELS
from sandbox.process import Sandbox

REVOKED = "groq:2"
"""The key that is revoked: one of the two keys that share an organisation."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident.

    Attributes:
        at_s: The time, in seconds after the first job was enqueued.
        words: What goes wrong, as people read it.
        verb: The control call.
        body: Its arguments.
    """

    at_s: float
    words: str
    verb: str
    body: dict[str, Any] = field(default_factory=dict)


def scenario(pace: float, *, organisation: str, team: str) -> list[Incident]:
    """Return the scenario.

    Args:
        pace: How long everything takes, relative to the full demo.
        organisation: The Groq organisation that is rate-limited alone.
        team: The Resend team that is rate-limited alone.
    """
    rest_s, faults_s = max(2, round(3 * pace)), 3 * pace
    # Longer than a job waits in its worker (5 s), so that jobs go back to their queue. A small
    # demo makes few calls, so it learns late that the keys are exhausted.
    exhausted_s = 8 if pace >= 1 else 10
    lost = 3

    def at(seconds: float) -> float:
        return seconds * pace

    # Incidents of one Groq organisation come once the limits of all are known. At the start, that
    # organisation would be the only one whose next free instant is known, and the jobs would wait
    # for it.
    return [
        # Before the first job, because waiting emails go out in batches and are soon all sent.
        Incident(
            0.0,
            f"Resend accepts the emails of {lost} calls but answers 500",
            "fault",
            {"service": "resend", "status": 500, "accept": True, "count": lost},
        ),
        Incident(
            at(1.5),
            f"Resend tells {team} to wait {rest_s} s",
            "exhaust",
            {"service": "resend", "account": team, "seconds": rest_s},
        ),
        Incident(
            at(3.5),
            f"Groq answers 500 to every third call for {faults_s:g} s",
            "fault",
            {"service": "groq", "status": 500, "share": 0.33, "seconds": faults_s},
        ),
        Incident(
            at(5),
            f"Groq switches {MODELS[0]} off",
            "standing",
            {"service": "groq", "model": MODELS[0], "code": "model_not_found"},
        ),
        Incident(
            at(6.5),
            f"Groq tells one organisation to wait {rest_s} s",
            "exhaust",
            {"service": "groq", "account": organisation, "seconds": rest_s},
        ),
        Incident(at(7.5), "Groq revokes one key", "revoke", {"key": REVOKED}),
        Incident(
            at(9),
            f"every Groq key is exhausted for {exhausted_s:g} s",
            "exhaust",
            {"service": "groq", "seconds": exhausted_s},
        ),
    ]


async def play(
    incidents: list[Incident], sandbox: Sandbox, report: Callable[[Incident], None]
) -> None:
    """Make the control calls at their times, counted from now.

    Args:
        incidents: The scenario, in order.
        sandbox: The sandbox.
        report: Called after each incident.
    """
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    for incident in incidents:
        await asyncio.sleep(max(0.0, start_s + incident.at_s - loop.time()))
        await asyncio.to_thread(sandbox.control, incident.verb, **incident.body)
        report(incident)
