"""What a provider's answer means: for the key, and for the request.

A provider's file decides, the key pool and the rotation act. Everything here is a frozen value.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Effect(StrEnum):
    """What an answer does to the scope that it blames."""

    NONE = "none"
    COOL = "cool"
    """Rests until a moment; comes back by itself."""
    DISABLE = "disable"
    """Out until a person resets it."""
    UNFIT = "unfit"
    """The account does not have what the request asks for (a model, its terms, a tier).

    No call asks it again before the rest is over, or a reload or a reset. With
    `Scope.ACCOUNT_MODEL` only."""


class Scope(StrEnum):
    """What an effect covers."""

    KEY = "key"
    KEY_RESOURCE = "key_resource"
    """One key for one resource: a model (Groq) or a from-domain (Resend)."""
    ACCOUNT = "account"
    ACCOUNT_MODEL = "account_model"
    MODEL = "model"
    """One model, whichever key asks."""
    HOST = "host"
    """The provider's host, whichever key asks."""


class Fate(StrEnum):
    """What becomes of the request."""

    DONE = "done"
    NEXT_KEY = "next_key"
    """Surely not carried out, and the key or its account is at fault: another key at once."""
    OTHER_ACCOUNT = "other_account"
    """Refused for what it is; one other account may still take it, then it fails."""
    RETRY = "retry"
    """Try again after a backoff, any key; costs one of the job's tries."""
    SAME_ACCOUNT = "same_account"
    """May have been carried out.

    Only the same account, idempotency key and bytes may be tried again.
    """
    FAIL = "fail"
    """Fails for good, whichever key asks."""


class Cooldown(StrEnum):
    """Why a scope rests. `worker.keypool.cooldowns` says how long, if the provider does not."""

    LIMIT = "limit"
    """A limit is reached."""
    SERVER_ERROR = "server_error"
    """The provider's servers failed."""
    HOURLY_PROBE = "hourly_probe"
    """A person or the provider may lift the refusal at any time: one call an hour finds out."""
    DAILY_PROBE = "daily_probe"
    """The same, but one call a day is enough."""


class Dimension(StrEnum):
    """What a limit counts, and over which time."""

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
    """A limit as the provider stated it, in a header or in the words of a refusal.

    Attributes:
        dimension: What it counts.
        limit: How much a full window allows.
        remaining: What is left now, where the provider says so (for a refusal: `limit - used`,
            never below 0).
        window_ms: The window in milliseconds, where it differs from the dimension's own.
    """

    dimension: Dimension
    limit: int
    remaining: float | None = None
    window_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SeenQuota:
    """A quota of which the provider reports what is used, but not how large it is.

    Attributes:
        dimension: What it counts.
        used: How much of it is used, this call included where it was carried out.
        spent: The call was refused because it was more than what is left.
    """

    dimension: Dimension
    used: int
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer, judged.

    Attributes:
        fate: What becomes of the request.
        code: A stable short name (`rate_limit`, `invalid_key`, …) for logs, audit and metrics.
        reason: One sentence for people. Holds no key, prompt or mail body.
        effect: What happens to `scope`.
        scope: What the effect covers.
        cooldown: Why `scope` rests, which decides how long.
        cooldown_ms: How long it rests, in milliseconds, where the provider states it or its
            calendar does.
        sized: `cooldown_ms` holds for calls of this size or larger: one of fewer tokens may pass
            earlier.
        definite: The request was surely not carried out, or surely was (`Fate.DONE`). False: it may
            have been.
        counted: Whether the provider counted the call against its limits; None: as `definite` and
            `status` say.
        backoff_ms: The least wait before a retry of this request, in milliseconds; None leaves it
            to the retry policy.
        most_repeats: How often a job may try again after answers of this code; None: as often as
            after any fault.
        account: The account that the provider named (Groq's `org_…`), if it did.
        limits: Limits that the answer stated; they belong to account × model (Groq) or account
            (Resend).
        quotas: Quotas of which the answer stated what is used; they belong where `limits` do.
        too_large_limit: The limit that this request can never fit under on this account and model,
            in tokens.
        too_large_in: What that limit counts, where that is known.
        tokens: What the provider counted for this request, in tokens, where it said so.
        input_tokens: How many of them the prompt counted, where it said so.
        cached_tokens: How many tokens of the prompt it had at hand and did not count, where it said
            so.
        output_tokens: How many of them the answer counted, where it said so.
        service_tier: The tier that the provider named in a refusal; limits belong to one.
        emails: How many recipients the call carried, where it carried several emails.
        status: The HTTP status, 0 where there was none.
        certain: The scope is surely to blame. False: the request may be to blame instead, such as
            when a refusal holds nothing but words, or a bare status.
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
"""The code of a verdict on a check of a key: not a job's call, but its answer may state limits."""

SERVER_ERROR = "server_error"
"""The code of a verdict on a provider's 5xx that rests the key."""

UNFINISHED = "concurrent_idempotent_requests"
"""The code of a verdict where an earlier call with the same idempotency key is under way."""

ABANDONED = Verdict(Fate.RETRY, "abandoned", "the job ended before the call was made")
"""No call was made with a lease, so it says nothing of anybody."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A judged answer together with what it brought.

    Attributes:
        verdict: The judgement.
        value: The result for the caller (JSON types only); None unless the verdict is `Fate.DONE`.
    """

    verdict: Verdict
    value: dict[str, Any] | None = field(default=None, repr=False)
