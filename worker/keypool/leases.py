"""What a caller asks of the pool, and what it gets."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from config.api_key import ApiKey
from worker.verdicts import Dimension


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """One call that wants a key.

    Attributes:
        model: The model (Groq); empty where a service has none.
        resource: What a key may or may not access by itself: the model (Groq), the from-domain
            (Resend).
        fallbacks: Further models that serve as well, in order of preference, with their resources:
            the first that can be served now is taken.
        tokens: What the call will count against token limits, as an estimate.
        input_tokens: How many of them are the prompt's.
        output_tokens: How many of them are reserved for the answer.
        flexible: The job names no cap for its answer, so where an account allows fewer tokens a
            minute, fewer are reserved.
        emails: What the call counts against email quotas: its recipients.
        exclude: Ids of keys that this job must not get.
        exclude_accounts: Accounts that this job must not get.
        account: The only account that may serve, because an earlier attempt went there; also the id
            of a key whose account was not known then. Empty: any.
        by: The task's id, for the audit stream; also names the job that tokens are saved for.
        suspect: Earlier attempts failed alike with several keys, so a failure of the provider (5xx)
            is taken for the request's and rests no key.
        bulk: Gives way: it takes what interactive jobs leave.
        waited_ms: For how long the job has waited for a key so far, in milliseconds, deferrals
            included. The job that has waited longest is served first.
        tenant: On whose behalf the job is, for the usage; empty: nobody's.
        queue: The list of the broker that the job came by, in which tenants take turns; empty
            where it has no tenant.
    """

    model: str = ""
    resource: str = ""
    fallbacks: tuple[tuple[str, str], ...] = ()
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    flexible: bool = False
    emails: int = 0
    exclude: frozenset[str] = field(default_factory=frozenset)
    exclude_accounts: frozenset[str] = field(default_factory=frozenset)
    account: str = ""
    by: str = ""
    suspect: bool = False
    bulk: bool = False
    waited_ms: int = 0
    tenant: str = ""
    queue: str = ""

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """All models that serve, in order of preference, each with its resource."""
        return ((self.model, self.resource), *self.fallbacks)

    def taking(self, index: int) -> "LeaseRequest":
        """Return this request for one of its models alone."""
        if index == 0 and not self.fallbacks:
            return self
        model, resource = self.models[index]
        return replace(self, model=model, resource=resource, fallbacks=())

    def without(self, model: str) -> "LeaseRequest":
        """Return this request without one of its models, where others are left."""
        left = tuple(alternative for alternative in self.models if alternative[0] != model)
        return (
            replace(self, model=left[0][0], resource=left[0][1], fallbacks=left[1:])
            if left
            else self
        )

    def is_as_large_as(self, other: "LeaseRequest") -> bool:
        """Whether nothing that is too small for the other has room for this."""
        return (
            self.tokens >= other.tokens
            and self.input_tokens >= other.input_tokens
            and self.output_tokens >= other.output_tokens
            and self.emails >= other.emails
            and (other.flexible or not self.flexible)
        )

    def reserving(self, output_tokens: int) -> "LeaseRequest":
        """Return the request with this number of tokens reserved for the answer."""
        if output_tokens == self.output_tokens:
            return self
        return replace(
            self,
            output_tokens=output_tokens,
            tokens=self.tokens - self.output_tokens + output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """The place of a process in a wait list, by which several processes are served in order.

    Attributes:
        wait_list: The wait list in Redis that the line has its place in; the same in all processes.
        id: The line's own name there.
        next_waited_ms: For how long the job behind this one has waited, in milliseconds; None:
            nobody stands there.
        entered: The line is in the wait list already.
    """

    wait_list: str
    id: str
    next_waited_ms: int | None = None
    entered: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to make one call with one key, from an instant on.

    Attributes:
        id: Names the reservation; a second settle of it changes nothing.
        key: The key to call with.
        account: The account whose limits were charged.
        request: What was reserved: as requested, but of several models the one that was taken, and
            fewer `output_tokens` where it is flexible.
        wait_ms: How long to wait before the call, in milliseconds.
        spare_emails: How many more recipients the quotas allow, so that others may go in the same
            call; None: no quota is known.
        capped: The request must name `request.output_tokens` as its cap: else more is reserved than
            the account allows.
    """

    id: str
    key: ApiKey
    account: str
    request: LeaseRequest
    wait_ms: int
    spare_emails: int | None = None
    capped: bool = False


class NoLeaseReason(StrEnum):
    """Why there is no lease."""

    WAIT = "wait"
    """A key will have room soon; ask again."""
    BUSY = "busy"
    """A key will have room soon: limits are unknown, and enough calls are in flight to find out."""
    RESTING = "resting"
    """No key may be called for longer than a job waits in the process."""
    DISABLED = "disabled"
    """Every key is out until a person resets it."""
    UNFIT = "unfit"
    """No key may be used for this model or from-domain: its account is unfit, or it is disabled."""
    TOO_LARGE = "too_large"
    """No key's limit is as large as this request."""
    GONE = "gone"
    """The only account that may serve has no key any more."""
    NO_KEYS = "no_keys"
    """No key is left after the exclusions."""


@dataclass(frozen=True, slots=True)
class NoLease:
    """No lease.

    Attributes:
        why: The kind of reason.
        ask_in_ms: When to ask again, in milliseconds, with `WAIT` and `BUSY`.
        first_in_ms: The first instant at which a key may be called, in milliseconds from now, where
            one is known.
        reason: What the key that opens first waits for, such as `rate_limit` or `tpm`.
        limit: The largest limit there is, in tokens or recipients, with `NoLeaseReason.TOO_LARGE`.
        dimension: What that limit counts.
    """

    why: NoLeaseReason
    ask_in_ms: int = 0
    first_in_ms: int = 0
    reason: str = ""
    limit: int = 0
    dimension: Dimension | None = None
