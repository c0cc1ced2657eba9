"""Keys and the accounts that own their limits: Groq organisations and Resend teams."""

import hashlib
import math
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from sandbox.limits import DAY_S, MINUTE_S, Bucket, CalendarQuota, FixedWindow

SERVICES = ("groq", "resend")
LIVE, REVOKED, SUSPENDED, RESTRICTED = "live", "revoked", "suspended", "restricted"
DEFAULT_TIER = "on_demand"
_FLEX_FACTOR = 10
_ALNUM = string.ascii_letters + string.digits
_MAX_UNKNOWN = 10_000
_LABEL_CHARS = {"groq": 10, "resend": 9}


@dataclass(frozen=True, slots=True)
class GroqLimits:
    """Limits of an organisation for one model; 0 means no limit.

    The defaults are those of the free tier for a small model (Groq documentation, rate limits).
    """

    rpm: int = 30
    rpd: int = 14_400
    tpm: int = 6_000
    tpd: int = 500_000
    itpm: int = 0
    otpm: int = 0


@dataclass(frozen=True, slots=True)
class ResendLimits:
    """Limits of a team; 0 means no quota.

    The defaults are those of the free plan (Resend documentation, account quotas and limits).
    """

    rps: int = 2
    daily: int = 100
    monthly: int = 3_000


class ModelBuckets:
    """The buckets of one organisation, model and service tier, each full at the start."""

    __slots__ = ("itpm", "otpm", "rpd", "rpm", "tpd", "tpm")

    def __init__(self, limits: GroqLimits) -> None:
        self.itpm = Bucket(limits.itpm, MINUTE_S) if limits.itpm else None
        self.otpm = Bucket(limits.otpm, MINUTE_S) if limits.otpm else None
        self.rpm = Bucket(limits.rpm, MINUTE_S) if limits.rpm else None
        self.rpd = Bucket(limits.rpd, DAY_S) if limits.rpd else None
        self.tpm = Bucket(limits.tpm, MINUTE_S) if limits.tpm else None
        self.tpd = Bucket(limits.tpd, DAY_S) if limits.tpd else None


@dataclass(slots=True)
class Organisation:
    """A Groq organisation.

    Attributes:
        standing: `live`, or the code of the error that every call gets: `organization_restricted`,
            `blocked_api_access`, `spend_limit_reached`.
        model_limits: Limits of single models. The organisation has these models even if other
            organisations do not.
        blocked_models: Models that are switched off, each with the error code that a call gets.
        exhausted_until_s: Until when every call is asked to wait.
    """

    name: str
    limits: GroqLimits = field(default_factory=GroqLimits)
    model_limits: dict[str, GroqLimits] = field(default_factory=dict)
    standing: str = LIVE
    blocked_models: dict[str, str] = field(default_factory=dict)
    exhausted_until_s: float = 0.0
    buckets: dict[str, ModelBuckets] = field(default_factory=dict)
    _first_limits: tuple[GroqLimits, dict[str, GroqLimits]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._first_limits = self.limits, self.model_limits

    def restore(self) -> None:
        """Restore the state of the start."""
        self.limits, self.model_limits = self._first_limits
        self.standing, self.exhausted_until_s = LIVE, 0.0
        self.blocked_models.clear()
        self.buckets.clear()

    def buckets_of(self, model: str, tier: str = DEFAULT_TIER) -> ModelBuckets:
        """The buckets of one model and service tier; those of flex are ten times as large."""
        name = model if tier == DEFAULT_TIER else f"{model} ({tier})"
        found = self.buckets.get(name)
        if found is None:
            limits = self.model_limits.get(model, self.limits)
            if tier == "flex":
                limits = GroqLimits(*(_FLEX_FACTOR * limit for limit in astuple(limits)))
            found = self.buckets[name] = ModelBuckets(limits)
        return found

    def exhaust(self, now_s: float, wait_s: float) -> None:
        """Refuse every call for some time.

        Afterwards, the buckets of requests a minute have room for one call.
        """
        self.exhausted_until_s = now_s + wait_s
        for buckets in self.buckets.values():
            if buckets.rpm is not None:
                buckets.rpm.use_up(now_s, wait_s)

    def set_limits(self, changes: Mapping[str, Any]) -> None:
        """Change limits for all models; the buckets are replaced by new, full ones."""
        self.limits = replace(self.limits, **changes)
        self.model_limits = {
            name: replace(limits, **changes) for name, limits in self.model_limits.items()
        }
        self.buckets.clear()


class Team:
    """A Resend team.

    Attributes:
        domains: The verified sender domains; None accepts every domain.
        exhausted_until_s: Until when every call is asked to wait.
    """

    def __init__(
        self,
        name: str,
        *,
        limits: ResendLimits | None = None,
        domains: frozenset[str] | None = frozenset(),
    ) -> None:
        self.name = name
        self.domains = domains
        self.exhausted_until_s = 0.0
        self.limits = self._first_limits = limits or ResendLimits()
        self.window = FixedWindow(self.limits.rps)
        self.daily = CalendarQuota(self.limits.daily)
        self.monthly = CalendarQuota(self.limits.monthly, monthly=True)

    def exhaust(self, now_s: float, wait_s: float) -> None:
        """Refuse every call for some time."""
        self.exhausted_until_s = now_s + wait_s

    def set_limits(self, changes: Mapping[str, Any]) -> None:
        """Change limits; earlier use still counts."""
        self._limit(replace(self.limits, **changes))

    def restore(self) -> None:
        """Restore the state of the start."""
        self._limit(self._first_limits)
        self.exhausted_until_s = 0.0
        self.window.start_s = -math.inf
        self.daily.used = self.monthly.used = 0

    def _limit(self, limits: ResendLimits) -> None:
        self.limits = limits
        self.window.limit = limits.rps
        self.daily.limit = limits.daily
        self.monthly.limit = limits.monthly


@dataclass(slots=True)
class Key:
    """One secret of one account.

    Attributes:
        fingerprint: The first 12 hex digits of the secret's SHA-256.
        label: The masked form for people.
        standing: `live`, `revoked`, `suspended` or `restricted` (Resend: may send only).
        refusal_form: The status with which Resend refuses the key once it is revoked: 401, 403 or
            400.
    """

    service: str
    secret: str = field(repr=False)
    account: Organisation | Team
    fingerprint: str
    label: str
    standing: str = LIVE
    refusal_form: int = 401


def fingerprint(secret: str) -> str:
    """Return a short name for a secret, from which the secret cannot be derived."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def mask(service: str, secret: str) -> str:
    """The beginning of a secret, as people see it."""
    return secret[: _LABEL_CHARS[service]] + "..."


def make_key(service: str, secret: str, account: Organisation | Team) -> Key:
    """A live key."""
    return Key(service, secret, account, fingerprint(secret), mask(service, secret))


def new_secret(service: str) -> str:
    """A new secret in the provider's format."""
    if service == "groq":
        return "gsk_" + _random(52)
    return f"re_{_random(8)}_{_random(24)}"


def new_organisation_name() -> str:
    """A new organisation name in Groq's format."""
    return "org_01" + _random(24, string.ascii_lowercase + string.digits)


def _random(count: int, alphabet: str = _ALNUM) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(count))


