"""Sends emails from your own tasks and programs, each email once."""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any, Final

from config.services import RESEND
from worker.arguments.base import check
from worker.arguments.email import EmailArguments
from worker.clients.session import runtime
from worker.clients.sync import wait_for
from worker.clients.waiting import wait_in_place
from worker.emails.outgoing import order
from worker.jobs.job_run import current_run

_HASH_CHARS: Final = 12


class EmailClient:
    """Sends each email once, with any Resend key that is free.

    Args:
        longest_wait_s: How long the call itself waits for a key, in seconds. With None, a job goes
            back to its queue and runs again when a key is free; outside a job the call waits for up
            to `KEYWHEEL_DEADLINE_S`.
    """

    def __init__(self, *, longest_wait_s: float | None = None) -> None:
        self._longest_wait_s = longest_wait_s

    async def send(
        self, params: Mapping[str, Any] | None = None, /, **fields: Any
    ) -> dict[str, Any]:
        """Send one email.

        In a job, the idempotency key is made of the job's id, the recipients, and the number of
        emails that this run has sent to them. Another run of the same job uses the same key, so
        Resend accepts the email once. The content must then be the same, so use `once` to keep a
        text that a model wrote. If the task sends a failed email again, the email keeps its key.

        Args:
            params: The email as Resend's SDK takes it: `{"from": …, "to": …, "subject": …}`.
            **fields: The email's fields as keyword arguments, as `tasks.email.send` takes them.

        Returns:
            `id` (the email's id at Resend), `key` (the label of the key), `attempts`, `waited_s`.

        Raises:
            InvalidArguments: A field is wrong, or the idempotency key was used for another email.
            RequestRejected: Resend refuses the email.
            OutcomeUnknown: The email may have been sent, and there is no safe way to find out.
            Deferred: No key will be free for a while.
            TransientError: Resend failed in a way that may pass.
        """
        arguments = check(EmailArguments, (), {**(params or {}), **fields})
        run = current_run.get()
        identity = _identity_of(arguments)
        key = str(uuid.uuid4()) if run is None else run.email_keys.make(*identity)
        shared = await runtime()
        lease_request, email = order(
            arguments,
            shared.pools[RESEND.name].keys,
            idempotency_key=key,
            job=run.job if run is not None else "",
            known=True,
        )
        if run is not None:
            lease_request = run.of_this_job(lease_request)
        try:
            served = await wait_in_place(
                lambda line_s: shared.senders[RESEND.name].serve(
                    lease_request, email, longest_s=line_s
                ),
                shared.rotations[RESEND.name].waiting,
                longest_wait_s=self._longest_wait_s,
            )
        except BaseException:
            if run is not None:
                run.email_keys.note_failed(*identity, key)
            raise
        return served.value | {
            "key": served.key,
            "attempts": served.attempts,
            "waited_s": round(served.waited_ms / 1000, 3),
        }


class SyncEmailClient:
    """Like `EmailClient`, for plain functions.

    Args:
        longest_wait_s: As for `EmailClient`.
    """

    def __init__(self, *, longest_wait_s: float | None = None) -> None:
        self._client = EmailClient(longest_wait_s=longest_wait_s)

    def send(self, params: Mapping[str, Any] | None = None, /, **fields: Any) -> dict[str, Any]:
        """Send one email; see `EmailClient.send`."""
        return wait_for(self._client.send(params, **fields))


def _identity_of(arguments: EmailArguments) -> tuple[str, str]:
    """Return hashes of the recipients and the content, which distinguish the emails of a run."""
    everyone = sorted(arguments.everyone)
    digest = hashlib.sha256("\0".join(everyone).encode()).hexdigest()
    return digest[:_HASH_CHARS], arguments.content_hash()
