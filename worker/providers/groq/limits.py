"""Reads the limits that Groq states in the headers of every answer and in the text of refusals."""

import re
from dataclasses import dataclass

from worker.providers.durations import duration_ms
from worker.providers.response import Answer, is_count
from worker.verdicts import Dimension, ObservedLimit

_ORGANISATION = re.compile(r"\borganization\s+`?(org_[A-Za-z0-9]{1,64})")
_PROJECT = re.compile(r"\b(?:in|of|for) project\s+`?([A-Za-z0-9_-]{1,64})")
_SERVICE_TIER = re.compile(r"\bservice tier\s+`?([a-z_]{1,32})\b")
_DIMENSION = re.compile(r"\((RPM|RPD|TPM|TPD|ITPM|OTPM)\)")
_SOME_DIMENSION = re.compile(r"\bper \w{1,12} \(([A-Za-z]{2,8})\)")
_SPELLED = re.compile(
    r"\b(input |output |audio |cached )?(requests|tokens) per (minute|day)\b", re.IGNORECASE
)
_SPELLED_DIMENSION = {
    "requests minute": Dimension.RPM,
    "requests day": Dimension.RPD,
    "tokens minute": Dimension.TPM,
    "tokens day": Dimension.TPD,
    "input tokens minute": Dimension.ITPM,
    "output tokens minute": Dimension.OTPM,
}
_NUMBER = {
    name: re.compile(rf"\b{name}:?\s{{1,4}}([0-9][0-9,]{{0,18}})", re.IGNORECASE)
    for name in ("Limit", "Used", "Requested")
}
_WAIT = re.compile(
    r"\b(?:try again|retry) (?:in|after) "
    r"((?:[0-9]{1,12}(?:\.[0-9]{0,12})?\s?[a-zµ]{0,12}\s?){1,6})",
    re.IGNORECASE,
)
_RESET_TOLERANCE = 0.25
_RESET_SLACK_MS = 1_000
_MINUTE_MS = Dimension.RPM.window_ms


@dataclass(frozen=True, slots=True)
class Refusal:
    """The facts in the message of a 429 or 413; None for each fact that it does not state.

    Attributes:
        account: The organisation.
        dimension: Which limit refused the request.
        limit: The number of tokens or requests that a full window allows.
        used: How many of them were in use.
        requested: How many of them this request would have added.
        wait_ms: After how many milliseconds a request of this size passes.
        service_tier: The service tier to which the limit belongs.
        project: The project to which the limit belongs; None if it is the organisation's limit.
    """

    account: str | None = None
    dimension: Dimension | None = None
    limit: int | None = None
    used: int | None = None
    requested: int | None = None
    wait_ms: int | None = None
    service_tier: str | None = None
    project: str | None = None

    @property
    def never_fits(self) -> bool:
        """Whether the request alone exceeds the limit, so that no wait helps."""
        if self.limit is None or self.requested is None:
            return False
        counts_tokens = self.dimension is None or self.dimension.counts_tokens
        return counts_tokens and self.requested > self.limit

    @property
    def for_its_size(self) -> bool:
        """Whether only requests of this size must wait.

        The capacity that is left for smaller requests is then known.
        """
        counts_tokens = self.dimension is not None and self.dimension.counts_tokens
        return (
            counts_tokens
            and self.wait_ms is not None
            and self.limit is not None
            and self.used is not None
        )

    @property
    def observed(self) -> ObservedLimit | None:
        """The limit, as the key pool takes it."""
        if self.dimension is None or self.limit is None:
            return None
        remaining = None if self.used is None else float(max(0, self.limit - self.used))
        return ObservedLimit(self.dimension, self.limit, remaining)


def read_refusal(message: str) -> Refusal:
    """Read the message of a refusal (wording from recorded traffic).

    Fields stay None if the wording differs.

    Args:
        message: The error's `message`, as Groq wrote it. Never pass a text that echoes the user.
    """
    wait = _word(_WAIT, message)
    return Refusal(
        account=_word(_ORGANISATION, message),
        dimension=_dimension(message),
        limit=_number("Limit", message),
        used=_number("Used", message),
        requested=_number("Requested", message),
        wait_ms=duration_ms(_without_stop(wait)) if wait else None,
        service_tier=_word(_SERVICE_TIER, message),
        project=_word(_PROJECT, message),
    )


