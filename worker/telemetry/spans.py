"""Records a span for each run of a job, each call to a provider and each wait, by OpenTelemetry.

The parent of each run is the `traceparent` (W3C) of the message, which OpenTelemetry's
instrumentation for Celery writes in the web application.
"""

import time
from collections.abc import Mapping
from typing import Any

from celery import signals, states
from opentelemetry import context, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from worker.attempts import Attempt
from worker.foreign_json import as_object
from worker.telemetry.noting import SENT_MS

_SPAN = "keywheel_span"
"""The attribute of Celery's request that has the span of the run."""
_OK = "ok"
"""The code of the verdict on a call that succeeded."""
_SHORTEST_WAIT_S = 0.001
_LONGEST_WAIT_MS = 366 * 86_400_000


class JobSpans:
    """Records spans with the tracer that this process has.

    Args:
        tracer: The tracer. Default: one of the global provider.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or trace.get_tracer("keywheel")

    def follow_jobs(self) -> None:
        """Begin a span when a job begins, and end it with the job."""
        signals.task_prerun.connect(self._begin, weak=False)
        signals.task_postrun.connect(self._end, weak=False)

    def _begin(self, task: Any, task_id: str, **_: Any) -> None:
        request = task.request
        headers = as_object(request.headers)
        parent = _parent(propagate.extract(_texts(headers)))
        delivery = request.delivery_info or {}
        span = self._tracer.start_span(
            f"run {task.name}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "celery",
                "messaging.operation.type": "process",
                "messaging.message.id": task_id,
                "messaging.destination.name": str(delivery.get("routing_key") or ""),
                "celery.task_name": task.name,
                "celery.retries": request.retries or 0,
            },
        )
        setattr(request, _SPAN, span)
        # So spans that begin within the task, also a user's own, are children of this one. Nothing
        # detaches it, because the job's context ends with the job.
        context.attach(trace.set_span_in_context(span, parent))
        sent_ms, now_ms = headers.get(SENT_MS), time.time() * 1000
        if type(sent_ms) is int and now_ms - _LONGEST_WAIT_MS < sent_ms < now_ms:
            self._record("wait in the queue", took_s=(now_ms - sent_ms) / 1000)

    def _end(self, task: Any, state: str | None = None, retval: Any = None, **_: Any) -> None:
        span: Span | None = getattr(task.request, _SPAN, None)
        if span is None:
            return
        span.set_attribute("celery.state", state or "UNKNOWN")
        if state == states.FAILURE:
            # The error's message may quote anything.
            span.set_attribute("error.type", type(retval).__name__)
            span.set_status(Status(StatusCode.ERROR, type(retval).__name__))
        span.end()

    def attempt(self, service: str, call: Attempt, *, took_s: float, model: str) -> None:
        """Record a call to a provider that has just ended."""
        attributes = {
            "keywheel.service": service,
            "keywheel.code": call.code,
            "keywheel.key": call.key,
        }
        if model:
            attributes["gen_ai.request.model"] = model
        self._record(
            f"call {service}",
            took_s=took_s,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            error="" if call.code == _OK else call.code,
        )

    def wait(self, service: str, *, took_s: float) -> None:
        """Record a wait for a key that has just ended."""
        if took_s >= _SHORTEST_WAIT_S:
            self._record("wait for a key", took_s=took_s, attributes={"keywheel.service": service})

    def _record(
        self,
        name: str,
        *,
        took_s: float,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: dict[str, str] | None = None,
        error: str = "",
    ) -> None:
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            name, kind=kind, attributes=attributes, start_time=ended_ns - round(took_s * 1e9)
        )
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(ended_ns)


def _parent(sent: context.Context) -> context.Context:
    """Return the context of the parent of a run's span.

    If there is a current span, and the message names no span or a span of the same trace, the
    current span is the parent: `opentelemetry-instrument`, too, begins a span for each run, in the
    trace of the message. Otherwise the parent is the span that the message names.
    """
    here = trace.get_current_span().get_span_context()
    there = trace.get_current_span(sent).get_span_context()
    nested = here.is_valid and (not there.is_valid or here.trace_id == there.trace_id)
    return context.get_current() if nested else sent


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if isinstance(value, str)}
