"""The scenarios of the rotation benchmark, and how much their keys allow.

"Allowed" is what an ideal scheduler could get accepted that knew every limit and the future: the
burst of each account and its refill until the end, but never more than was offered. A revoked key
counts with its burst and its refill until the revocation, because they could have been used before.
A key that answers 500 counts in full, because such answers use nothing of its limit.
"""

import itertools
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

PROMPT_TOKENS = 2  # tokens of the child's prompt, as the sandbox counts them


@dataclass(frozen=True)
class Load:
    """Jobs at a steady rate, offered by the processes in turn.

    Attributes:
        rate: Jobs a second, of all processes together.
        processes: The number of processes.
        seconds: The duration.
    """

    rate: float
    processes: int
    seconds: float

    def due(self, until_s: float) -> list[int]:
        """How many jobs of each process are due before a time."""
        jobs = min(until_s, self.seconds) * self.rate
        return [
            math.ceil(max(0.0, jobs - number) / self.processes) for number in range(self.processes)
        ]


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        name: The name in the table.
        description: The description, in a few words.
        service: `groq` or `resend`.
        accounts: The content of the sandbox's accounts file.
        tokens: The tokens that the jobs reserve for their answers, in turn.
        steps: The faults, each with its `at_s`.
        options: Further options of the sandbox.
    """

    name: str
    description: str
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
        """Whether the keys are short of tokens and not of calls."""
        return any(owner.get("tpm") for owner in self.owners)

    @property
    def job_costs(self) -> tuple[int, ...]:
        """The cost of each job, in turn.

        It is the tokens that the job uses if the keys are short of tokens, else one call.
        """
        if not self.by_tokens:
            return (1,)
        return tuple(
            PROMPT_TOKENS + min(size, self.options["groq_completion_tokens"])
            for size in self.tokens
        )

    @property
    def per_second(self) -> float:
        """How many jobs a second all keys together allow after their burst is used up."""
        return sum(_refill(owner) for owner in self.owners) / statistics.mean(self.job_costs)

    @property
    def outage(self) -> dict[str, Any] | None:
        """The step that makes all keys unusable for a while."""
        return next((step for step in self.steps if step["do"] == "exhaust"), None)

    def offered(self, load: Load, until_s: float) -> int:
        """The cost of the jobs that are due before a time."""
        return sum(
            sum(itertools.islice(itertools.cycle(self.job_costs), due)) for due in load.due(until_s)
        )

    def allowed(self, load: Load, seconds: float) -> float:
        """Return how much of the offer could be accepted within a time, in calls or in tokens."""
        # By the number of the account, which is that of its only key.
        revoked = {
            int(step["key"][5:]) - 1: step["at_s"] for step in self.steps if step["do"] == "revoke"
        }
        # The last job reserves tokens that it does not use; they must be free and help no other
        # job.
        spare = min(self.tokens) + PROMPT_TOKENS - min(self.job_costs) if self.by_tokens else 0

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
        # At the end of an outage, the sandbox leaves room for one call of each account.
        left_s = seconds - begins_s - self.outage["seconds"]
        after = len(self.owners) + self.per_second * left_s if left_s > 0 else 0
        return min(offered, before + after)


def _refill(owner: dict[str, Any]) -> float:
    """How much an account allows a second after its burst is used up, in calls or tokens."""
    return float(owner["rps"] if "rps" in owner else (owner["tpm"] or owner["rpm"]) / 60)


def _fits(owner: dict[str, Any], until_s: float) -> float:
    """How much an account allows from the start until a time, in calls or tokens."""
    if "rps" in owner:  # windows of a second; the first one begins at the start
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
