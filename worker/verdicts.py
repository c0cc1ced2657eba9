"""Verdicts: the meaning of a provider's answer for the key and for the request.

Each provider's module judges its answers; the key pool and the rotation act on the verdict. All
classes here are frozen values.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Effect(StrEnum):
    """The effect of an answer on the scope that it blames."""

    NONE = "none"
    COOL = "cool"
    """The scope rests for a limited time, then serves again."""
    DISABLE = "disable"
    """The scope is out until a person resets it."""
    UNFIT = "unfit"
    """The account does not have what the request asks for (a model, its terms, a tier).

    The account is not called for it again until the rest is over, or until a reload or a reset.
    With `Scope.ACCOUNT_MODEL` only."""


class Scope(StrEnum):
    """The keys, accounts and models that an effect covers."""

    KEY = "key"
    KEY_RESOURCE = "key_resource"
    """One key for one resource: a model (Groq) or a from-domain (Resend)."""
    ACCOUNT = "account"
    ACCOUNT_MODEL = "account_model"
    MODEL = "model"
    """One model, with all keys."""
    HOST = "host"
    """The provider's host, with all keys."""


class Fate(StrEnum):
    """What happens next to the request."""

    DONE = "done"
    NEXT_KEY = "next_key"
    """Surely not carried out, and the key or its account is at fault: try another key at once."""
    OTHER_ACCOUNT = "other_account"
    """Refused because of the request. If every other account also refuses it, the job fails."""
    RETRY = "retry"
    """Try again after a backoff, with any key. This costs one of the job's tries."""
    SAME_ACCOUNT = "same_account"
    """May have been carried out.

    It may be tried again only with the same account, idempotency key and bytes.
    """
    FAIL = "fail"
    """The request fails for good, with every key."""


class Cooldown(StrEnum):
    """Why a scope rests. If the provider names no time, `worker.keypool.cooldowns` decides it."""

    LIMIT = "limit"
    """A limit is reached."""
    SERVER_ERROR = "server_error"
    """The provider's servers failed."""
    HOURLY_PROBE = "hourly_probe"
    """A person or the provider may lift the refusal at any time: one call an hour checks that."""
    DAILY_PROBE = "daily_probe"
    """Like `HOURLY_PROBE`, but one call a day is enough."""


class Dimension(StrEnum):
    """The unit that a limit counts, and its window."""

    RPS = "rps"
    RPM = "rpm"
    RPD = "rpd"
    TPM = "tpm"
    TPD = "tpd"
    ITPM = "itpm"
    """Tokens of prompts, beside TPM."""
    OTPM = "otpm"
    """Tokens reserved for answers, beside TPM."""
    EMAILS_DAY = "epd"
    EMAILS_MONTH = "epmo"

    @property
    def window_ms(self) -> int:
        """The length of the window in milliseconds (a month counts 30 days)."""
        return _WINDOW_MS[self]

    @property
    def counts_tokens(self) -> bool:
        """Whether the limit counts tokens rather than requests."""
        return self in {Dimension.TPM, Dimension.TPD, Dimension.ITPM, Dimension.OTPM}


_DAY_MS = 86_400_000
_WINDOW_MS = {
    Dimension.RPS: 1_000,
    Dimension.RPM: 60_000,
    Dimension.RPD: _DAY_MS,
    Dimension.TPM: 60_000,
    Dimension.TPD: _DAY_MS,
    Dimension.ITPM: 60_000,
    Dimension.OTPM: 60_000,
    Dimension.EMAILS_DAY: _DAY_MS,
    Dimension.EMAILS_MONTH: 30 * _DAY_MS,
}


