"""Turns telemetry on in a worker, by the variables that OpenTelemetry and Sentry define."""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from celery import signals

from config.environment import read_environment
from worker.telemetry import noting

_logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER = "OTEL_TRACES_EXPORTER"


def install() -> None:
    """Turn on the telemetry that the environment or the application has configured.

    A missing package or a wrong address of Sentry leads to a warning; the worker runs without it.
    """
    environ = read_environment()
    if _wants_spans(environ):
        _share(environ, "OTEL_")
        try:
            _install_spans(environ)
        except ImportError as exc:
            _warn("OpenTelemetry", "opentelemetry", exc)
    if environ.get("SENTRY_DSN", "").strip():
        _share(environ, "SENTRY_")
        try:
            _install_reports()
        except ImportError as exc:
            _warn("Sentry", "sentry", exc)
        except ValueError as exc:  # Celery would not report it
            _logger.warning("cannot use SENTRY_DSN (%s); no error is reported", exc)


def _wants_spans(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get(_EXPORTER, "").strip().lower()
    if exporter == "none":
        return False
    return bool(
        exporter
        or any(environ.get(name, "").strip() for name in _ENDPOINTS)
        or "opentelemetry.sdk.trace" in sys.modules
    )


def _share(environ: Mapping[str, str], prefix: str) -> None:
    """Copy the variables with a prefix to the process's environment: some may be in `.env` only."""
    for name, value in environ.items():
        if name.startswith(prefix):
            os.environ.setdefault(name, value)


def _install_spans(environ: Mapping[str, str]) -> None:
    from worker.telemetry.provider import ensure_provider  # noqa: PLC0415 - only if it is on
    from worker.telemetry.spans import JobSpans  # noqa: PLC0415 - only if it is on

    provider = ensure_provider(console=environ.get(_EXPORTER, "").strip().lower() == "console")
    spans = JobSpans()
    spans.follow_jobs()
    noting.use(spans)

    if provider is not None:
        shutdown = provider.shutdown

        def flush(**_: Any) -> None:
            shutdown()

        signals.worker_shutdown.connect(flush, weak=False)


def _install_reports() -> None:
    from worker.telemetry.error_reports import start_reports  # noqa: PLC0415 - only if it is on

    start_reports()


def _warn(name: str, extra: str, exc: ImportError) -> None:
    _logger.warning(
        "%s is configured but not installed (%s): pip install 'keywheel[%s]'", name, exc.name, extra
    )
