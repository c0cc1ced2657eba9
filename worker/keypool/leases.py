"""What a caller asks of the pool, and what it gets."""

from dataclasses import dataclass, field
from enum import StrEnum

from config.keys import ApiKey

NO_TICKET = "-"


@dataclass(frozen=True, slots=True)
class Want:
    """One call that wants a key.

    Attributes:
        model: The model (Groq); empty where a service has none.
        topic: What a key may be unfit for by itself: the model (Groq), the from-domain (Resend).
        tokens: What the call will count against token limits, as an estimate.
        input_tokens: How many of them are the prompt's.
        output_tokens: How many of them are reserved for the answer.
        emails: What the call counts against email quotas: its recipients.
        exclude: Ids of keys that this job must not get.
        exclude_accounts: Accounts that this job must not get.
        account: The only account that may serve, because an earlier attempt went there; also the id of a key whose
            account was not known then. Empty: any.
        ticket: Names the instant that this job was promised when it was deferred (`Unavailable.ticket`); `NO_TICKET`
            where a deferral promised nothing, or the promise is redeemed. With either it does not queue behind those
            who wait for theirs. Empty: it comes for the first time.
        max_wait_ms: The longest wait in the process, in milliseconds; beyond it the job is to be deferred.
        by: The task's id, for the audit stream; also names the job that tokens are saved for.
        suspect: Earlier attempts failed alike with several keys, so a failure of the provider (5xx) is taken for the
            request's and rests no key.
        bulk: Gives way: it takes what interactive jobs leave, and holds no instant that one of them may need.
    """

    model: str = ""
    topic: str = ""
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    emails: int = 0
    exclude: frozenset[str] = field(default_factory=frozenset)
    exclude_accounts: frozenset[str] = field(default_factory=frozenset)
    account: str = ""
    ticket: str = ""
    max_wait_ms: int = 0
    by: str = ""
    suspect: bool = False
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to make one call with one key, from an instant on.

    Attributes:
        id: Names the reservation; a second settle of it changes nothing.
        key: The key to call with.
        account: The account whose limits were charged.
        want: What was asked for.
        wait_ms: How long to wait before the call, in milliseconds.
        spare_emails: How many more recipients the quotas allow, so that others may go in the same call; None: no quota
            is known.
    """

    id: str
    key: ApiKey
    account: str
    want: Want
    wait_ms: int
    spare_emails: int | None = None


class Why(StrEnum):
    """Why there is no lease."""

    DEFERRED = "deferred"
    """A key will be free, but later than the caller may wait."""
    BUSY = "busy"
    """Limits are not known yet and enough calls are in flight to find out; ask again soon."""
    DISABLED = "disabled"
    """Every key is out until a person resets it."""
    UNFIT = "unfit"
    """Every key is unfit for this model or from-domain until a person resets it."""
    TOO_LARGE = "too_large"
    """No key's limit is as large as this request."""
    GONE = "gone"
    """The only account that may serve has no key any more."""
    NO_KEYS = "no_keys"
    """No key is left after the exclusions."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No lease.

    Attributes:
        why: The kind of reason.
        countdown_ms: When to ask again, in milliseconds from now; 0 where asking again is no use by itself.
        reason: The reason of the scope that opens first, such as `rate_limit` or `tpm`.
        limit: The largest limit there is, in tokens or recipients, with `Why.TOO_LARGE`.
        ticket: What to bring as `Want.ticket` next time, with `Why.DEFERRED`.
    """

    why: Why
    countdown_ms: int = 0
    reason: str = ""
    limit: int = 0
    ticket: str = NO_TICKET
