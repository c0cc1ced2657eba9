"""The FastAPI example's page in a real browser: Debian's Chromium, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.chromium import ARGUMENTS, CHROMIUM, NEEDS_BROWSER

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (PyPI: playwright)"
)
pytestmark = NEEDS_BROWSER

WITHIN_MS = 30_000
# The events that the page receives, and the length of the answer at each change.
WATCH_JS = """window.heard = []; window.lengths = [];
window.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    for (const kind of ["start", "restart", "delta", "end"])
      this.addEventListener(kind, (event) => heard.push([kind, event.lastEventId]));
  }
};
addEventListener("DOMContentLoaded", () => {
  const answer = document.getElementById("answer");
  new MutationObserver(() => lengths.push(answer.textContent.length)).observe(answer, { childList: true });
});"""
DONE_JS = """() => document.getElementById("status").textContent === "Done." """


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open the page at an address; it must report no error."""
    complaints: list[str] = []
    with playwright_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(base_url=url)
        page.add_init_script(WATCH_JS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.goto("/")
        yield page
        browser.close()
    assert complaints == []


@pytest.fixture
def page(examples: Any) -> Iterator[Any]:
    with opened(examples.url("fastapi")) as page:
        yield page


@pytest.mark.parametrize("name", ["express", "nextjs"])
def test_a_page_of_the_examples_in_node_shows_the_answer(examples: Any, name: str) -> None:
    with opened(examples.url(name)) as page:
        page.get_by_role("button", name="Ask").click()
        page.get_by_role("status").filter(has_text="Done.").wait_for(timeout=WITHIN_MS)
        assert page.get_by_text("Sandbox ").is_visible()


def beginning(url: str, *, events: int) -> str:
    """Return the first events of a stream."""
    kept = ""
    with httpx.stream("GET", url, timeout=40) as answer:
        for line in answer.iter_lines():
            kept += f"{line}\n"
            if kept.count("\ndata: ") == events and not line:
                break
    return kept


def test_an_answer_grows_survives_a_lost_connection_and_is_there_again_after_a_reload(
    examples: Any, page: Any
) -> None:
    visits = 0

    def cut(route: Any) -> None:
        nonlocal visits
        visits += 1
        if visits == 1:  # this connection breaks after three events
            start = beginning(route.request.url, events=3).replace("retry: 1000", "retry: 50")
            route.fulfill(body=start, content_type="text/event-stream")
        else:
            route.continue_()

    page.route("**/events", cut)
    with page.expect_response("**/completions") as response:
        page.get_by_role("button", name="Ask").click()
    page.wait_for_function(DONE_JS, timeout=WITHIN_MS)
    job = httpx.get(
        examples.url("fastapi") + response.value.json()["job"], params={"wait_s": 30}, timeout=40
    ).json()
    assert page.locator("#answer").text_content() == job["result"]["text"]
    kinds, ids = zip(*page.evaluate("heard"), strict=True)
    assert (visits, kinds[0], kinds[-1]) == (2, "start", "end")
    assert set(kinds[1:-1]) == {"delta"}
    assert len(set(ids)) == len(ids) > 4  # no event twice
    lengths = [length for length in page.evaluate("lengths") if length]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1

    page.reload()
    page.wait_for_function(DONE_JS, timeout=WITHIN_MS)
    assert page.locator("#answer").text_content() == job["result"]["text"]
