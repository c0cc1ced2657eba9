"""Judges answers of Resend: the first row of the verdict table that matches counts."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from pydantic import SecretStr

from worker.foreign_json import as_text, member
from worker.providers.base import Judge, unknown_refusal_of_key
from worker.providers.durations import duration_ms
from worker.providers.resend.limits import limits_of, quotas_of
from worker.providers.response import Answer, safe_sentence
from worker.verdicts import (
    SERVER_ERROR,
    UNFINISHED,
    Cooldown,
    Effect,
    Fate,
    Scope,
    Verdict,
)

_LAST_STATUS = 599
_HOUR_MS = 3_600_000
_MIN_COOLDOWN_MS = 1_000
_MAX_RATE_COOLDOWN_MS = _HOUR_MS
_MIDNIGHT_JITTER_MS = 60_000
_DEAD_KEY = {"invalid_api_key", "suspended_api_key", "missing_api_key"}
_DEAD_KEY_WORDS = re.compile(r"\bapi key is invalid\b", re.IGNORECASE)
_DEAD_KEY_SENTENCE = re.compile(r"api key is invalid\.?", re.IGNORECASE)
_OWN_NAME = re.compile(r"[a-z]+(?:_[a-z]+)*")
_ENDPOINT_WORDS = re.compile(r"\bendpoint\b", re.IGNORECASE)
_NAMED_CONFLICTS = {UNFINISHED, "resource_locked"}
_NOT_NOW = {
    HTTPStatus.REQUEST_TIMEOUT: ("server_timeout", "Resend gave up waiting for the request"),
    HTTPStatus.MISDIRECTED_REQUEST: (
        "not_now",
        "Resend did not accept the request this time (HTTP 421)",
    ),
    HTTPStatus.TOO_EARLY: ("not_now", "Resend did not accept the request this time (HTTP 425)"),
    499: ("call_cut", "the call was cut before Resend answered (HTTP 499)"),
}
_OWN_FAULTS: Final = {"application_error", "internal_server_error", "service_unavailable"}
"""Resend's names for its own failures, whose status is a 5xx according to its documentation."""
_NOT_CARRIED_OUT: Final = {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}
_NOT_FOR_THIS_KEY = {"restricted_api_key", "invalid_permission", "invalid_access"}
_EXAMPLE_DOMAINS = re.compile(
    r"\btesting email address\b|\bdomains? like `?example\.", re.IGNORECASE
)
_BAD_EMAIL = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}
_EXAMPLE_RECIPIENT: Final = (
    "Resend sends nothing to example domains (example.com, .net, .org, .edu, .test): write to a "
    "real address, or to delivered@resend.dev in a test"
)


