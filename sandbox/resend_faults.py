"""The faults that the simulated Resend knows, and how they break an answer."""

from sandbox import resend_errors
from sandbox.answer import HTML, Answer, Ending
from sandbox.faults import ANSWER_FAULTS, Fault

_ANSWER_FAULTS = ANSWER_FAULTS - {"stream_error", "stream_cut", "stream_hang"}
_BEFORE = frozenset({"reset_before", "hang_before", "gateway_page"})
KINDS = tuple(sorted({*resend_errors.REFUSALS, *_ANSWER_FAULTS, *_BEFORE}))
"""The kinds of faults that Resend knows."""


def break_answer(answer: Answer, fault: Fault) -> None:
    """Break the answer to an accepted call, in the way that the fault names."""
    if fault.kind == "reset_after":
        answer.ending = Ending.RESET
    elif fault.kind == "truncated":
        answer.ending = Ending.TRUNCATED
    elif fault.kind == "hang":
        answer.hold_s = fault.hang_s
    elif fault.kind == "html_ok":
        answer.body, answer.content_type = b"<html><body>Please wait</body></html>", HTML
    elif fault.kind == "broken_json":
        answer.body = answer.body[:5] + b"..."
    else:
        kind = resend_errors.BY_STATUS.get(fault.status or 500, "application_error")
        refusal = resend_errors.REFUSALS[kind]
        answer.status = fault.status or refusal.status
        answer.body = resend_errors.error_body(answer.status, refusal.name, refusal.message)
