"""The quote for jobs that are not enqueued yet: when they would start and end."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from keywheel_client.status import instant_of


class QuoteArguments(TypedDict, total=False):
    """The arguments of `tasks.admin.quote` beside the service."""

    model: str
    jobs: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Quote:
    """When jobs would start and end. An instant is None if it is not known.

    Attributes:
        service: The service of the jobs.
        model: The assumed model; empty if the service has no models.
        jobs: How many jobs.
        tokens: The assumed tokens of each job.
        waiting: How many jobs wait before these jobs; None if the broker does not report it.
        expected_start: When the keys allow the first job's call, if nothing changes.
        start_by: The instant by which the first job has started, in nine of ten cases.
        end_by: The instant by which the last job has ended, in nine of ten cases.
        limited_by: The cause of the last job's wait: a limit such as `rpm`, the reason of a rest,
            `paused`, `disabled` or `no key`; empty if no job has to wait.
        learned_from: From how many outcomes the margin of `end_by` was learned; 0 if it is assumed.
    """

    service: Literal["groq", "resend"]
    model: str
    jobs: int
    tokens: int
    waiting: int | None
    expected_start: datetime | None
    start_by: datetime | None
    end_by: datetime | None
    limited_by: str
    learned_from: int

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Quote":
        """Read the answer of a worker."""
        instants = {
            name: instant_of(answer[name]) for name in ("expected_start", "start_by", "end_by")
        }
        return cls(**{name: answer[name] for name in cls.__slots__} | instants)
