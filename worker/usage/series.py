"""Defines the measures of usage, and the series that usage is counted for."""

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
"""The measures, in the order in which Redis stores their counts.

- `calls`: all calls that ended. `calls` minus the next three is the number of accepted calls.
- `refused`, `faults`, `rejected`: calls that ended in this way. A key has counters of the same
  names.
- `prompt_tokens`, `cached_tokens`, `output_tokens`: tokens, as the provider counted them.
  `prompt_tokens` includes the cached ones.
- `emails`: recipients of the emails that were accepted.
- `deferrals`: runs whose job went back to its queue to wait, mostly for a key. They have no key.
- `waited_ms`: for accepted calls, the time from the first run of the job to the call, in
  milliseconds.
"""

Counts = tuple[int, ...]
"""One number for each measure, in the order of `MEASURES`."""

OTHERS: Final = "(others)"
"""The name under which the series beyond a day's limit are counted together."""

KEY: Final = "key"
TENANT: Final = "tenant"


@dataclass(frozen=True, slots=True)
class Series:
    """A key with a model, or a tenant with a model, that usage is counted for.

    Each call counts for its key, and once more for its tenant if it has one. So the two kinds are
    never added up.

    Attributes:
        service: The service's name.
        key: The key's id; empty for a tenant, and for a deferral.
        account: The key's account, as known at the time of the call.
        model: The model, with the service tier unless that is the default; empty if the service
            has no models.
        tenant: The tenant; empty for a key.
    """

    service: str
    key: str = ""
    account: str = ""
    model: str = ""
    tenant: str = ""

    @property
    def others(self) -> "Series":
        """The series that gets the counts if the day has no place for this one."""
        if self.tenant:
            return Series(self.service, model=OTHERS, tenant=OTHERS)
        return Series(self.service, key=OTHERS, account=OTHERS, model=OTHERS)

    @property
    def name(self) -> str:
        """The series' name in Redis."""
        if self.tenant:
            parts = [TENANT, self.service, self.tenant, self.model]
        else:
            parts = [KEY, self.service, self.key, self.account, self.model]
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the series with a name.

        Raises:
            ValueError: This version does not know the name's form; a later one wrote it.
        """
        kind, service, *parts = json.loads(name)
        if kind == TENANT:
            tenant, model = parts
            return cls(service, model=model, tenant=tenant)
        key, account, model = parts
        return cls(service, key, account, model)


def packed(counts: Sequence[int]) -> str:
    """Encode counts as Redis stores them: base 36, split by commas, without zeros at the end."""
    return ",".join(_base36(count) if count else "" for count in counts).rstrip(",")


def unpacked(text: str) -> Counts:
    """Decode counts that `packed` encoded."""
    numbers = [int(part, 36) if part else 0 for part in text.split(",")[: len(MEASURES)]]
    return (*numbers, *([0] * (len(MEASURES) - len(numbers))))


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + text
    return text
