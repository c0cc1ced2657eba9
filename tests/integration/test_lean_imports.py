"""Unused parts of the SDKs stay out of a worker's memory until they are needed."""

import subprocess
import sys

import pytest

_SEEN = """
import sys
import worker.providers
names = ("requests.api", "charset_normalizer", "rich", "httpx._main")
print([name for name in names if name in sys.modules])
import httpx
import requests.adapters
import resend
from resend.http_client_requests import requests as theirs
print(theirs.Session is requests.Session, callable(httpx.main), resend.RequestsClient.__name__)
"""

_BEFORE = "import httpx, requests\nbefore = requests\n" + _SEEN + "print(requests is before)\n"


def outcome(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_worker_imports_requests_and_terminal_colours_only_on_demand() -> None:
    assert outcome(_SEEN) == ["[]", "True True RequestsClient"]


def test_modules_that_were_loaded_before_stay() -> None:
    assert outcome(_BEFORE)[1:] == ["True True RequestsClient", "True"]


_WORKER = """
import atexit, gc, sys
atexit.register(lambda: print("left out of the search", gc.get_freeze_count() > 0))
import worker.__main__
print("pygments" in sys.modules)
import pygments.lexers
from celery import signals
signals.worker_init.send(sender=None)
# redis-py imports what OpenTelemetry has for metrics, wherever it is installed.
names = "opentelemetry.sdk.trace", "opentelemetry.exporter", "sentry_sdk", "worker.telemetry.spans"
print([name for name in names if name in sys.modules])
"""


@pytest.fixture(scope="module")
def worker_says() -> list[str]:
    return outcome(_WORKER)


def test_a_worker_imports_the_highlighter_of_source_code_only_on_demand(
    worker_says: list[str],
) -> None:
    assert worker_says[0] == "False"


def test_telemetry_that_nobody_asked_for_is_not_imported(worker_says: list[str]) -> None:
    assert worker_says[1] == "[]"


def test_a_process_that_ends_leaves_its_objects_out_of_the_garbage_collection(
    worker_says: list[str],
) -> None:
    assert worker_says[-1] == "left out of the search True"
