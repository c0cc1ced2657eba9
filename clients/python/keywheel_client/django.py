"""Django's email backend: `EMAIL_BACKEND = "keywheel_client.django.EmailBackend"`.

`EMAIL_KEYWHEEL` has the arguments of `Keywheel`, such as `{"url": "redis://…", "namespace": "kw"}`.
"""

from collections.abc import Iterator, Sequence
from email.message import Message
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from keywheel_client.arguments import Attachment, EmailArguments
from keywheel_client.client import Keywheel
from keywheel_client.errors import KeywheelError

_OF_THE_MESSAGE = {"from", "to", "cc", "bcc", "reply-to", "subject"}


class EmailBackend(BaseEmailBackend):
    """Enqueues emails. The emails of one call are enqueued together, all or none.

    Args:
        fail_silently: Whether to raise no error if Redis cannot be reached; then only the returned
            count shows the failure.
        **options: Arguments of `Keywheel`, which override those in `EMAIL_KEYWHEEL`; Django's own
            SMTP options are ignored.
    """

    def __init__(self, *, fail_silently: bool = False, **options: Any) -> None:
        super().__init__(fail_silently=fail_silently)
        known = {"url", "results_url", "pool_url", "namespace", "track_started"}
        given = {name: value for name, value in options.items() if name in known}
        self._options = getattr(settings, "EMAIL_KEYWHEEL", {}) | given
        self._keywheel: Keywheel | None = None

    def open(self) -> bool:
        """Make a client.

        Returns:
            Whether a new client was made.
        """
        if self._keywheel is not None:
            return False
        self._keywheel = Keywheel(**self._options)
        return True

    def close(self) -> None:
        """Close the client. A second call does nothing."""
        keywheel, self._keywheel = self._keywheel, None
        if keywheel is not None:
            keywheel.close()

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Enqueue emails. An email without a recipient is left out.

        The attribute `tenant` of a message names its tenant.

        Returns:
            How many emails were enqueued.

        Raises:
            Unavailable: Redis cannot be reached, and `fail_silently` is off.
        """
        emails = [
            (email_of(message), getattr(message, "tenant", None))
            for message in email_messages
            if message.recipients()
        ]
        is_new = self.open()
        try:
            if self._keywheel is not None and emails:
                with self._keywheel.pipeline() as pipe:
                    for email, tenant in emails:
                        pipe.send_email(tenant=tenant, **email)
        except KeywheelError:
            if not self.fail_silently:
                raise
            return 0
        finally:
            if is_new:
                self.close()
        return len(emails)


def email_of(message: EmailMessage) -> EmailArguments:
    """Make the arguments of `tasks.email.send` from one of Django's messages.

    Raises:
        ValueError: The message has an alternative that Resend cannot send.
    """
    headers = {str(name): str(value) for name, value in message.extra_headers.items()}
    sender = next((value for name, value in headers.items() if name.lower() == "from"), "")
    email: EmailArguments = {
        "from_": sender or str(message.from_email),
        "to": list(map(str, message.to)),
        "subject": str(message.subject),
    }
    email["html" if message.content_subtype == "html" else "text"] = str(message.body)
    for alternative in getattr(message, "alternatives", None) or ():
        content, kind = alternative
        if kind != "text/html":
            raise ValueError(f"an alternative of the type {kind} cannot be sent, only text/html")
        email["html"] = str(content)
    for field in ("cc", "bcc", "reply_to"):
        if addresses := getattr(message, field):
            email[field] = list(map(str, addresses))
    if others := {k: v for k, v in headers.items() if k.lower() not in _OF_THE_MESSAGE}:
        email["headers"] = others
    if attachments := list(_attachments_of(message)):
        email["attachments"] = attachments
    return email


def _attachments_of(message: EmailMessage) -> Iterator[Attachment]:
    for attached in message.attachments:
        if isinstance(attached, Message):
            attachment: Attachment = {
                "content": attached.get_payload(decode=True) or b"",  # type: ignore[typeddict-item]
                "content_type": attached.get_content_type(),
            }
            name, identity = attached.get_filename(), attached.get("Content-ID", "")
            if identity:
                attachment["content_id"] = identity.strip("<>")
        else:
            name, content, kind = attached
            attachment = {"content": content.encode() if isinstance(content, str) else content}
            if kind:
                attachment["content_type"] = kind
        attachment["filename"] = name or "attachment"
        yield attachment