class ResendJudge(Judge):
    """Judges answers of Resend."""

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
            answer: Resend's answer.
            value: The id or the results in the answer; None if it has neither.
            secret: The key that was used; it is masked if the answer echoes it.
            private: Texts of the email, which no reason may repeat.
        """
        if value is not None:
            return Verdict(
                Fate.DONE,
                "ok",
                limits=limits_of(answer),
                quotas=quotas_of(answer),
                status=answer.status,
            )
        status = _status_of(answer)
        sentence = safe_sentence(answer.message, secret=secret.get_secret_value(), private=private)
        rules = (
            self._unclear,
            self._conflict,
            self._edge,
            self._key_fault,
            self._rate,
            _wrong_address,
        )
        known = self.by_rules(rules, answer, status, sentence=sentence)
        return known or _rejection(answer, status, sentence)

    def _unclear(self, answer: Answer, status: int) -> Verdict | None:
        """Judge an answer after which the email may have been accepted."""
        own_fault = answer.code in _OWN_FAULTS and status >= HTTPStatus.BAD_REQUEST
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or (
            own_fault and status not in {*_NOT_NOW, *_NOT_CARRIED_OUT}
        ):
            code, sentence = SERVER_ERROR, f"Resend failed (HTTP {status})"
        elif HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            code, sentence = "unreadable_answer", "Resend answered without the email's id"
        elif status in _NOT_NOW:
            code, sentence = _NOT_NOW[status]
        else:
            return None
        return Verdict(
            Fate.SAME_ACCOUNT,
            code,
            sentence,
            effect=Effect.COOL,
            scope=Scope.KEY,
            cooldown=Cooldown.SERVER_ERROR,
            definite=False,
            backoff_ms=answer.backoff_ms(now_s=self._now()),
            limits=limits_of(answer),
            status=status,
        )

    def _key_fault(self, answer: Answer, status: int) -> Verdict | None:
        refused = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        if status not in refused:
            return None
        if answer.code in _NOT_FOR_THIS_KEY and status == HTTPStatus.FORBIDDEN:
            return Verdict(
                Fate.NEXT_KEY,
                "key_restricted",
                "this key may not send from this address",
                effect=Effect.DISABLE,
                scope=Scope.KEY_RESOURCE,
                status=status,
            )
        if answer.code in _NOT_FOR_THIS_KEY:
            # A restricted key may send emails, so the refusal is not about an email.
            return None
        if answer.code == "restricted":
            return Verdict(
                Fate.NEXT_KEY,
                "account_restricted",
                "Resend has restricted this team",
                effect=Effect.COOL,
                scope=Scope.ACCOUNT,
                cooldown=Cooldown.HOURLY_PROBE,
                status=status,
            )
        dead = answer.code in _DEAD_KEY or _DEAD_KEY_WORDS.search(answer.message)
        if not dead and status != HTTPStatus.UNAUTHORIZED:
            return None
        return Verdict(
            Fate.NEXT_KEY,
            "invalid_key",
            "Resend has suspended this key"
            if answer.code == "suspended_api_key"
            else "Resend does not accept this key",
            effect=Effect.DISABLE,
            scope=Scope.KEY,
            status=status,
            # The message may contain these words because it quotes the email.
            certain=answer.code in _DEAD_KEY
            or _DEAD_KEY_SENTENCE.fullmatch(answer.message.strip()) is not None,
        )

    def _rate(self, answer: Answer, status: int) -> Verdict | None:
        above = answer.code == "email_above_quota" and status >= HTTPStatus.BAD_REQUEST
        if not above and (status != HTTPStatus.TOO_MANY_REQUESTS or answer.is_page):
            return None
        # The messages differ from those in the documentation, so the name decides.
        cooldown, cooldown_ms = Cooldown.LIMIT, None
        if answer.code.startswith("daily_quota"):
            code, sentence = "daily_quota", "the team's daily quota is used up"
            jitter_ms = int(self._jitter(0, _MIDNIGHT_JITTER_MS))
            cooldown_ms = self._until_midnight_ms() + jitter_ms
        elif answer.code.startswith("monthly_quota"):
            code, sentence = "monthly_quota", "the team's monthly quota is used up"
            # Only GET /usage states when the quota is reset, and not to a key that may only send.
            cooldown = Cooldown.DAILY_PROBE
        elif above:
            code, sentence = "email_above_quota", "less is left of a quota than the email needs"
            cooldown = Cooldown.HOURLY_PROBE
        else:
            return self._too_fast(answer)
        return Verdict(
            Fate.NEXT_KEY,
            code,
            sentence,
            effect=Effect.COOL,
            scope=Scope.ACCOUNT,
            cooldown=cooldown,
            cooldown_ms=cooldown_ms,
            limits=limits_of(answer),
            quotas=quotas_of(answer, spent=code),
            status=status,
        )

    def _too_fast(self, answer: Answer) -> Verdict:
        stated = answer.retry_after_ms(now_s=self._now())
        if stated is None and (reset := answer.headers.get("ratelimit-reset")):
            stated = duration_ms(reset)
        return Verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            "the team's rate limit at Resend is reached",
            effect=Effect.COOL,
            scope=Scope.ACCOUNT,
            cooldown_ms=None
            if stated is None
            else min(max(stated, _MIN_COOLDOWN_MS), _MAX_RATE_COOLDOWN_MS),
            limits=limits_of(answer),
            status=answer.status,
        )

    def _conflict(self, answer: Answer, status: int) -> Verdict | None:
        if status != HTTPStatus.CONFLICT or answer.code == "invalid_idempotent_request":
            return None
        # A copy of this call may be in flight. A conflict with an unknown name may mean the same.
        named = answer.code if answer.code in _NAMED_CONFLICTS else "conflict"
        return Verdict(
            Fate.SAME_ACCOUNT,
            named,
            "Resend is still processing the same email",
            definite=False,
            backoff_ms=int(self._jitter(1_000, 5_000)),
            limits=limits_of(answer),
            status=status,
        )

    def _edge(self, answer: Answer, status: int) -> Verdict | None:
        """Judge an answer that is not in Resend's form, so a proxy or gateway may have sent it.

        Such an answer affects every key. Resend may have accepted the email before, so nothing is
        certain. Only after a 401 or 429 that is not an HTML page is it certain that the request did
        not reach Resend.
        """
        kept_out = (
            status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS} and not answer.is_page
        )
        own = _is_own(answer) or _DEAD_KEY_SENTENCE.fullmatch(answer.message.strip()) is not None
        if own and status >= HTTPStatus.BAD_REQUEST:
            return None
        if kept_out and status == HTTPStatus.UNAUTHORIZED:
            return unknown_refusal_of_key("Resend", backoff_ms=answer.backoff_ms(now_s=self._now()))
        if kept_out:
            return None
        limited = status == HTTPStatus.TOO_MANY_REQUESTS
        return Verdict(
            Fate.SAME_ACCOUNT,
            "edge_limited" if limited else "edge_blocked",
            "a gateway in front of Resend limits the calls from this address"
            if limited
            else f"a gateway in front of Resend answered instead of it (HTTP {status})",
            scope=Scope.HOST,
            definite=False,
            counted=False,
            backoff_ms=answer.backoff_ms(now_s=self._now()),
            status=status,
        )

    def _until_midnight_ms(self) -> int:
        now = datetime.fromtimestamp(self._now(), UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return max(_MIN_COOLDOWN_MS, round((midnight - now).total_seconds() * 1_000))


def _wrong_address(answer: Answer, status: int) -> Verdict | None:
    """Judge Resend's answer that the address is unknown, which concerns all emails.

    The answer is in Resend's own form, hence certain. A 404 that names no endpoint may be about a
    template.
    """
    nothing = status == HTTPStatus.NOT_FOUND and _ENDPOINT_WORDS.search(answer.message)
    if not nothing and answer.code != "method_not_allowed":
        return None
    return Verdict(
        Fate.RETRY,
        "wrong_address",
        "Resend does not know this URL: RESEND_API_URL is probably wrong",
        scope=Scope.HOST,
        status=status,
    )


def _rejection(answer: Answer, status: int, sentence: str) -> Verdict:
    """Judge an error that no rule knows: Resend rejects this email."""
    if status in _BAD_EMAIL and _EXAMPLE_DOMAINS.search(answer.message):
        return Verdict(
            Fate.FAIL,
            "example_recipient",
            _EXAMPLE_RECIPIENT,
            limits=limits_of(answer),
            status=status,
        )
    sentence = (
        f"Resend rejects the email: {sentence}"
        if sentence
        else f"Resend rejects the email (HTTP {status})"
    )
    if status != HTTPStatus.FORBIDDEN or answer.code == "invalid_from_address":
        code = "idempotency_mismatch" if answer.code == "invalid_idempotent_request" else "rejected"
        return Verdict(Fate.FAIL, code, sentence, limits=limits_of(answer), status=status)
    if answer.code == "validation_error":
        # The domain of the from address is not verified in this team, or the address is Resend's
        # address for tests. Every other email from it would be refused as well.
        return Verdict(
            Fate.OTHER_ACCOUNT,
            "domain_not_verified",
            sentence,
            effect=Effect.DISABLE,
            scope=Scope.KEY_RESOURCE,
            status=status,
        )
    return Verdict(Fate.OTHER_ACCOUNT, "forbidden", sentence, status=status)


def _status_of(answer: Answer) -> int:
    """Return the HTTP status, or the status in the body of a 200, which the SDK reads, too."""
    stated = member(answer.body, "statusCode")
    if answer.ok and type(stated) is int and HTTPStatus.BAD_REQUEST <= stated <= _LAST_STATUS:
        return stated
    return answer.status


def _is_own(answer: Answer) -> bool:
    """Whether an error is in Resend's own form: a lower-case name, such as `not_found`.

    The error of a gateway has its code in another field, or a name such as `NotFound`.
    """
    return _OWN_NAME.fullmatch(as_text(member(answer.body, "name"))) is not None
