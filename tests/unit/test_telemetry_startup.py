"""What a worker says of variables of OpenTelemetry and Sentry that cannot be used."""

from pathlib import Path

import pytest

from worker import telemetry


def test_a_wrong_address_of_sentry_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("sentry_sdk", reason="the extra `sentry`")
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("SENTRY_RELEASE", "1")  # else it asks git
    monkeypatch.setenv("SENTRY_DSN", "sentry.example.com/1")
    telemetry.install()
    assert "cannot use SENTRY_DSN (Unsupported scheme ''); no error is reported" in caplog.text
