"""Finds the parts of Groq's answers that `verdicts` and `limits` do not know."""

from collections.abc import Iterator, Mapping
from typing import Any

from worker.providers.groq.limits import read_refusal, some_limit_name
from worker.providers.response import Answer
from worker.providers.unknowns import Kind, Notice, Shapes, Unknown, unknown_headers
from worker.verdicts import Fate, Verdict

_CODES = {
    "blocked_api_access",
    "capacity_exceeded",
    "context_length_exceeded",
    "invalid_api_key",
    "json_validate_failed",
    "model_decommissioned",
    "model_not_found",
    "model_terms_required",
    "organization_restricted",
    "rate_limit_exceeded",
    "tool_use_failed",
}
_CODE_BEGINNINGS = ("model_permission_blocked", "spend_")
_STATUSES = {
    *(400, 401, 402, 403, 404, 408, 409, 413, 421, 422, 424, 425, 429, 498, 499),
    *(500, 502, 503, 504),
    *range(520, 528),  # of the gateway in front of Groq
}
_REFUSED = {413, 429}
_HEADERS = {
    f"x-ratelimit-{part}-{of}"
    for part in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
}
_HEADER_BEGINNINGS = ("x-ratelimit-", "ratelimit-")
_MESSAGE_FIELDS = {
    "annotations",
    "channel",
    "content",
    "executed_tools",
    "function_call",
    "reasoning",
    "role",
    "tool_calls",
}
_FINISH_REASONS = {"stop", "length", "tool_calls", "function_call", "content_filter"}
_OF_A_MODEL = {"model_blocked", "model_not_found", "model_terms"}
_ALIKE = 20
_MOST_MODELS = 64


class GroqWatch:
    """Finds unknown parts of Groq's answers, and models whose calls all fail alike.

    Args:
        notice: Is called with each finding.
    """

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._failed: dict[str, tuple[str, int]] = {}

    def look(
        self,
        answer: Answer,
        verdict: Verdict,
        *,
        model: str,
        message: Mapping[str, Any],
        finish_reason: Any,
        shapes: Shapes,
    ) -> None:
        """Look at one answer.

        Args:
            answer: Its status, headers and body.
            verdict: The verdict on the answer.
            model: The model of the request.
            message: The assistant's message, or only the fields that the result passes on
                unchanged; empty if there is no message.
            finish_reason: Why the answer ended; None if Groq did not state it.
            shapes: Makes the shapes of the unknown parts.
        """
        for unknown in _unknown_in(
            answer, message=message, finish_reason=finish_reason, shapes=shapes
        ):
            self._notice(unknown)
        if self._fails_alike(model, verdict):
            shape = f"{shapes.of_name(model, numbered=True)}: {verdict.code}"
            self._notice(Unknown("groq", Kind.MODEL, shape))

    def _fails_alike(self, model: str, verdict: Verdict) -> bool:
        if verdict.fate is Fate.DONE:
            self._failed.pop(model, None)
            return False
        if verdict.fate not in {Fate.FAIL, Fate.OTHER_ACCOUNT} and verdict.code not in _OF_A_MODEL:
            return False  # the key or a limit is at fault, or an outage, which ends
        code, times = self._failed.pop(model, ("", 0))
        times = times + 1 if code == verdict.code else 1
        self._failed[model] = verdict.code, times
        if len(self._failed) > _MOST_MODELS:
            del self._failed[next(iter(self._failed))]
        return times >= _ALIKE


def _unknown_in(
    answer: Answer, *, message: Mapping[str, Any], finish_reason: Any, shapes: Shapes
) -> Iterator[Unknown]:
    yield from unknown_headers(
        answer, "groq", beginnings=_HEADER_BEGINNINGS, known=_HEADERS, shapes=shapes
    )
    if answer.ok:
        yield from _unknown_in_message(message, finish_reason, shapes)
        return
    code = answer.code
    if code and code not in _CODES and not code.startswith(_CODE_BEGINNINGS):
        yield Unknown("groq", Kind.ERROR_CODE, f"{answer.status} {shapes.of_name(code)}")
    if answer.status not in _STATUSES and answer.status >= 400:  # noqa: PLR2004
        yield Unknown("groq", Kind.STATUS, str(answer.status))
    if answer.status in _REFUSED and answer.message:
        yield from _unknown_in_refusal(answer, shapes)


def _unknown_in_message(
    message: Mapping[str, Any], finish_reason: Any, shapes: Shapes
) -> Iterator[Unknown]:
    given = (name for name, value in message.items() if value is not None)
    for name in given:
        if name not in _MESSAGE_FIELDS:
            yield Unknown("groq", Kind.MESSAGE_FIELD, shapes.of_name(name))
    if finish_reason is not None and str(finish_reason) not in _FINISH_REASONS:
        yield Unknown("groq", Kind.FINISH_REASON, shapes.of_name(finish_reason))


def _unknown_in_refusal(answer: Answer, shapes: Shapes) -> Iterator[Unknown]:
    refusal = read_refusal(answer.message)
    if refusal.dimension is None and (name := some_limit_name(answer.message)):
        yield Unknown("groq", Kind.LIMIT_NAME, shapes.of_name(name))
    elif refusal.dimension is None or refusal.limit is None:
        yield Unknown("groq", Kind.REFUSAL, f"{answer.status} {shapes.of_sentence(answer.message)}")
