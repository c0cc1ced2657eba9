"""One call to a simulated provider, as the ledger records it."""

from dataclasses import dataclass
from typing import Any

from sandbox.accounts import Key


@dataclass(slots=True)
class Call:
    """One call and its outcome.

    Attributes:
        arrived_s: When the headers of the call were read, in seconds since 1970.
        key: The key of the call.
        model: The model (Groq); empty for Resend.
        status: The status of the answer; 0 if the client gets no answer at all.
        code: The error's short name, `ok`, or the kind of the fault.
        accepted: Whether the work was done: a completion made, an email accepted.
        delivered: Whether the client gets a whole answer.
        tokens: How many tokens the call used (Groq).
        requested: How many tokens the call requested (Groq).
        idempotency_key: The idempotency key that the client sent.
        replayed: Whether an earlier answer was sent again.
        emails: The ids of the accepted emails.
        recipients: How many recipients these emails have.
        contents: A fingerprint of each accepted email, the same for all accounts.
        subjects: The subject of each accepted email.
        cool_until_s: Until when the answer asks the client to wait, in seconds since 1970.
        cool_tokens: The wait holds for calls of at least this many tokens; smaller calls may fit
            before its end.
        dead: Whether the answer says that this key will not work again.
    """

    arrived_s: float
    key: Key
    model: str = ""
    status: int = 200
    code: str = "ok"
    accepted: bool = False
    delivered: bool = True
    tokens: int = 0
    requested: int = 0
    idempotency_key: str = ""
    replayed: bool = False
    emails: tuple[str, ...] = ()
    recipients: int = 0
    contents: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    cool_until_s: float = 0.0
    cool_tokens: int = 0
    dead: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The record in JSON types."""
        record: dict[str, Any] = {
            "arrived_s": round(self.arrived_s, 4),
            "service": self.key.service,
            "key": self.key.fingerprint,
            "label": self.key.label,
            "account": self.key.account.name,
            "status": self.status,
            "code": self.code,
            "accepted": self.accepted,
            "delivered": self.delivered,
        }
        if self.key.service == "groq":
            return record | {"model": self.model, "tokens": self.tokens}
        return record | {
            "idempotency_key": self.idempotency_key,
            "replayed": self.replayed,
            "emails": list(self.emails),
            "subjects": list(self.subjects),
            "recipients": self.recipients,
        }
