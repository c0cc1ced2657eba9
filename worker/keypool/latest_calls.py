"""The latest calls with a key, for people; settle.lua keeps them in the key's record."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from worker.foreign_json import read_json


@dataclass(frozen=True, slots=True)
class LatestCall:
    """One call.

    Attributes:
        at_ms: When it ended, in milliseconds since 1970, by the pool's clock.
        code: How it ended: the verdict's code, such as `rate_limit`; `ok` where it succeeded.
        job: The id of the job; empty where it was none's.
        model: The model; empty where the service has none.
    """

    at_ms: int
    code: str
    job: str
    model: str

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        return asdict(self)


def read(text: str | None) -> list[LatestCall]:
    """Read the record's field, the latest call first. What another program wrote is left out."""
    calls = []
    for line in (text or "").splitlines():
        match read_json(line):
            case [int() | float() | str() as at_ms, str() as code, str() as job, str() as model]:
                with suppress(ValueError, OverflowError):
                    calls.append(LatestCall(int(at_ms), code, job, model))
    return calls
