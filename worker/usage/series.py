"""What is counted of the calls to providers, and for whom."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

MEASURES: Final = (
    "calls",
    "refused",
    "faults",
    "rejected",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "emails",
    "deferrals",
    "waited_ms",
)
"""What is counted, in the order in which Redis has it.

- `calls`: calls that ended, however they ended. What is left of them without the next three was
  accepted.
- `refused`, `faults`, `rejected`: calls that ended so, as the counters of a key say it.
- `prompt_tokens`, `cached_tokens`, `output_tokens`: what the provider counted. Cached tokens are a
  part of the prompt's.
- `emails`: recipients of the emails that were accepted.
- `deferrals`: runs whose job went back to its queue to wait, mostly for a key. They have no key.
- `waited_ms`: for the calls that were accepted, the time from the first run of the job to the
  call, in milliseconds.
"""

Counts = tuple[int, ...]
"""One number for each measure, in their order."""

OTHERS: Final = "(others)"
"""Stands for the series that found no place on their day."""

KEY: Final = "key"
TENANT: Final = "tenant"


@dataclass(frozen=True, slots=True)
class Series:
    """For whom something is counted: a key with a model, or a tenant with a model.

    Each call counts for its key, and once more for its tenant if it has one. So the two kinds are
    never added up.

    Attributes:
        service: The service's name.
        key: The key's id; empty for a tenant, and for a deferral.
        account: The key's account, as it was known.
        model: The model, with the service tier where that is not the default; empty where the
            service has none.
        tenant: The tenant; empty for a key.
    """

    service: str
    key: str = ""
    account: str = ""
    model: str = ""
    tenant: str = ""

    @property
    def others(self) -> "Series":
        """The series that takes the counts where this one finds no place."""
        if self.tenant:
            return Series(self.service, model=OTHERS, tenant=OTHERS)
        return Series(self.service, key=OTHERS, account=OTHERS, model=OTHERS)

    @property
    def name(self) -> str:
        """Its name in Redis."""
        if self.tenant:
            parts = [TENANT, self.service, self.tenant, self.model]
        else:
            parts = [KEY, self.service, self.key, self.account, self.model]
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def of(cls, name: str) -> Self:
        """Read a name.

        Raises:
            ValueError: A later version wrote it.
        """
        kind, service, *parts = json.loads(name)
        if kind == TENANT:
            tenant, model = parts
            return cls(service, model=model, tenant=tenant)
        key, account, model = parts
        return cls(service, key, account, model)


def packed(counts: Sequence[int]) -> str:
    """Write counts as Redis has them: base 36, separated by commas, without zeros at the end."""
    return ",".join(_base36(count) if count else "" for count in counts).rstrip(",")


def unpacked(text: str) -> Counts:
    """Read what `packed` wrote."""
    numbers = [int(part, 36) if part else 0 for part in text.split(",")[: len(MEASURES)]]
    return (*numbers, *([0] * (len(MEASURES) - len(numbers))))


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + text
    return text
