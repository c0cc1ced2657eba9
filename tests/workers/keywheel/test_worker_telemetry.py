"""Spans of OpenTelemetry and reports of Sentry, as their servers receive them from a worker."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import ROOT, Producer, eventually, workers
from tests.tuned import tuned

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `opentelemetry`")
pytest.importorskip("sentry_sdk", reason="the extra `sentry`")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CANARY = "canary-51d0"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
SHOP = """
from opentelemetry import trace
from worker.celery import app

@app.task(name="shop.fail")
async def fail(text):
    with trace.get_tracer("shop").start_as_current_span("of the task"):
        pass
    raise ValueError(f"no {text}")
"""


@dataclass
class Receiver:
    """Receives the posts of both packages."""

    port: int = 0
    spans: list[Any] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        else:
            self.reports += [
                item
                for line in body.splitlines()
                if isinstance(item := json.loads(line), dict) and "exception" in item
            ]

    def of(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {
        attribute.key: attribute.value.string_value or attribute.value.int_value
        for attribute in span.attributes
    }


def test_jobs_attempts_and_waits_are_spans_and_errors_are_reported_without_any_content(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis") as server,
        Sandbox(groq_keys=2, resend_keys=1) as sandbox,
        receiving() as receiver,
    ):
        at = f"127.0.0.1:{receiver.port}"
        environ = sandbox.env() | {
            "REDIS_URL": server.url,
            "KEYWHEEL_TASKS": "shop",
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{at}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "SENTRY_DSN": f"http://public@{at}/1",
            **tuned(max_wait_s=0.5),
        }
        producer = Producer(server.url)
        mail = {"to": "ann@example.com", "subject": CANARY, "text": CANARY}
        with workers(tmp_path, environ):
            sandbox.control("exhaust", service="groq", seconds=3)
            jobs = [
                producer.app.send_task(name, kwargs=kwargs, queue=queue, headers=HEADERS)
                for name, queue, kwargs in (
                    ("tasks.ai.complete", "ai", {"prompt": CANARY}),
                    ("tasks.email.send", "email", mail),
                    ("shop.fail", "jobs", {"text": CANARY}),
                )
            ]
            for job in jobs:
                eventually(job.ready, within_s=30, what="the end of a job")
            eventually(lambda: receiver.reports, what="a report")
        producer.close()
    runs = receiver.of("run tasks.ai.complete")  # the worker has ended and has sent everything
    assert [attributes(run)["celery.state"] for run in runs] == ["RETRY", "SUCCESS"]
    [sent] = receiver.of("run tasks.email.send")
    [failed] = receiver.of("run shop.fail")
    for run in (*runs, sent, failed):
        assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    [waited] = receiver.of("wait in the queue")
    assert waited.parent_span_id == runs[1].span_id
    assert waited.end_time_unix_nano - waited.start_time_unix_nano > 10**8
    calls = receiver.of("call groq")
    assert [attributes(call)["keywheel.code"] for call in calls][-1] == "ok"
    assert calls[-1].parent_span_id == runs[1].span_id
    assert calls[-1].start_time_unix_nano < calls[-1].end_time_unix_nano
    [mailed] = receiver.of("call resend")
    assert mailed.parent_span_id == sent.span_id
    [own] = receiver.of("of the task")
    assert own.parent_span_id == failed.span_id
    assert attributes(failed)["error.type"] == "ValueError"
    [report] = receiver.reports
    [error] = report["exception"]["values"]
    assert (error["type"], report["transaction"]) == ("ValueError", "shop.fail")
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"
    posted = b"".join(receiver.bodies)
    for hidden in (
        CANARY,
        *(key for service in ("groq", "resend") for key in sandbox.keys(service)),
    ):
        at = posted.find(hidden.encode())
        assert at < 0, posted[at - 300 : at + 100]
