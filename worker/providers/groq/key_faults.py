"""Judges answers of Groq that blame a key, or the organisation that it belongs to."""

import re
from datetime import UTC, datetime
from http import HTTPStatus

from worker.providers.groq.limits import read_refusal
from worker.providers.groq.rejections import is_client_error, is_own, unfit
from worker.providers.response import Answer
from worker.verdicts import Cooldown, Effect, Fate, Scope, Verdict

_MIN_COOLDOWN_MS = 100
_DEAD_KEY_SENTENCE = re.compile(r"invalid api key\.?", re.IGNORECASE)


def key_fault(answer: Answer, *, now_s: float) -> Verdict | None:
    """Judge an answer that blames the key or its organisation; None if it blames neither.

    Args:
        answer: Groq's answer.
        now_s: The time, in seconds since 1970.
    """
    return _fault_of_key(answer) or _fault_of_organisation(answer, now_s)


def _fault_of_key(answer: Answer) -> Verdict | None:
    status, code = answer.status, answer.code
    # The status decides, because the code of a 401 is not reliable. But a 401 that is not in Groq's
    # form comes from a gateway, which refuses every key alike.
    if (status == HTTPStatus.UNAUTHORIZED and is_own(answer)) or (
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


def _fault_of_organisation(answer: Answer, now_s: float) -> Verdict | None:
    status, code = answer.status, answer.code
    account = read_refusal(answer.message).account
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
    unpaid = status == HTTPStatus.PAYMENT_REQUIRED and is_own(answer)
    if unpaid or (spent and is_client_error(status)):
        return Verdict(
            Fate.NEXT_KEY,
            "spend_limit",
            "the organisation's spend limit at Groq is reached",
            effect=Effect.COOL,
            scope=Scope.ACCOUNT,
            # The limit ends on the first of the month. A person may raise it earlier, so one call
            # each hour tests whether it still holds.
            cooldown=Cooldown.HOURLY_PROBE,
            cooldown_ms=_until_next_month_ms(now_s),
            account=account,
            status=status,
        )
    if code == "model_terms_required" and is_client_error(status):
        return unfit(
            "model_terms",
            "the organisation has not accepted the model's terms: accept them in its console, "
            "then reset the key",
            answer,
        )
    return None


def _until_next_month_ms(now_s: float) -> int:
    now = datetime.fromtimestamp(now_s, UTC)
    year, month = divmod(now.year * 12 + now.month, 12)
    first = datetime(year, month + 1, 1, tzinfo=UTC)
    return max(_MIN_COOLDOWN_MS, round((first - now).total_seconds() * 1_000))
