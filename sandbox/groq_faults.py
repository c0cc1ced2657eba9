"""The faults that the simulated Groq knows, and how they break an answer."""

from sandbox import groq_errors
from sandbox.answer import HTML, Answer, Ending
from sandbox.faults import ANSWER_FAULTS, Fault

_BEFORE = frozenset(
    {"reset_before", "hang_before", "edge_blocked", "gateway_page", "rate_limit", "too_large"}
)
KINDS = tuple(sorted({*groq_errors.REFUSALS, *ANSWER_FAULTS, *_BEFORE}))
"""The kinds of faults that Groq knows."""


def break_answer(answer: Answer, fault: Fault) -> None:
    """Break the answer to an accepted call, in the way that the fault names."""
    kind = fault.kind
    if kind == "reset_after":
        answer.ending = Ending.RESET
    elif kind in {"truncated", "stream_cut"}:
        answer.ending = Ending.TRUNCATED
    elif kind in {"hang", "stream_hang"}:
        answer.hold_s = fault.hang_s
        answer.ending = Ending.WHOLE if kind == "hang" else Ending.STALLED
    elif kind != "stream_error":
        answer.chunks = ()
        if kind == "html_ok":
            answer.body, answer.content_type = b"<html><body>Please wait</body></html>", HTML
        elif kind == "broken_json":
            answer.body, answer.content_type = answer.body[:20] + b"...", "application/json"
        else:
            page = groq_errors.gateway_page(fault.status or 502)
            answer.status, answer.body, answer.content_type = (
                page.status,
                page.body,
                page.content_type,
            )
