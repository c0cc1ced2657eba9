"""One email in one run of its job."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from config.api_key import ApiKey
from worker.errors import InvalidArguments
from worker.providers import is_idempotency_key


@dataclass(slots=True, eq=False)
class OutgoingEmail:
    """An email that is to be sent once.

    Attributes:
        idempotency_key: The same for every job that means this email.
        content_hash: A hash of what the job asked for.
        payload: Makes the body for the key that was chosen, since a from address may depend on it.
        recipients: How many addresses it goes to.
        batchable: It may go out together with others.
        known: A job may have sent it before, so the idempotency store is asked first.
        unsendable: Why it cannot be sent as a new email, or empty. One that was sent before is
            still looked up.
        late: It may have been accepted so long ago that the idempotency store has forgotten it.
        job: The id of its job.
        tenant: On whose behalf it is sent; empty: nobody's.
        calls: Calls made with it in this run.
        waited_ms: Time spent waiting in this run, in milliseconds.
        until_s: When the run must have its lease, on the monotonic clock. None: no limit.

    Raises:
        InvalidArguments: The idempotency key cannot stand in a header. Found out later, it would
            fail the other emails of a batch as well.
    """

    idempotency_key: str
    content_hash: str
    payload: Callable[[ApiKey], dict[str, Any]] = field(repr=False)
    recipients: int = 1
    batchable: bool = True
    known: bool = False
    unsendable: str = ""
    late: bool = False
    job: str = ""
    tenant: str = ""
    calls: int = 0
    waited_ms: int = 0
    until_s: float | None = None

    def left_s(self) -> float | None:
        """How much longer it may wait, in seconds. None: no limit."""
        return None if self.until_s is None else max(0.0, self.until_s - time.monotonic())

    def __post_init__(self) -> None:
        if not is_idempotency_key(self.idempotency_key):
            raise InvalidArguments(
                "idempotency_key: is required, since the job's id is not 1 to 256 visible ASCII "
                "characters"
            )
