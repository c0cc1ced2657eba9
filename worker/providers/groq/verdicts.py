"""Judges answers of Groq: the first row of the verdict table that matches counts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from pydantic import SecretStr

from worker.providers.base import Judge, unknown_refusal_of_key
from worker.providers.groq.answer import cached_tokens, counted_tokens
from worker.providers.groq.key_faults import key_fault
from worker.providers.groq.limits import limits_of, read_refusal
from worker.providers.groq.rejections import (
    is_client_error,
    is_own,
    rejection_of,
    too_large_sentence,
    wrong_address,
)
from worker.providers.groq.stream import AssembledAnswer
from worker.providers.response import Answer, safe_sentence
from worker.verdicts import RATE_LIMIT, SERVER_ERROR, Cooldown, Effect, Fate, Scope, Verdict

_DAY_MS = 86_400_000
_MIN_COOLDOWN_MS = 100
_SECOND_MS = 1_000
_FLEX_CAPACITY_STATUS = 498
_MOST_GENERATIONS_MORE = 2
"""How often a bad generation is repeated.

Each repetition costs tokens, and a model that fails three times will fail again.
"""
_BAD_GENERATION = {"json_validate_failed", "tool_use_failed"}
_NOT_NOW = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.TOO_EARLY,
    499,  # a proxy cut the call
}
_FAULT: Final = Verdict(
    Fate.RETRY,
    SERVER_ERROR,
    "Groq failed (HTTP {status})",
    effect=Effect.COOL,
    scope=Scope.KEY,
    cooldown=Cooldown.SERVER_ERROR,
    definite=False,
    counted=False,
)
_FOREIGN_FAULT: Final = Verdict(
    Fate.RETRY,
    "edge_blocked",
    "a gateway in front of Groq refuses this address (HTTP {status})",
    scope=Scope.HOST,
    definite=False,
)
_FAULTS: Final[Mapping[int, Verdict]] = {
    HTTPStatus.SERVICE_UNAVAILABLE: Verdict(
        Fate.RETRY,
        "over_capacity",
        "the model is overloaded for every key",
        scope=Scope.MODEL,
        definite=False,
        counted=False,
    ),
    HTTPStatus.FAILED_DEPENDENCY: Verdict(
        Fate.RETRY,
        "dependency_failed",
        "a tool server that the request names has failed",
        definite=False,
    ),
    **dict.fromkeys(
        _NOT_NOW,
        Verdict(
            Fate.RETRY,
            "not_now",
            "Groq did not accept the request this time (HTTP {status})",
            definite=False,
        ),
    ),
}
"""The verdicts on statuses of Groq's own failures; any other 5xx is a `_FAULT`."""
_OF_THE_REQUEST: Final = {HTTPStatus.CONFLICT, HTTPStatus.FAILED_DEPENDENCY}
"""Statuses that concern the request if Groq sends them, but not if a gateway does."""
_TOO_LARGE_ELSEWHERE: Final = (
    "a gateway in front of Groq refuses the request as too large (HTTP 413)"
)
_REFUSAL_WORDS = re.compile(
    r"(?:Request too large|Rate limit reached) for model `[^`]{1,200}` in organization `"
)


