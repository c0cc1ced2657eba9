"""Emails through Resend."""

import time
from typing import Any

from worker.arguments.base import check
from worker.arguments.email import EmailArguments
from worker.celery import app
from worker.emails.outgoing import order
from worker.jobs.history import History, died_ms, doubt_ms, was_redelivered
from worker.runtime import Runtime
from worker.serving import serve

_FORGOTTEN_S = 23 * 3600
"""For this long, Resend can be asked about an attempt in doubt: it keeps keys for 24 hours."""
_LOST_S = 72 * 3600
"""For this long, the call of a worker that died is known: the store keeps it for 73 hours."""


@app.task(bind=True, name="tasks.email.send", service="resend")
async def send(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Send one email once, with any free Resend key.

    Args:
        self: The task; its id is the idempotency key unless one is given.
        *args: None; arguments go by name.
        **kwargs: `from`, `to`, `subject`, `html`, `text`, … as in Resend's API; see
            `EmailArguments`. `from` may be left out if the settings name a from address for the
            key's team.

    Returns:
        `id` (the email's id at Resend), `key` (the key's label), `attempts` (calls made),
        `waited_s` (seconds spent waiting for a key).

    Raises:
        InvalidArguments: An argument is wrong, or the idempotency key was used for another email.
            The message names the argument.
        RequestRejected: Resend refuses the email.
        OutcomeUnknown: The email may have been sent, and there is no safe way to find out.
    """
    arguments = check(EmailArguments, args, kwargs)
    runtime = Runtime.current()
    request = self.request
    in_doubt_ms, now_ms = doubt_ms(request.headers), time.time() * 1000
    lost_ms = died_ms(request.headers)
    lease_request, email = order(
        arguments,
        runtime.pools[self.service].keys,
        idempotency_key=str(request.id),
        job=str(request.id),
        # Most emails are new, and their first attempt needs no look into the store.
        known=bool(
            arguments.idempotency_key
            or request.retries
            or History.of(request.headers).attempts
            or in_doubt_ms
            or lost_ms
        )
        or was_redelivered(request),
        late=0 < in_doubt_ms < now_ms - _FORGOTTEN_S * 1000
        or 0 < lost_ms < now_ms - _LOST_S * 1000,
    )
    return await serve(
        self,
        lease_request,
        email,
        deadline_s=arguments.deadline_s,
        dedupe_key=arguments.dedupe_key,
    )
