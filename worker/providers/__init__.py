"""The providers: the wire format and the table of verdicts of one service each."""

from worker.providers.lean_imports import lean_imports

with lean_imports():
    from worker.providers.base import Provider
    from worker.providers.groq.client import Groq
    from worker.providers.groq.completion import Completion, estimate_tokens
    from worker.providers.resend.client import Resend
    from worker.providers.resend.email import Email, Sealed, is_idempotency_key
    from worker.providers.resend.limits import EMAIL_QUOTAS

__all__ = [
    "EMAIL_QUOTAS",
    "Completion",
    "Email",
    "Groq",
    "Provider",
    "Resend",
    "Sealed",
    "estimate_tokens",
    "is_idempotency_key",
]
