"""Telemetry: its set-up, its reports of errors, and that it does nothing while it is off."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `opentelemetry`")
pytest.importorskip("sentry_sdk", reason="the extra `sentry`")

import sentry_sdk
from celery import signals
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from worker.attempts import Attempt
from worker.telemetry import error_reports, noting, provider, spans, startup

CALL = Attempt(0, "gsk_abc123...", "ok")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(noting._Tracing, "spans", None)
    monkeypatch.setattr(noting.time, "monotonic", lambda: 100.0)
    return Mock()


def test_calls_and_waits_are_noted_for_as_long_as_they_took(noted: Any) -> None:
    noting.note_attempt("groq", CALL, 97.5, "m")
    noting.note_shared_attempt("resend", CALL)
    noting.note_wait("groq", began_s=99.0)
    assert noting.headers() == {}
    assert noted.mock_calls == []
    noting.use(noted)
    noting.note_attempt("groq", CALL, 97.5, "m")
    noting.note_shared_attempt("resend", CALL)
    noting.note_wait("groq", began_s=99.0)
    noted.attempt.assert_any_call("groq", CALL, took_s=2.5, model="m")
    noted.attempt.assert_any_call("resend", CALL, took_s=0.0, model="")
    noted.wait.assert_called_once_with("groq", took_s=1.0)
    assert noted.attempt.call_count == 2


def test_a_message_that_goes_back_says_when(noted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noting.use(noted)
    monkeypatch.setattr(noting.time, "time", lambda: 12.3456)
    assert noting.headers() == {"keywheel_sent_ms": 12_346}


# --- OpenTelemetry


@pytest.fixture
def globally(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The providers of the whole process, which has none at first."""
    providers: list[Any] = []
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: providers[-1] if providers else None)
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    return providers


@pytest.mark.parametrize(
    ("configured", "name"),
    [(None, "keywheel"), ("mine", "mine"), ("unknown_service_x", "keywheel")],
)
def test_a_worker_has_one_provider_with_a_name(
    globally: list[Any], monkeypatch: pytest.MonkeyPatch, configured: str | None, name: str
) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=a")
    if configured:
        monkeypatch.setenv("OTEL_SERVICE_NAME", configured)
    made = provider.ensure_provider(console=True)
    assert isinstance(made, TracerProvider)
    assert globally == [made]
    assert made.resource.attributes["service.name"] == name
    assert made.resource.attributes["team"] == "a"
    [processor] = made._active_span_processor._span_processors
    assert isinstance(processor, SimpleSpanProcessor)
    assert provider.ensure_provider(console=True) is None, "the application's own provider stays"
    assert globally == [made]
    made.shutdown()


def test_spans_are_sent_by_otlp_unless_they_are_to_be_printed() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the same extra")
    processor = provider._processor(console=False)
    assert isinstance(processor, BatchSpanProcessor)
    processor.shutdown()


@pytest.mark.parametrize(
    ("exporter", "console"), [("console", True), (" Console ", True), ("otlp", False)]
)
@pytest.mark.parametrize("own", [True, False])
def test_the_spans_of_jobs_are_recorded_and_sent_before_a_worker_ends(
    monkeypatch: pytest.MonkeyPatch, exporter: str, *, console: bool, own: bool
) -> None:
    made, followed, consoles = Mock(), Mock(), []
    monkeypatch.setattr(noting._Tracing, "spans", None)

    def ensure(*, console: bool) -> Any:
        consoles.append(console)
        return made if own else None

    monkeypatch.setattr(provider, "ensure_provider", ensure)
    monkeypatch.setattr(spans.JobSpans, "follow_jobs", followed)
    before = list(signals.worker_shutdown.receivers)
    startup._install_spans({"OTEL_TRACES_EXPORTER": exporter})
    try:
        assert consoles == [console]
        followed.assert_called_once_with()
        assert isinstance(noting._Tracing.spans, spans.JobSpans)
        signals.worker_shutdown.send("a test")
        assert made.shutdown.call_count == own
    finally:
        signals.worker_shutdown.receivers[:] = before
        signals.worker_shutdown.sender_receivers_cache.clear()


def test_a_package_gets_the_variables_that_only_the_file_of_settings_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"OTEL_A": "file", "OTEL_B": "file", "SENTRY_DSN": "https://k@h/1", "OTHER": "x"}
    installed, warned = Mock(), []
    monkeypatch.setattr(startup, "read_environment", lambda: environ)
    monkeypatch.setattr(startup, "_wants_spans", lambda _: True)
    monkeypatch.setattr(startup, "_install_spans", installed)

    def reports() -> None:
        warned.append(startup.os.environ.get("SENTRY_DSN"))
        raise ModuleNotFoundError(name="sentry_sdk")

    monkeypatch.setattr(startup, "_install_reports", reports)
    monkeypatch.setattr(startup, "_warn", lambda *about: warned.append(about[:2]))
    monkeypatch.setattr(startup.os, "environ", {"OTEL_A": "process"})
    startup.install()
    assert startup.os.environ == {
        "OTEL_A": "process", "OTEL_B": "file", "SENTRY_DSN": "https://k@h/1"
    }  # fmt: skip
    installed.assert_called_once_with(environ)
    assert warned == ["https://k@h/1", ("Sentry", "sentry")]


