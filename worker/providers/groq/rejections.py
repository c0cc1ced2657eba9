"""Judges refusals of Groq that concern the request, not the key.

Another organisation may still accept some of these requests.
"""

import re
from http import HTTPStatus

from worker.foreign_json import as_text, member
from worker.providers.groq.limits import Refusal, read_refusal
from worker.providers.response import Answer
from worker.verdicts import Cooldown, Dimension, Effect, Fate, Scope, Verdict

_NO_TIER = re.compile(r"`service_tier` `[a-z_]{1,32}` is not available for this org")


_OWN_CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")
_UNKNOWN_MODEL = {"model_not_found", "model_decommissioned"}


def rejection_of(answer: Answer, sentence: str) -> Verdict:
    """Judge a refusal that concerns the request, such as its content, model or service tier.

    Args:
        answer: Groq's answer.
        sentence: The answer's message without private texts; may be empty.

    Returns:
        The verdict. After some refusals another organisation may still accept the request.
    """
    sentence = (
        f"Groq rejects the request: {sentence}"
        if sentence
        else f"Groq rejects the request (HTTP {answer.status})"
    )
    if answer.code in _UNKNOWN_MODEL:
        return unfit("model_not_found", sentence, answer)
    if _NO_TIER.match(answer.message) and answer.status in {400, 403}:
        return unfit("tier_unavailable", sentence, answer)
    if answer.status == HTTPStatus.NOT_FOUND:  # with an unknown code or none
        return Verdict(Fate.OTHER_ACCOUNT, "model_not_found", sentence, status=answer.status)
    if answer.status == HTTPStatus.FORBIDDEN:
        # An undocumented code may apply to this account only.
        return Verdict(Fate.OTHER_ACCOUNT, "forbidden", sentence, status=answer.status)
    return Verdict(Fate.FAIL, "rejected", sentence, status=answer.status)


def unfit(code: str, sentence: str, answer: Answer) -> Verdict:
    """Judge a request for something that this organisation does not have, but others may have."""
    return Verdict(
        Fate.OTHER_ACCOUNT,
        code,
        sentence,
        effect=Effect.UNFIT,
        scope=Scope.ACCOUNT_MODEL,
        cooldown=Cooldown.HOURLY_PROBE,
        account=read_refusal(answer.message).account,
        status=answer.status,
    )


def too_large_sentence(refusal: Refusal) -> str:
    """Explain to the caller why a request is too large."""
    if refusal.limit is None or refusal.requested is None:
        return "the request is larger than this organisation may send for this model"
    if refusal.dimension is Dimension.OTPM:
        return (
            f"the request reserves {refusal.requested} tokens for its answer, this organisation's "
            f"limit for this model is {refusal.limit}: lower max_completion_tokens"
        )
    whose = "the prompt" if refusal.dimension is Dimension.ITPM else "the request"
    return (
        f"{whose} needs {refusal.requested} tokens, this organisation's limit for this model is "
        f"{refusal.limit}"
    )


def is_own(answer: Answer) -> bool:
    """Whether an error is in Groq's own form.

    The error of a gateway has its message in another place, or it has no type and a code of another
    form, such as `404` or `DeploymentNotFound`.
    """
    error = member(answer.body, "error")
    if not isinstance(error, dict):
        return False
    code = error.get("code")
    typed = isinstance(error.get("type"), str)
    return typed or code is None or _OWN_CODE.fullmatch(as_text(code)) is not None


def wrong_address(answer: Answer) -> Verdict | None:
    """Judge Groq's answer that the URL is unknown, which concerns all calls, not only this one."""
    if answer.code != "unknown_url":
        return None
    return Verdict(
        Fate.RETRY,
        "wrong_address",
        "Groq does not know this URL: GROQ_BASE_URL is probably wrong",
        scope=Scope.HOST,
        status=answer.status,
    )


def is_client_error(status: int) -> bool:
    """Whether a status is 4xx."""
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
