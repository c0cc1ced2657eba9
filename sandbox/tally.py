"""Counts the calls of one key, account or service."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sandbox.call import Call


@dataclass(slots=True)
class Tally:
    """How many calls were made, and how they ended."""

    label: str
    service: str
    account: str
    calls: int = 0
    accepted: int = 0
    tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    while_cooling: int = 0
    after_refusal: int = 0
    in_flight: int = 0
    refused_s: float = 0.0

    def count(self, call: Call) -> None:
        """Count one call."""
        self.calls += 1
        self.first_s = self.first_s or call.arrived_s
        self.last_s = max(self.last_s, call.arrived_s)
        self.statuses[call.status] += 1
        self.codes[call.code] += 1
        self.tokens += call.tokens
        if call.accepted:
            self.accepted += 1

    def as_dict(self) -> dict[str, Any]:
        """The counts in JSON types."""
        return {
            "label": self.label,
            "service": self.service,
            "account": self.account,
            "calls": self.calls,
            "accepted": self.accepted,
            "tokens": self.tokens,
            "first_s": round(self.first_s, 3),
            "last_s": round(self.last_s, 3),
            "by_status": {str(status): count for status, count in sorted(self.statuses.items())},
            "by_code": dict(self.codes),
        }
