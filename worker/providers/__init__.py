"""The providers: each has the wire format and the table of verdicts of one service."""

from worker.providers.lean_imports import lean_imports

with lean_imports():
    from worker.providers.base import Provider
    from worker.providers.groq.client import Groq
    from worker.providers.groq.completion import Completion, estimate_tokens
    from worker.providers.resend.client import Resend
    from worker.providers.resend.limits import EMAIL_QUOTAS
    from worker.providers.resend.request import EmailIdentity, SendRequest, is_idempotency_key

__all__ = [
    "EMAIL_QUOTAS",
    "Completion",
    "EmailIdentity",
    "Groq",
    "Provider",
    "Resend",
    "SendRequest",
    "estimate_tokens",
    "is_idempotency_key",
]