@dataclass(frozen=True, slots=True)
class ObservedLimit:
    """A limit that the provider stated, in a header or in the words of a refusal.

    Attributes:
        dimension: The unit and the window of the limit.
        limit: How much a full window allows.
        remaining: How much is left now (for a refusal: `limit - used`, never below 0); None if the
            provider does not state it.
        window_ms: The window in milliseconds; None: that of the dimension.
    """

    dimension: Dimension
    limit: int
    remaining: float | None = None
    window_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SeenQuota:
    """A quota whose use the provider reports, but not its size.

    Attributes:
        dimension: The unit and the window of the quota.
        used: How much of the quota is used, including this call if it was carried out.
        spent: Whether the call was refused because it needs more than is left.
    """

    dimension: Dimension
    used: int
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer, judged.

    Attributes:
        fate: What happens next to the request.
        code: A stable short name (`rate_limit`, `invalid_key`, …) for logs, audit and metrics.
        reason: One sentence for people, without any key, prompt or mail body.
        effect: What happens to `scope`.
        scope: What the effect covers.
        cooldown: Why `scope` rests. The reason decides the time if `cooldown_ms` is None.
        cooldown_ms: How long `scope` rests, in milliseconds, if the provider states the time or
            its calendar gives it.
        sized: Whether `cooldown_ms` holds only for calls with at least as many tokens as this one.
            Smaller calls may pass earlier.
        definite: Whether it is known that the request was carried out (`Fate.DONE`), or that it was
            not. False: it may have been carried out.
        counted: Whether the provider counted the call against its limits; None: derived from
            `definite` and `status`.
        backoff_ms: The least wait before a retry of this request, in milliseconds; None: the retry
            policy decides.
        most_repeats: How often a job may try again after answers of this code; None: as often as
            after any other error.
        account: The account that the provider named (Groq's `org_…`); None if it named none.
        limits: Limits that the answer stated; they belong to account × model (Groq) or account
            (Resend).
        quotas: Quotas whose use the answer stated; they have the same owner as `limits`.
        too_large_limit: The limit, in tokens, that this request always exceeds on this account and
            model.
        too_large_in: The dimension of `too_large_limit`; None: not known.
        tokens: The tokens that the provider counted for this request; None: not stated.
        input_tokens: The tokens that it counted for the prompt; None: not stated.
        cached_tokens: The tokens of the prompt that it found in its cache and did not count; None:
            not stated.
        output_tokens: The tokens that it counted for the answer; None: not stated.
        service_tier: The tier that the provider named in a refusal, because limits differ by tier.
        emails: How many recipients the call carried; None unless it carried several emails.
        status: The HTTP status; 0 if there is none.
        certain: Whether the scope is surely to blame. False: the request may be to blame instead,
            for instance if the refusal has only words, or only a status.
    """

    fate: Fate
    code: str
    reason: str = ""
    effect: Effect = Effect.NONE
    scope: Scope = Scope.KEY
    cooldown: Cooldown = Cooldown.LIMIT
    cooldown_ms: int | None = None
    sized: bool = False
    definite: bool = True
    counted: bool | None = None
    backoff_ms: int | None = None
    most_repeats: int | None = None
    account: str | None = None
    limits: tuple[ObservedLimit, ...] = ()
    quotas: tuple[SeenQuota, ...] = ()
    too_large_limit: int | None = None
    too_large_in: Dimension | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    service_tier: str | None = None
    emails: int | None = None
    status: int = 0
    certain: bool = True


RATE_LIMIT = "rate_limit"
"""The code of a verdict on a refusal for a limit, with any status."""

ASKED = "asked"
"""The code of a verdict on a check of a key. A check is not a job's call, but may state limits."""

SERVER_ERROR = "server_error"
"""The code of a verdict on a provider's 5xx that rests the key."""

UNFINISHED = "concurrent_idempotent_requests"
"""The code of a verdict when an earlier call with the same idempotency key is in flight."""

ABANDONED = Verdict(Fate.RETRY, "abandoned", "the job ended before the call was made")
"""The verdict on a lease that was not used: nobody is to blame."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A judged answer, with its result for the caller.

    Attributes:
        verdict: The judgement.
        value: The result for the caller (JSON types only); None unless the verdict is `Fate.DONE`.
    """

    verdict: Verdict
    value: dict[str, Any] | None = field(default=None, repr=False)
