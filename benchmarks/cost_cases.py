"""The states that `python -m benchmarks.cost` measures."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One state to measure.

    Attributes:
        name: The name in the table.
        waiting: The number of jobs that wait before the workers start.
        rate: The rate of the jobs that come afterwards, in jobs a second.
        processes: The number of workers.
        kind: `completion`, `email` or nothing at all.
        sandbox: The options of the sandbox.
        limits: `KEYWHEEL_GROQ_LIMITS` of the workers; if empty, they learn the limits.
        begins_at: How many jobs must be done before the state is steady: the jobs of the keys'
            first burst.
    """

    name: str
    waiting: int = 0
    rate: float = 0.0
    processes: int = 1
    kind: str = "completion"
    sandbox: dict[str, Any] = field(default_factory=dict)
    limits: str = ""
    begins_at: int = 0


FREE = {"groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0}
_FIFTY = FREE | {"groq_rpm": 1_000}  # three keys: 50 a second
CASES = (
    Case("saturation", waiting=15_000, sandbox=FREE | {"groq_rpm": 60_000}, limits="rpm=60000"),
    Case("0.8 of the load", rate=40, processes=2, sandbox=_FIFTY, limits="rpm=1000"),
    Case(
        "3 times the load",
        waiting=4_500,
        rate=150,
        processes=2,
        sandbox=_FIFTY,
        limits="rpm=1000",
        begins_at=4_000,
    ),
    Case(
        "3 times, tokens",
        waiting=2_000,
        rate=70,
        processes=2,
        sandbox=FREE | {"groq_rpm": 0, "groq_tpm": 12_000},
        limits="tpm=12000",
        begins_at=1_800,
    ),
    Case("trickle", rate=2, sandbox=_FIFTY, limits="rpm=1000"),
    Case("trickle over four", rate=51, processes=4, sandbox=FREE | {"groq_rpm": 3_000}),
    Case("email alone", rate=20, kind="email", sandbox={"resend_rps": 100}),
    Case("emails in batches", waiting=6_000, kind="email", sandbox={"resend_rps": 5}),
    Case("idle", kind=""),
)
