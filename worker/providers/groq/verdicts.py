"""What each answer of Groq means: the rows of the verdict table, first match wins."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from pydantic import SecretStr

from worker.providers.groq.limits import Refusal, limits_of, read_refusal
from worker.providers.groq.stream import HeardAnswer
from worker.providers.response import Answer, is_count, safe_sentence
from worker.verdicts import RATE_LIMIT, SERVER_ERROR, Dimension, Effect, Fate, Scope, Verdict

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_MIN_COOLDOWN_MS = 100
_SECOND_MS = 1_000
_MAX_BACKOFF_MS = 300_000
_FLEX_CAPACITY_STATUS = 498
_MOST_GENERATIONS_MORE = (
    2  # each costs its tokens, and a model that fails three times will not learn it
)
_BAD_GENERATION = {"json_validate_failed", "tool_use_failed"}
_DEAD_KEY_SENTENCE = re.compile(r"invalid api key\.?", re.IGNORECASE)
_MOST_TOKENS = (
    10**8
)  # far above what one call can use; charged to a bucket, more would close the account for good
_NOT_NOW = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.TOO_EARLY,
    499,  # somebody between has cut the call
}
_REFUSAL_WORDS = re.compile(
    r"(?:Request too large|Rate limit reached) for model `[^`]{1,200}` in organization `"
)
_NO_TIER = re.compile(r"`service_tier` `[a-z_]{1,32}` is not available for this org")
_UNKNOWN_MODEL = {"model_not_found", "model_decommissioned"}


class GroqJudge:
    """Judges answers of Groq.

    Args:
        fault_cooldown_ms: How long a key rests after a server error, in milliseconds.
        now: Tells the time in seconds since the epoch.
        jitter: Draws a number between two bounds.
    """

    def __init__(
        self,
        *,
        fault_cooldown_ms: int,
        now: Callable[[], float],
        jitter: Callable[[float, float], float],
    ) -> None:
        self._fault_cooldown_ms = fault_cooldown_ms
        self._now = now
        self._jitter = jitter

    def __call__(
        self,
        answer: Answer,
        *,
        value: Mapping[str, Any] | None,
        secret: SecretStr,
        private: Iterable[str] = (),
    ) -> Verdict:
        """Judge one answer.

        Args:
            answer: What came back.
            value: The completion that it brought, None where it brought none.
            secret: The key that was used; it is masked should the answer echo it.
            private: Texts of the request, which no reason may repeat.
        """
        if answer.ok:
            return self._success(answer, value)
        said = safe_sentence(answer.message, secret=secret.get_secret_value(), private=private)
        for rule in (self._key_fault, self._refusal, self._rate, self._server_fault, self._edge):
            if verdict := rule(answer):
                return (
                    verdict
                    if verdict.certain or not said
                    else replace(verdict, reason=f"{verdict.reason}: {said}")
                )
        return _rejection(answer, said)

    def streamed(
        self,
        answer: Answer,
        heard: HeardAnswer,
        *,
        value: Mapping[str, Any] | None,
        secret: SecretStr,
        private: Iterable[str] = (),
    ) -> Verdict:
        """Judge an answer that came in pieces.

        Args:
            answer: The status and headers; the status and body of the error that came instead of
                the rest, if one did.
            heard: What came.
            value: The completion that it adds up to, None where it is not complete.
            secret: The key that was used.
            private: Texts of the request, which no reason may repeat.
        """
        if heard.error is not None:
            # Not definite whatever it says: some of the answer was made, and is counted.
            verdict = self(answer, value=None, secret=secret, private=private)
            return replace(verdict, definite=False, counted=True)
        if heard.stopped:
            said = safe_sentence(heard.stopped, secret=secret.get_secret_value(), private=private)
            sentence = f"Groq stopped in the middle of the answer: {said}"
            return self._broken_off("stream_stopped", sentence, answer, scope=Scope.MODEL)
        if value is None and not heard.unreadable:
            return self._broken_off("stream_cut", "the answer ended before it was complete", answer)
        return self._success(answer, value)

    def _broken_off(
        self, code: str, sentence: str, answer: Answer, *, scope: Scope = Scope.HOST
    ) -> Verdict:
        limits = limits_of(answer)
        return Verdict(
            Fate.RETRY,
            code,
            sentence,
            scope=scope,
            definite=False,
            limits=limits,
            status=answer.status,
        )

    def _success(self, answer: Answer, value: Mapping[str, Any] | None) -> Verdict:
        limits = limits_of(answer)
        if value is None:
            return Verdict(
                Fate.RETRY,
                "unreadable_answer",
                "Groq answered with something that is no completion",
                scope=Scope.HOST,
                definite=False,
                limits=limits,
                status=answer.status,
            )
        usage = value["usage"]
        return Verdict(
            Fate.DONE,
            "ok",
            limits=limits,
            tokens=_counted_tokens(usage),
            input_tokens=_counted_tokens(usage, of="prompt_tokens"),
            output_tokens=_counted_tokens(usage, of="completion_tokens", cached_too=True),
            status=answer.status,
        )

    def _key_fault(self, answer: Answer) -> Verdict | None:
        status, code = answer.status, answer.code
        account = read_refusal(answer.message).account
        # The status decides: the code of a 401 is not reliable.
        if status == HTTPStatus.UNAUTHORIZED or (
            status in {400, 403} and code == "invalid_api_key"
        ):
            return Verdict(
                Fate.NEXT_KEY,
                "invalid_key",
                "Groq does not accept this key",
                effect=Effect.DISABLE,
                scope=Scope.KEY,
                status=status,
                certain=code == "invalid_api_key"
                or _DEAD_KEY_SENTENCE.fullmatch(answer.message.strip()) is not None,
            )
        if status in {400, 403} and code == "organization_restricted":
            return Verdict(
                Fate.NEXT_KEY,
                "organization_restricted",
                "Groq has restricted the whole organisation",
                effect=Effect.DISABLE,
                scope=Scope.ACCOUNT,
                account=account,
                status=status,
            )
        spent = code == "blocked_api_access" or code.startswith("spend_")
        if status == HTTPStatus.PAYMENT_REQUIRED or (spent and _is_client_error(status)):
            return Verdict(
                Fate.NEXT_KEY,
                "spend_limit",
                "the organisation's spend limit at Groq is reached",
                effect=Effect.COOL,
                scope=Scope.ACCOUNT,
                # Until the 1st of the month; somebody may raise the limit before, so one call an
                # hour asks.
                cooldown_ms=min(_HOUR_MS, self._until_next_month_ms()),
                account=account,
                status=status,
            )
        if code == "model_terms_required" and _is_client_error(status):
            return _unfit(
                "model_terms",
                "the organisation has not accepted the model's terms: accept them in its console, "
                "then reset the key",
                answer,
            )
        if status == HTTPStatus.FORBIDDEN and code.startswith("model_permission_blocked"):
            return Verdict(
                Fate.NEXT_KEY,
                "model_blocked",
                "this model is switched off for this key",
                effect=Effect.DISABLE,
                scope=Scope.KEY_RESOURCE,
                status=status,
            )
        return None

    def _refusal(self, answer: Answer) -> Verdict | None:
        """Refused for what it is, though not for good."""
        status = answer.status
        if _is_client_error(status) and answer.code in _BAD_GENERATION:
            # Not definite: the tokens are spent. The message may lead to `failed_generation`, so it
            # is left out.
            return Verdict(
                Fate.RETRY,
                "bad_generation",
                "the model's output did not fit the requested form",
                definite=False,
                most_repeats=_MOST_GENERATIONS_MORE,
                status=status,
            )
        if status not in {413, 429} and not _is_refusal_as_400(answer):
            return None
        refusal = read_refusal(answer.message)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or refusal.never_fits:
            return Verdict(
                Fate.OTHER_ACCOUNT,
                "request_too_large",
                _too_large_sentence(refusal),
                account=refusal.account,
                limits=limits_of(answer, refusal),
                too_large_limit=refusal.limit,
                too_large_in=refusal.dimension,
                service_tier=refusal.service_tier,
                status=status,
            )
        return None

    def _rate(self, answer: Answer) -> Verdict | None:
        if not _is_refusal_as_400(answer) and (
            answer.status != HTTPStatus.TOO_MANY_REQUESTS or answer.is_page
        ):
            return None
        refusal = read_refusal(answer.message)
        stated_ms = _stated_ms(answer.retry_after_ms(now_s=self._now()), refusal.wait_ms)
        return Verdict(
            Fate.NEXT_KEY,
            RATE_LIMIT,
            f"Groq's limit is reached ({refusal.dimension.upper()})"
            if refusal.dimension
            else "Groq's limit is reached",
            effect=Effect.COOL,
            # What holds for a project stays with the key: others of the organisation may be of
            # other projects.
            scope=Scope.KEY_RESOURCE if refusal.project else Scope.ACCOUNT_MODEL,
            cooldown_ms=None
            if stated_ms is None
            else min(max(stated_ms, _MIN_COOLDOWN_MS), _DAY_MS),
            sized=refusal.for_its_size and not refusal.project,
            account=refusal.account,
            limits=limits_of(answer, refusal),
            service_tier=refusal.service_tier,
            status=answer.status,
        )

    def _server_fault(self, answer: Answer) -> Verdict | None:
        """Groq failed.

        Nobody says whether that counts against the limits. If it does, a call is refused later, and
        its words put the bucket right for all; a failure that were counted here and not there would
        waste a call each time.
        """
        status = answer.status
        if status == _FLEX_CAPACITY_STATUS or answer.code == "capacity_exceeded":
            return Verdict(
                Fate.RETRY,
                "flex_capacity",
                "Groq has no flex capacity at the moment",
                backoff_ms=int(self._jitter(1_000, 8_000)),
                status=status,
            )
        backoff_ms = answer.retry_after_ms(now_s=self._now())
        backoff_ms = None if backoff_ms is None else min(backoff_ms, _MAX_BACKOFF_MS)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return Verdict(
                Fate.RETRY,
                "over_capacity",
                "the model is overloaded for every key",
                scope=Scope.MODEL,
                definite=False,
                counted=False,
                backoff_ms=backoff_ms,
                status=status,
            )
        if status == HTTPStatus.FAILED_DEPENDENCY:
            return Verdict(
                Fate.RETRY,
                "dependency_failed",
                "a tool server that the request names has failed",
                definite=False,
                backoff_ms=backoff_ms,
                status=status,
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Verdict(
                Fate.RETRY,
                SERVER_ERROR,
                f"Groq failed (HTTP {status})",
                effect=Effect.COOL,
                scope=Scope.KEY,
                cooldown_ms=self._fault_cooldown_ms,
                definite=False,
                counted=False,
                backoff_ms=backoff_ms,
                status=status,
            )
        if status in _NOT_NOW:
            return Verdict(
                Fate.RETRY,
                "not_now",
                f"Groq did not take the request this time (HTTP {status})",
                definite=False,
                backoff_ms=backoff_ms,
                status=status,
            )
        return None

    def _edge(self, answer: Answer) -> Verdict | None:
        """The answer of something before Groq: it hits every key alike."""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            backoff_ms = answer.retry_after_ms(now_s=self._now())
            return Verdict(
                Fate.RETRY,
                "edge_limited",
                "something before Groq limits the calls from this address",
                scope=Scope.HOST,
                counted=False,
                backoff_ms=None if backoff_ms is None else min(backoff_ms, _MAX_BACKOFF_MS),
                status=answer.status,
            )
        if (
            answer.status == HTTPStatus.FORBIDDEN and not answer.code
        ) or answer.status < HTTPStatus.BAD_REQUEST:
            return Verdict(
                Fate.RETRY,
                "edge_blocked",
                f"something before Groq refuses this address (HTTP {answer.status})",
                scope=Scope.HOST,
                status=answer.status,
            )
        return None

    def _until_next_month_ms(self) -> int:
        now = datetime.fromtimestamp(self._now(), UTC)
        year, month = divmod(now.year * 12 + now.month, 12)
        first = datetime(year, month + 1, 1, tzinfo=UTC)
        return max(_MIN_COOLDOWN_MS, round((first - now).total_seconds() * 1_000))


def _rejection(answer: Answer, said: str) -> Verdict:
    """The request is refused for what it is.

    For some reasons another organisation may still take it.
    """
    sentence = (
        f"Groq rejects the request: {said}"
        if said
        else f"Groq rejects the request (HTTP {answer.status})"
    )
    if answer.code in _UNKNOWN_MODEL:
        return _unfit("model_not_found", sentence, answer)
    if _NO_TIER.match(answer.message) and answer.status in {400, 403}:
        return _unfit("tier_unavailable", sentence, answer)
    if answer.status == HTTPStatus.NOT_FOUND:  # not Groq's own words: perhaps the URL is wrong
        return Verdict(Fate.OTHER_ACCOUNT, "model_not_found", sentence, status=answer.status)
    if answer.status == HTTPStatus.FORBIDDEN:
        # A refusal with a code that nobody has described: it may hold for this account only.
        return Verdict(Fate.OTHER_ACCOUNT, "forbidden", sentence, status=answer.status)
    return Verdict(Fate.FAIL, "rejected", sentence, status=answer.status)


def _unfit(code: str, sentence: str, answer: Answer) -> Verdict:
    """What was asked for is not to be had of this organisation, but perhaps of others."""
    return Verdict(
        Fate.OTHER_ACCOUNT,
        code,
        sentence,
        effect=Effect.UNFIT,
        scope=Scope.ACCOUNT_MODEL,
        cooldown_ms=_HOUR_MS,
        account=read_refusal(answer.message).account,
        status=answer.status,
    )


def _is_client_error(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR


def _is_refusal_as_400(answer: Answer) -> bool:
    """Whether a limit refused under another status.

    Seen of limits of output tokens, as a plain invalid request.
    """
    return (
        answer.status == HTTPStatus.BAD_REQUEST and _REFUSAL_WORDS.match(answer.message) is not None
    )


def _counted_tokens(
    usage: Mapping[str, Any], *, of: str = "total_tokens", cached_too: bool = False
) -> int | None:
    """What counts against the limits, in tokens: cached prompt tokens do not."""
    total = usage.get(of)
    if not is_count(total) or total > _MOST_TOKENS:
        return None
    if cached_too:
        return total
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return max(0, total - cached) if is_count(cached) else total


def _too_large_sentence(refusal: Refusal) -> str:
    if refusal.limit is None or refusal.requested is None:
        return "the request is larger than this organisation may send for this model"
    if refusal.dimension is Dimension.OTPM:
        return (
            f"the request reserves {refusal.requested} tokens for its answer, this organisation's "
            "limit for this model"
            f" is {refusal.limit}: lower max_completion_tokens"
        )
    whose = "the prompt" if refusal.dimension is Dimension.ITPM else "the request"
    return f"{whose} needs {refusal.requested} tokens, this organisation's limit for this model is {refusal.limit}"


def _stated_ms(header_ms: int | None, words_ms: int | None) -> int | None:
    """The wait that a refusal states.

    In its words to the millisecond, in `retry-after` rounded up to whole seconds.
    """
    if header_ms is None or words_ms is None:
        return words_ms if header_ms is None else header_ms
    return words_ms if header_ms - words_ms <= _SECOND_MS else header_ms
