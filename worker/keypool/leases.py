"""Defines a request for a lease, and the pool's two replies: a lease, or the reason for none."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from config.api_key import ApiKey
from worker.verdicts import Dimension


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A request for a lease for one call.

    Attributes:
        model: The model (Groq); empty if the service has none.
        resource: The model (Groq) or from-domain (Resend), which single keys may be unable to use.
        fallbacks: Further models that serve as well, with their resources, in order of preference.
            The first model that can be served now is taken.
        tokens: How many tokens the call is expected to count against token limits.
        input_tokens: The part of `tokens` that is the prompt.
        output_tokens: The part of `tokens` that is reserved for the answer.
        flexible: The job sets no cap for its answer. So if an account allows fewer output tokens a
            minute, fewer are reserved.
        emails: How many recipients the call counts against email quotas.
        exclude: Ids of keys that this job must not get.
        exclude_accounts: Accounts that this job must not get.
        account: The only account that may serve, because an earlier attempt went there; or the id
            of that attempt's key, if the account was not known then. Empty: any account.
        by: The task's id, for the audit stream and for the reservation of a large job.
        suspect: Earlier attempts failed alike with several keys. So a provider failure (5xx) is
            blamed on the request, and the key does not rest.
        bulk: The job takes only the capacity that interactive jobs leave.
        waited_ms: How long the job has waited for a key so far, in milliseconds, deferrals
            included. The job that has waited longest is served first.
        tenant: The tenant of the job, for the usage; empty if it has none.
        queue: The broker's list that the job came from, in which tenants take turns; empty if the
            job has no tenant.
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
        """All models that may serve, in order of preference, each with its resource."""
        return ((self.model, self.resource), *self.fallbacks)

    def taking(self, index: int) -> "LeaseRequest":
        """Return this request with only one of its models."""
        if index == 0 and not self.fallbacks:
            return self
        model, resource = self.models[index]
        return replace(self, model=model, resource=resource, fallbacks=())

    def without(self, model: str) -> "LeaseRequest":
        """Return this request without one of its models, unless that is the only one."""
        left = tuple(alternative for alternative in self.models if alternative[0] != model)
        return (
            replace(self, model=left[0][0], resource=left[0][1], fallbacks=left[1:])
            if left
            else self
        )

    def is_as_large_as(self, other: "LeaseRequest") -> bool:
        """Return whether a limit that is too small for `other` is too small for this request."""
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
        wait_list: The wait list in Redis that contains the line; the same in all processes.
        id: The line's name in the wait list.
        next_waited_ms: How long the job behind this one has waited, in milliseconds; None: no job
            stands behind it.
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
        id: The id of the lease. Only the first settle of a lease corrects its charge.
        key: The key to call with.
        account: The account whose limits were charged.
        request: The request as it was granted: with one model only, and with fewer `output_tokens`
            if it is flexible and the account's limit is smaller.
        wait_ms: How long to wait before the call, in milliseconds.
        spare_emails: How many more recipients the quotas allow, so that other emails may go in the
            same call; None: no quota is known.
        capped: The request must name `request.output_tokens` as its cap. Otherwise the provider
            would reserve more than the account allows.
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
    """A key will have room soon. Its limits are unknown, and the slow start holds the call back."""
    RESTING = "resting"
    """All keys rest, or wait for a limit of a day or more, for longer than a job waits for that."""
    DISABLED = "disabled"
    """Every key is disabled until a person acts."""
    UNFIT = "unfit"
    """No key may be used for this model or from-domain: the account is unfit, or it is disabled."""
    TOO_LARGE = "too_large"
    """No key's limit is as large as this request."""
    GONE = "gone"
    """The only account that may serve no longer has a key."""
    NO_KEYS = "no_keys"
    """No key is left after the exclusions."""


@dataclass(frozen=True, slots=True)
class NoLease:
    """The reply if no lease is granted.

    Attributes:
        why: The kind of reason.
        ask_in_ms: In how many milliseconds to ask again, with `WAIT` and `BUSY`.
        first_in_ms: In how many milliseconds the first key may be called, if that is known.
        reason: What blocks the key that can be called first, such as `rate_limit` or `tpm`.
        limit: The largest limit of any key, in tokens or recipients, with `TOO_LARGE`.
        dimension: The dimension of that limit.
    """

    why: NoLeaseReason
    ask_in_ms: int = 0
    first_in_ms: int = 0
    reason: str = ""
    limit: int = 0
    dimension: Dimension | None = None
