"""Notes a job's calls and waits as spans. While tracing is off, each function returns at once."""

import time
from typing import Any, Protocol

from worker.attempts import Attempt

SENT_MS = "keywheel_sent_ms"
"""The header with the instant at which a job went back to its queue, in milliseconds since 1970."""


class Spans(Protocol):
    """Records spans below the span of the running job."""

    def attempt(self, service: str, call: Attempt, *, took_s: float, model: str) -> None:
        """Record a call to a provider that has just ended."""

    def wait(self, service: str, *, took_s: float) -> None:
        """Record a wait for a key that has just ended."""


class _Tracing:
    spans: Spans | None = None


def use(spans: Spans | None) -> None:
    """Record spans by this recorder from now on; None turns tracing off."""
    _Tracing.spans = spans


def note_attempt(service: str, call: Attempt, began_s: float, model: str, /) -> None:
    """Note a call to a provider that has just ended.

    Args:
        service: The provider's service.
        call: The call.
        began_s: When it began, by the monotonic clock.
        model: The model, if there is one.
    """
    if _Tracing.spans is not None:
        took_s = time.monotonic() - began_s
        _Tracing.spans.attempt(service, call, took_s=took_s, model=model)


def note_shared_attempt(service: str, call: Attempt) -> None:
    """Note a call that sent this job's email together with emails of other jobs."""
    if _Tracing.spans is not None:
        _Tracing.spans.attempt(service, call, took_s=0.0, model="")


def note_wait(service: str, *, began_s: float) -> None:
    """Note a wait for a key that has just ended.

    Args:
        service: The service of the key.
        began_s: When it began, by the monotonic clock.
    """
    if _Tracing.spans is not None:
        _Tracing.spans.wait(service, took_s=time.monotonic() - began_s)


def headers() -> dict[str, Any]:
    """Return headers for a message that goes back to its queue; the next run's spans need them."""
    return {} if _Tracing.spans is None else {SENT_MS: round(time.time() * 1000)}