class GroqJudge(Judge):
    """Judges answers of Groq."""

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
            answer: Groq's answer.
            value: The completion in the answer; None if it has none.
            secret: The key that was used; it is masked if the answer echoes it.
            private: Texts of the request, which no reason may repeat.
        """
        if answer.ok:
            return self._success(answer, value)
        sentence = safe_sentence(answer.message, secret=secret.get_secret_value(), private=private)
        rules = (
            partial(key_fault, now_s=self._now()),
            self._refusal,
            self._rate,
            self._server_fault,
            self._edge,
            wrong_address,
        )
        return self.by_rules(rules, answer, sentence=sentence) or rejection_of(answer, sentence)

    def streamed(
        self,
        answer: Answer,
        heard: AssembledAnswer,
        *,
        value: Mapping[str, Any] | None,
        secret: SecretStr,
        private: Iterable[str] = (),
    ) -> Verdict:
        """Judge an answer that was streamed.

        Args:
            answer: The status and headers. If an error came instead of the rest, its status and
                body.
            heard: The pieces that arrived.
            value: The completion assembled from the pieces; None if it is not complete.
            secret: The key that was used.
            private: Texts of the request, which no reason may repeat.
        """
        if heard.error is not None:
            # Whatever the error says, a part of the answer was made and is counted: not definite.
            verdict = self(answer, value=None, secret=secret, private=private)
            return replace(verdict, definite=False, counted=True)
        if heard.stopped:
            reason = safe_sentence(heard.stopped, secret=secret.get_secret_value(), private=private)
            sentence = f"Groq stopped in the middle of the answer: {reason}"
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
                "Groq answered with something that is not a completion",
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
            tokens=counted_tokens(usage),
            input_tokens=counted_tokens(usage, of="prompt_tokens"),
            cached_tokens=cached_tokens(usage),
            output_tokens=counted_tokens(usage, of="completion_tokens", cached_too=True),
            status=answer.status,
        )

    def _refusal(self, answer: Answer) -> Verdict | None:
        """Judge a refusal of the request; another try or another account may succeed."""
        status = answer.status
        if is_client_error(status) and answer.code in _BAD_GENERATION:
            # Not definite, because the tokens are spent. The verdict leaves the message out,
            # because it may quote `failed_generation`.
            return Verdict(
                Fate.RETRY,
                "bad_generation",
                "the model's output did not fit the requested format",
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
                too_large_sentence(refusal) if is_own(answer) else _TOO_LARGE_ELSEWHERE,
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
            # The limit of a project is kept for this key only: other keys of the organisation may
            # belong to other projects.
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
        """Judge a failure of Groq.

        The documentation does not state whether a failed call counts against the limits, so a 5xx
        is not counted here. If Groq counts it, a later call is refused, and the refusal corrects
        the bucket for all keys of the account. If we counted it and Groq did not, each failure
        would waste a call.
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
        known = _FAULTS.get(status)
        if status in _OF_THE_REQUEST and not is_own(answer):
            known = _FOREIGN_FAULT
        if known is None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            known = _FAULT
        return known and replace(
            known,
            reason=known.reason.format(status=status),
            backoff_ms=answer.backoff_ms(now_s=self._now()),
            status=status,
        )

    def _edge(self, answer: Answer) -> Verdict | None:
        """Judge the answer of a proxy or gateway in front of Groq, which affects every key."""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            return Verdict(
                Fate.RETRY,
                "edge_limited",
                "a gateway in front of Groq limits the calls from this address",
                scope=Scope.HOST,
                counted=False,
                backoff_ms=answer.backoff_ms(now_s=self._now()),
                status=answer.status,
            )
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return unknown_refusal_of_key("Groq")
        blocked = answer.status == HTTPStatus.FORBIDDEN and not answer.code
        foreign = not is_own(answer)
        proxy = answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        if blocked or foreign or proxy or answer.status < HTTPStatus.BAD_REQUEST:
            return Verdict(
                Fate.RETRY,
                "edge_blocked",
                f"a gateway in front of Groq refuses this address (HTTP {answer.status})",
                scope=Scope.HOST,
                status=answer.status,
            )
        return None


def _is_refusal_as_400(answer: Answer) -> bool:
    """Whether a limit refused the request with status 400 instead of 413 or 429.

    Limits of output tokens have refused requests as plain invalid requests.
    """
    return (
        answer.status == HTTPStatus.BAD_REQUEST and _REFUSAL_WORDS.match(answer.message) is not None
    )


def _stated_ms(header_ms: int | None, words_ms: int | None) -> int | None:
    """Return the wait that a refusal states.

    The message states it to the millisecond, `retry-after` rounded up to whole seconds.
    """
    if header_ms is None or words_ms is None:
        return words_ms if header_ms is None else header_ms
    return words_ms if header_ms - words_ms <= _SECOND_MS else header_ms
