"""The situations of the rotation benchmark, and what their keys allow.

Allowed is what a scheduler could have had accepted that knew every limit and what was to come: each
account's burst and what it refills until the end, never more than was offered. A key that is
revoked counts with its burst and its refill until then, as they could have been spent before; one
that answers 500 counts in full, as such answers cost nothing of its limit.
"""

import itertools
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

PROMPT_TOKENS = 2  # of the child's prompt, as the sandbox counts


@dataclass(frozen=True)
class Load:
    """Jobs at a steady rate, dealt to the processes in turn.

    Attributes:
        rate: Jobs a second, of all processes together.
        processes: How many offer them.
        seconds: For how long.
    """

    rate: float
    processes: int
    seconds: float

    def due(self, until_s: float) -> list[int]:
        """How many jobs of each process are due before then."""
        jobs = min(until_s, self.seconds) * self.rate
        return [
            math.ceil(max(0.0, jobs - number) / self.processes) for number in range(self.processes)
        ]


@dataclass(frozen=True)
class Scenario:
    """One situation.

    Attributes:
        name: For the table.
        says: What happens, in a few words.
        service: `groq` or `resend`.
        accounts: The sandbox's accounts file.
        tokens: What the jobs reserve for their answers, in turn, in tokens.
        steps: A script of faults, with `at_s`.
        options: Further options of the sandbox.
    """

    name: str
    says: str
    service: str
    accounts: dict[str, Any]
    tokens: tuple[int, ...] = (40,)
    steps: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def owners(self) -> list[dict[str, Any]]:
        """The accounts of the service."""
        return list(self.accounts[self.service])

    @property
    def by_tokens(self) -> bool:
        """Whether tokens are what the keys are short of, and not calls."""
        return any(owner.get("tpm") for owner in self.owners)

    @property
    def worths(self) -> tuple[int, ...]:
        """What each job counts, in turn.

        The tokens that it uses where they are short, else one call.
        """
        if not self.by_tokens:
            return (1,)
        return tuple(
            PROMPT_TOKENS + min(size, self.options["groq_completion_tokens"])
            for size in self.tokens
        )

    @property
    def per_second(self) -> float:
        """Jobs that all keys together allow a second, once their burst is used up."""
        return sum(_refill(owner) for owner in self.owners) / statistics.mean(self.worths)

    @property
    def outage(self) -> dict[str, Any] | None:
        """The step that takes every key away for a while."""
        return next((step for step in self.steps if step["do"] == "exhaust"), None)

    def offered(self, load: Load, until_s: float) -> int:
        """What the jobs count that are due before then."""
        return sum(
            sum(itertools.islice(itertools.cycle(self.worths), due)) for due in load.due(until_s)
        )

    def allowed(self, load: Load, seconds: float) -> float:
        """Return how much of the offer could be accepted within a time, in calls or in tokens."""
        # By the account's place, which is the key's as each has one.
        revoked = {
            int(step["key"][5:]) - 1: step["at_s"] for step in self.steps if step["do"] == "revoke"
        }
        # What the last job reserved and did not use had to be free, and no other could use it.
        spare = min(self.tokens) + PROMPT_TOKENS - min(self.worths) if self.by_tokens else 0

        def fits(until_s: float) -> float:
            return sum(
                _fits(owner, min(until_s, revoked.get(number, until_s))) - spare
                for number, owner in enumerate(self.owners)
            )

        offered = self.offered(load, seconds)
        if self.outage is None or seconds <= self.outage["at_s"]:
            return min(offered, fits(seconds))
        begins_s = self.outage["at_s"]
        before = min(self.offered(load, begins_s), fits(begins_s))
        # The sandbox leaves room for one call of each account, whatever refilled meanwhile.
        left_s = seconds - begins_s - self.outage["seconds"]
        after = len(self.owners) + self.per_second * left_s if left_s > 0 else 0
        return min(offered, before + after)


def _refill(owner: dict[str, Any]) -> float:
    """Calls or tokens that an account allows a second, once its burst is used up."""
    return float(owner["rps"] if "rps" in owner else (owner["tpm"] or owner["rpm"]) / 60)


def _fits(owner: dict[str, Any], until_s: float) -> float:
    """Calls or tokens that an account allows from the start until then."""
    if "rps" in owner:  # windows of a second, the first one at the start
        calls = owner["rps"] * (math.floor(until_s) + 1)
        return min(calls, owner["daily"] or calls)
    return (owner["tpm"] or owner["rpm"]) * (1 + until_s / 60)


def _groq(*rpms: int, keys: tuple[int, ...] = (), **limits: int) -> dict[str, Any]:
    base = {"rpd": 0, "tpm": 0, "tpd": 0} | limits
    return {
        "groq": [
            {"account": f"org_{n}", "keys": keys[n] if keys else 1, "rpm": rpm} | base
            for n, rpm in enumerate(rpms)
        ],
        "resend": [],
    }


SCENARIOS = (
    Scenario("equal", "5 equal keys", "groq", _groq(*[300] * 5)),
    Scenario(
        "unequal",
        "unequal keys, two of one organisation",
        "groq",
        _groq(600, 150, 300, keys=(1, 1, 2)),
    ),
    Scenario(
        "revoked",
        "one key revoked at 20 s, one failing from 30 s to 40 s",
        "groq",
        _groq(*[300] * 5),
        steps=(
            {"at_s": 20, "do": "revoke", "key": "groq:1"},
            {
                "at_s": 30,
                "do": "fault",
                "service": "groq",
                "status": 500,
                "key": "groq:2",
                "seconds": 10,
            },
        ),
    ),
    Scenario(
        "exhausted",
        "all keys out from 20 s for 15 s",
        "groq",
        _groq(*[300] * 5),
        steps=({"at_s": 20, "do": "exhaust", "service": "groq", "seconds": 15},),
    ),
    Scenario(
        "tokens",
        "bound by tokens a minute, jobs of 50 to 1,600",
        "groq",
        _groq(*[0] * 4, tpm=30_000),
        tokens=(50, 100, 200, 400, 800, 1600),
        options={"groq_completion_tokens": 5000},
    ),
    Scenario(
        "short",
        "bound by tokens a minute, jobs that reserve 500 to 1,500 and use 102",
        "groq",
        _groq(*[0] * 4, tpm=12_000),
        tokens=(500, 1000, 1500),
        options={"groq_completion_tokens": 100},
    ),
    Scenario(
        "emails",
        "3 teams at 5 a second, one with a daily quota of 200",
        "resend",
        {
            "groq": [],
            "resend": [
                {
                    "account": f"team_{n}",
                    "keys": 1,
                    "rps": 5,
                    "daily": 200 if n == 0 else 0,
                    "domains": [f"t{n}.example.net"],
                }
                for n in range(3)
            ],
        },
    ),
)
