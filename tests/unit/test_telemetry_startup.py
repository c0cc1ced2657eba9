"""A worker's messages about variables of OpenTelemetry and Sentry that cannot be used."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from worker import telemetry
from worker.telemetry import startup

OF_OTEL = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "is_set_up", "wanted"),
    [
        ({}, False, False),
        ({}, True, True),  # set up by the application
        ({OF_OTEL: "http://collector:4318"}, False, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318"}, False, True),
        ({OF_OTEL: " "}, False, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, False, True),
        ({"OTEL_TRACES_EXPORTER": "None", OF_OTEL: "http://collector:4318"}, True, False),
        ({"OTEL_SDK_DISABLED": "True", OF_OTEL: "http://collector:4318"}, True, False),
    ],
)
def test_spans_are_made_if_the_environment_or_the_application_wants_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environ: dict[str, str],
    *,
    is_set_up: bool,
    wanted: bool,
) -> None:
    def missing(_: object) -> None:
        raise ModuleNotFoundError(name="opentelemetry")

    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setattr(startup, "_install_spans", missing)
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk.trace", raising=False)
    if is_set_up:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", ModuleType("trace"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    telemetry.install()
    warning = (
        "OpenTelemetry is configured but not installed (opentelemetry): "
        "pip install 'keywheel[opentelemetry]'"
    )
    assert caplog.messages == [warning] * wanted


def test_a_wrong_address_of_sentry_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("sentry_sdk", reason="the extra `sentry`")
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("SENTRY_RELEASE", "1")  # otherwise it would ask git
    monkeypatch.setenv("SENTRY_DSN", "sentry.example.com/1")
    telemetry.install()
    assert "cannot use SENTRY_DSN (Unsupported scheme ''); no error is reported" in caplog.text