def _word(pattern: re.Pattern[str], message: str) -> str | None:
    found = pattern.search(message)
    return found[1] if found else None


def some_limit_name(message: str) -> str:
    """Return the short name of the limit in a refusal, known or unknown; empty if it has none."""
    return _word(_SOME_DIMENSION, message) or ""


def limits_of(answer: Answer, refusal: Refusal | None = None) -> tuple[ObservedLimit, ...]:
    """Return every limit that an answer states.

    If a refusal and a header state the same limit, the refusal counts. If the limit of a project
    refused the request, nothing is returned: other keys of the organisation may belong to other
    projects.
    """
    if refusal is not None and refusal.project is not None:
        return ()
    limits: dict[Dimension, ObservedLimit] = {}
    for limit in (
        _requests_limit(answer),
        _tokens_limit(answer),
        refusal.observed if refusal else None,
    ):
        if limit is not None:
            limits[limit.dimension] = limit
    return tuple(limits.values())


def _tokens_limit(answer: Answer) -> ObservedLimit | None:
    limit = answer.header_int("x-ratelimit-limit-tokens")
    if not limit:
        return None
    remaining = answer.header_int("x-ratelimit-remaining-tokens")
    return ObservedLimit(
        Dimension.TPM, limit, None if remaining is None else float(min(remaining, limit))
    )


def _requests_limit(answer: Answer) -> ObservedLimit | None:
    """Read the limit of requests: a day's (RPD) at Groq, a minute's at some other servers.

    To confuse the two would throttle a key a thousandfold, so the time until the reset decides. A
    bucket of a day refills continuously, so it resets after `used / limit` of a day, as in the
    documentation's example. If the stated reset differs from that and is at most a minute away, the
    limit is a minute's; otherwise it is a day's.

    None is returned if the answer does not show which limit it is: without a reset, with nothing
    used yet, or if an earlier request may have been refilled in part, which the whole number of
    remaining requests does not show.
    """
    limit = answer.header_int("x-ratelimit-limit-requests")
    remaining = answer.header_int("x-ratelimit-remaining-requests")
    reset_ms = duration_ms(answer.headers.get("x-ratelimit-reset-requests", ""))
    if not limit or remaining is None or reset_ms is None or remaining >= limit:
        return None
    used, of_one_ms = limit - remaining, Dimension.RPD.window_ms / limit
    of_a_day_ms = used * of_one_ms
    agrees = abs(reset_ms - of_a_day_ms) <= max(_RESET_SLACK_MS, of_a_day_ms * _RESET_TOLERANCE)
    rounded_ms = of_a_day_ms - reset_ms
    if not agrees and used > 1 and 0 < rounded_ms <= of_one_ms + _RESET_SLACK_MS:
        return None
    by_the_minute = not agrees and reset_ms <= _MINUTE_MS + _RESET_SLACK_MS
    return ObservedLimit(Dimension.RPM if by_the_minute else Dimension.RPD, limit, float(remaining))


def _dimension(message: str) -> Dimension | None:
    if short := _word(_DIMENSION, message):
        return Dimension(short.lower())
    # An unknown limit must not be taken for a known limit with a similar name.
    spelled = None if _SOME_DIMENSION.search(message) else _SPELLED.search(message)
    return (
        _SPELLED_DIMENSION.get(f"{spelled[1] or ''}{spelled[2]} {spelled[3]}".lower())
        if spelled
        else None
    )


def _number(name: str, message: str) -> int | None:
    number = int((_word(_NUMBER[name], message) or "-1").replace(",", ""))
    return number if is_count(number) else None


def _without_stop(words: str) -> str:
    # From "20 seconds or" and "9m38s Need more", keep the duration and drop the rest.
    parts = words.strip().rstrip(".").split()
    while parts and duration_ms(" ".join(parts)) is None:
        parts.pop()
    return " ".join(parts)