# --- spans


def test_the_span_of_a_run_describes_its_message_without_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracer, recorded = Mock(), []
    of_jobs = spans.JobSpans(tracer)
    monkeypatch.setattr(spans.context, "attach", Mock())
    monkeypatch.setattr(spans.trace, "set_span_in_context", Mock())
    monkeypatch.setattr(spans.time, "time", lambda: 1_000_000.0)
    monkeypatch.setattr(
        of_jobs, "_record", lambda name, **options: recorded.append((name, options["took_s"]))
    )
    task = SimpleNamespace(name="t", request=None)
    now_ms, year_ms = 1_000_000_000, 366 * 86_400_000
    for sent_ms in (now_ms - 2_500, now_ms, now_ms + 1, now_ms - year_ms, True, "1", None):
        task.request = SimpleNamespace(
            headers={"keywheel_sent_ms": sent_ms},
            delivery_info={"routing_key": "ai"},
            retries=2,
        )
        of_jobs._begin(task, "job-1")
    assert recorded == [("wait in the queue", 2.5)]
    options = tracer.start_span.call_args.kwargs
    assert options["attributes"] == {
        "messaging.system": "celery",
        "messaging.operation.type": "process",
        "messaging.message.id": "job-1",
        "messaging.destination.name": "ai",
        "celery.task_name": "t",
        "celery.retries": 2,
    }
    of_jobs._end(task, "FAILURE", ValueError("a prompt"))
    [(status,), _] = tracer.start_span.return_value.set_status.call_args
    assert status.description == "ValueError"
    tracer.start_span.return_value.set_attribute.assert_any_call("error.type", "ValueError")
    tracer.start_span.return_value.set_attribute.assert_any_call("celery.state", "FAILURE")
    tracer.start_span.return_value.end.assert_called_once_with()
    of_jobs._end(SimpleNamespace(request=SimpleNamespace()), "SUCCESS")  # begun before


def test_the_spans_of_jobs_begin_and_end_with_them() -> None:
    of_jobs = spans.JobSpans(Mock())
    before, after = list(signals.task_prerun.receivers), list(signals.task_postrun.receivers)
    try:
        of_jobs.follow_jobs()
        # Dead weak references are removed only now.
        assert signals.task_prerun.receivers[-1][1] == of_jobs._begin
        assert signals.task_postrun.receivers[-1][1] == of_jobs._end
    finally:
        for signal, old in ((signals.task_prerun, before), (signals.task_postrun, after)):
            signal.receivers[:] = old
            signal.sender_receivers_cache.clear()


# --- Sentry


def test_reports_are_started_once_and_take_nothing_that_is_not_redacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    init, client = Mock(), Mock()
    monkeypatch.setattr(sentry_sdk, "init", init)
    monkeypatch.setattr(sentry_sdk, "get_client", lambda: client)
    client.is_active.return_value = True
    error_reports.start_reports()
    init.assert_not_called()
    client.is_active.return_value = False
    error_reports.start_reports(release="1")
    options = init.call_args.kwargs
    integrations = options.pop("integrations")
    assert [type(integration).__name__ for integration in integrations] == [
        "CeleryIntegration", "DedupeIntegration"
    ]  # fmt: skip
    assert options == {
        "default_integrations": False,
        "auto_enabling_integrations": False,
        "include_local_variables": False,
        "max_breadcrumbs": 0,
        "before_send": error_reports.without_content,
        "release": "1",
    }


def test_a_report_keeps_the_type_and_place_of_an_error_and_drops_its_message() -> None:
    frame = {"filename": "a.py", "lineno": 3, "vars": {"prompt": "canary"}}
    error = {"type": "ValueError", "value": "canary", "stacktrace": {"frames": [frame]}}
    event = {
        "exception": {"values": [error, {"type": "KeyError", "value": "canary"}]},
        "extra": {"args": "canary"},
        "request": {"data": "canary"},
        "breadcrumbs": ["canary"],
        "logentry": {"message": "canary"},
        "message": "canary",
        "level": "error",
    }
    hidden = "(hidden: an error's message may quote a prompt or a mail)"
    assert error_reports.without_content(event, {}) == {
        "exception": {
            "values": [
                {
                    "type": "ValueError",
                    "value": hidden,
                    "stacktrace": {"frames": [{"filename": "a.py", "lineno": 3}]},
                },
                {"type": "KeyError", "value": hidden},
            ]
        },
        "level": "error",
    }
    for nothing in ({}, {"exception": None}, {"exception": {"values": None}}):
        assert error_reports.without_content(dict(nothing), {}) == nothing
