"""The examples' pages in a browser: a second question is sent while the first is answered.

A server of this test gives the answers, because it has to delay the first one.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import ARGUMENTS, CHROMIUM, NEEDS_BROWSER

pytestmark = NEEDS_BROWSER

EXAMPLES = Path(__file__).parents[3] / "examples"
PAGES = {
    "fastapi": "fastapi/page.html",
    "express": "express/page.html",
    "django": "django/web/templates/page.html",
}
LETTERS = "cover-letters"
TOKEN = '<input type="hidden" name="csrfmiddlewaretoken" value="x">'


class _Server(ThreadingHTTPServer):
    """Answers the second question at once, and the first one after the second answer is shown."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.questions: list[str] = []
        self.shown = threading.Event()
        self.first_sent = threading.Event()
        self.second_asked = threading.Event()  # on the page of letters
        self.has_reported = False


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        job = f"job{len(self.server.questions)}"
        self.server.questions.append(job)
        if self.path == "/letters" and job != "job0":
            self.server.second_asked.set()
            self.server.shown.wait(30)
        address = f"/jobs/{job}"
        self._send(json.dumps({"id": job, "job": address, "events": f"{address}/events"}))

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name in PAGES:
            text = (EXAMPLES / PAGES[name]).read_text(encoding="utf-8")
            self._send(text.replace("{% csrf_token %}", TOKEN), kind="text/html")
            return
        if name == LETTERS:
            self._send((EXAMPLES / LETTERS / "page.html").read_text("utf-8"), kind="text/html")
            return
        job = name.split("/")[1]
        if name.startswith("letters/"):
            self._report(job)
            return
        if job != "job0":
            self._answer(name, job)
            return
        self.server.shown.wait(30)
        try:
            self._answer(name, job)
        finally:
            self.server.first_sent.set()

    def _report(self, job: str) -> None:
        """Report the state of a letter: the first one advances while the second is being sent."""
        if job != "job0":
            self._send(json.dumps({"state": "sent"}))
        elif not self.server.has_reported:
            self.server.has_reported = True
            self._send(json.dumps({"state": "running", "step": "outline"}))
        else:
            self.server.second_asked.wait(30)
            self._send(json.dumps({"state": "running", "step": "draft"}))
            self.server.first_sent.set()

    def _answer(self, name: str, job: str) -> None:
        if not name.endswith("/events"):
            self._send(json.dumps({"state": "done", "result": {"text": f"of {job}."}}))
            return
        events = (("start", {}), ("delta", {"text": f"of {job}."}), ("end", {"status": "done"}))
        text = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in events)
        self._send(text, kind="text/event-stream")

    def _send(self, text: str, *, kind: str = "application/json") -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a page has hung up
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shown.set()
    server.second_asked.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_second_question_takes_the_place_of_the_first(server: _Server) -> None:
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name in PAGES:
            server.questions.clear()
            server.shown.clear()
            server.first_sent.clear()
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/{name}")
            with page.expect_request("**/jobs/job0**"):
                page.get_by_role("button", name="Ask").click()
            page.get_by_role("button", name="Ask").click()
            page.get_by_text("of job1.").wait_for()
            server.shown.set()
            assert server.first_sent.wait(30)
            page.evaluate(
                "fetch(location.href).then((response) => response.text())"
            )  # the page shows what it received
            assert page.locator("#answer").inner_text() == "of job1.", name
            assert page.locator("#status").inner_text() == "Done.", name
            page.close()
        _write_two_letters(server, browser.new_page())
        browser.close()


def _write_two_letters(server: _Server, page: Any) -> None:
    server.questions.clear()
    server.shown.clear()
    server.first_sent.clear()
    page.goto(f"http://127.0.0.1:{server.server_port}/{LETTERS}")
    for label in ("Your name", "Address of the company", "Opening"):
        page.get_by_label(label).fill("ann@example.net")
    page.get_by_role("button").click()
    page.get_by_text("Making an outline").wait_for()
    page.get_by_role("button").click()
    assert server.first_sent.wait(30)
    page.evaluate(
        "fetch(location.href).then((response) => response.text())"
    )  # the page shows what it received
    server.shown.set()
    page.get_by_text("Sent.").wait_for()
    assert page.locator("#steps li").all_inner_texts() == []
