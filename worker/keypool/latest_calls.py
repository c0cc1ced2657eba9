"""Reads the latest calls with a key, for people. settle.lua keeps them in the key's record."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from worker.foreign_json import read_json


@dataclass(frozen=True, slots=True)
class LatestCall:
    """One call.

    Attributes:
        at_ms: When the call ended, in milliseconds since 1970, by the pool's clock.
        code: The verdict's code, such as `rate_limit`; `ok` if the call succeeded.
        job: The id of the job; empty if the call was not made for a job.
        model: The model; empty if the service has none.
    """

    at_ms: int
    code: str
    job: str
    model: str

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types."""
        return asdict(self)


def read(text: str | None) -> list[LatestCall]:
    """Read the record's field, the latest call first. Lines of another format are left out."""
    calls = []
    for line in (text or "").splitlines():
        match read_json(line):
            case [int() | float() | str() as at_ms, str() as code, str() as job, str() as model]:
                with suppress(ValueError, OverflowError):
                    calls.append(LatestCall(int(at_ms), code, job, model))
    return calls