class Accounts:
    """All keys of both providers.

    Args:
        accept_unknown: Give a key that nobody configured an account of its own instead of a
            refusal.
        groq: The limits of such an account at Groq.
        resend: The limits of such an account at Resend.
    """

    def __init__(
        self,
        *,
        accept_unknown: bool = False,
        groq: GroqLimits | None = None,
        resend: ResendLimits | None = None,
    ) -> None:
        self.accept_unknown = accept_unknown
        self.organisations: dict[str, Organisation] = {}
        self.teams: dict[str, Team] = {}
        self.keys: dict[str, dict[str, Key]] = {service: {} for service in SERVICES}
        self._groq = groq or GroqLimits()
        self._resend = resend or ResendLimits()
        self._unknown = 0

    def add_organisation(self, organisation: Organisation, keys: Iterable[str]) -> None:
        """Add a Groq organisation with the secrets of its keys."""
        self.organisations[organisation.name] = organisation
        self._add_keys("groq", organisation, keys)

    def add_team(self, team: Team, keys: Iterable[str]) -> None:
        """Add a Resend team with the secrets of its keys."""
        self.teams[team.name] = team
        self._add_keys("resend", team, keys)

    def _add_keys(self, service: str, account: Organisation | Team, keys: Iterable[str]) -> None:
        for secret in keys:
            if secret in self.keys[service]:
                raise ValueError(f"{service} key {mask(service, secret)} belongs to two accounts")
            self.keys[service][secret] = make_key(service, secret, account)

    def lookup(self, service: str, secret: str) -> Key | None:
        """Return the key with this secret; make one if unknown keys are accepted."""
        key = self.keys[service].get(secret)
        if key is None and self.accept_unknown and secret and self._unknown < _MAX_UNKNOWN:
            self._unknown += 1
            name = f"unknown-{self._unknown}"
            if service == "groq":
                self.add_organisation(Organisation(new_organisation_name(), self._groq), [secret])
            else:
                self.add_team(Team(name, limits=self._resend, domains=None), [secret])
            return self.keys[service][secret]
        return key

    def accounts(self, service: str) -> Iterable[Organisation | Team]:
        """All accounts of a service."""
        return self.organisations.values() if service == "groq" else self.teams.values()

    def account(self, service: str, name: str) -> Organisation | Team | None:
        """The account with that name."""
        return self.organisations.get(name) if service == "groq" else self.teams.get(name)

    def find(self, selector: str) -> list[Key]:
        """The keys that a control call means.

        Args:
            selector: A secret, a fingerprint, a label, or `groq:2` for the second Groq key.
        """
        service, _, number = selector.partition(":")
        if service in SERVICES and number.isdigit():
            known = list(self.keys[service].values())
            return known[int(number) - 1 : int(number)] if int(number) else []
        return [
            key
            for known in self.keys.values()
            for key in known.values()
            if selector in {key.secret, key.fingerprint, key.label}
        ]
