"""One email of one job's turn."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from config.keys import ApiKey
from worker.errors import InvalidArguments
from worker.providers import is_idempotency_key


@dataclass(slots=True, eq=False)
class OutgoingEmail:
    """An email on its way.

    Attributes:
        idempotency_key: The same for every job that means this email.
        content: A hash of what the job asked for.
        payload: Makes the body for the key that was chosen, since a from address may depend on it.
        recipients: How many addresses it goes to.
        batchable: It may go out together with others.
        known: A job may have sent it before, so look first.
        unsendable: Why it cannot be sent as a new email, if so; one that was sent before is still
            looked up.
        late: It may have been accepted so long ago that the store has forgotten it.
        job: The id of its job.
        calls: Calls made with it in this turn.
        waited_ms: Time spent waiting in this turn, in milliseconds.
        until_s: When the turn must have its lease, on the monotonic clock; None: whenever it gets
            one.

    Raises:
        InvalidArguments: The idempotency key cannot stand in a header. Later it would fail those
            that go along, too.
    """

    idempotency_key: str
    content: str
    payload: Callable[[ApiKey], dict[str, Any]] = field(repr=False)
    recipients: int = 1
    batchable: bool = True
    known: bool = False
    unsendable: str = ""
    late: bool = False
    job: str = ""
    calls: int = 0
    waited_ms: int = 0
    until_s: float | None = None

    def left_s(self) -> float | None:
        """How much longer it may wait, in seconds."""
        return None if self.until_s is None else max(0.0, self.until_s - time.monotonic())

    def __post_init__(self) -> None:
        if not is_idempotency_key(self.idempotency_key):
            raise InvalidArguments(
                "idempotency_key: is required, since the job's id is not 1 to 256 visible ASCII "
                "characters"
            )
