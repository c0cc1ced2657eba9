"""When jobs would start and end that are not enqueued yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from keywheel_client.status import instant_of


class QuoteArguments(TypedDict, total=False):
    """What `tasks.admin.quote` takes beside the service."""

    model: str
    jobs: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Quote:
    """When jobs would start and end. An instant is None where it is not known.

    Attributes:
        service: Their service.
        model: The model that was assumed; empty where the service has none.
        jobs: How many jobs.
        tokens: Tokens a job, as assumed.
        waiting: How many jobs wait before them; None: the broker does not say.
        expected_start: When the keys allow the first job's call, if nothing changes.
        start_by: By when it has started in nine of ten cases.
        end_by: By when the last job has ended in nine of ten cases.
        limited_by: What decides the end, such as `rpm`; empty where nothing has to wait.
        learned_from: How many outcomes the margin of `end_by` rests on; 0: it is assumed.
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
        """Read what a worker has said."""
        instants = {
            name: instant_of(answer[name]) for name in ("expected_start", "start_by", "end_by")
        }
        return cls(**{name: answer[name] for name in cls.__slots__} | instants)
