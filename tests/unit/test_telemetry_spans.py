"""The place of a run's span, and the attributes of the spans of its calls and waits."""

import contextvars
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `opentelemetry`")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags

from worker.attempts import Attempt
from worker.telemetry.spans import JobSpans

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
SENT = SpanContext(0xAF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=True)
NAMED = {"traceparent": f"00-{SENT.trace_id:032x}-{SENT.span_id:016x}-01"}
OTHER = SpanContext(0xBF7651916CD43DD8448EB211C80319C, 0xC7AD6B7169203331, False, SAMPLED)


def run_below(
    current: SpanContext | None, headers: dict[str, Any] | None
) -> tuple[ReadableSpan, SpanContext]:
    """Begin and end a run inside a span; return the run's span, and the current span in it."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = JobSpans(provider.get_tracer("test"))
    request = SimpleNamespace(headers=headers, delivery_info=None, retries=0)
    task: Any = SimpleNamespace(name="shop.do", request=request)

    def run() -> SpanContext:
        spans._begin(task, "job-1")
        within = trace.get_current_span().get_span_context()
        spans._end(task, "SUCCESS")
        return within

    def start() -> SpanContext:
        if current is None:
            return run()
        with trace.use_span(NonRecordingSpan(current)):
            return run()

    within = contextvars.Context().run(start)
    [span] = exporter.get_finished_spans()
    return span, within


INSTRUMENTED = SpanContext(SENT.trace_id, 0xD7AD6B7169203331, False, SAMPLED)
"""The span that `opentelemetry-instrument` has begun for this run."""


@pytest.mark.parametrize(
    ("current", "headers", "parent"),
    [
        (None, NAMED, SENT),
        (None, None, None),
        (None, {"traceparent": 7, "tracestate": ["x"]}, None),  # written by another program
        (INSTRUMENTED, NAMED, INSTRUMENTED),  # one tree, not the same run twice
        (INSTRUMENTED, None, INSTRUMENTED),
        (OTHER, NAMED, SENT),  # of other code, to whose trace this job does not belong
    ],
)
def test_a_run_belongs_to_its_current_span_or_else_to_the_one_in_its_message(
    current: SpanContext | None, headers: dict[str, Any] | None, parent: SpanContext | None
) -> None:
    span, within = run_below(current, headers)
    assert span.context is not None
    assert within == span.context, "the body's own spans are below it"
    assert (span.parent and span.parent.span_id) == (parent and parent.span_id)
    assert parent is None or span.context.trace_id == parent.trace_id


def test_a_call_that_failed_is_an_error_and_a_wait_below_a_millisecond_has_no_span() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = JobSpans(provider.get_tracer("test"))
    for code in ("ok", "rate_limit"):
        spans.attempt("groq", Attempt(0, "gsk_1...", code), took_s=0.5, model="m")
    spans.wait("groq", took_s=0.0009)
    spans.wait("groq", took_s=0.25)
    accepted, refused, waited = exporter.get_finished_spans()
    assert accepted.status.is_unset
    assert (refused.status.status_code, refused.status.description) == (
        StatusCode.ERROR, "rate_limit"
    )  # fmt: skip
    assert waited.name == "wait for a key"
    assert [took_s(span) for span in (accepted, refused, waited)] == [0.5, 0.5, 0.25]


def took_s(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9
