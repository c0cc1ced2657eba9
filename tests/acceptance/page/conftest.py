"""The page of the keys in Debian's Chromium, driven by Playwright, with a real worker."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.flower_process import LOGIN, flower
from tests.acceptance.page.page_driving import WIDE, Open, await_end_of_all_jobs
from tests.chromium import ARGUMENTS, CHROMIUM
from tests.fleets import Fleet, StartFleet
from tests.tuned import tuned


@pytest.fixture(scope="module")
def fleet(start_fleet: StartFleet) -> Fleet:
    return start_fleet(
        count=1, groq_keys=3, groq_rpm=3_000, groq_rpd=14_400, groq_tpm=60_000, groq_tpd=0,
        groq_latency_ms=20,
        resend_keys=2, grace_ms=500, settings=tuned(status_interval_s=0.5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> Iterator[str]:
    with flower(fleet.folder / "flower", fleet.environ) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens the page of the keys, or of a job; at the end no console may have an error."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def start(
        url: str,
        *,
        size: dict[str, int] = WIDE,
        dark: bool = False,
        refused: str = "",
        job: str = "",
    ) -> Any:
        def hear(message: Any) -> None:
            made_here = (
                refused and f"status of {refused} " in message.text
            )  # the test causes this answer itself
            if message.type in {"error", "warning"} and not made_here:
                complaints.append(message.text)

        context = browser.new_context(
            viewport=size,
            color_scheme="dark" if dark else "light",
            http_credentials={"username": LOGIN[0], "password": LOGIN[1]},
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}/keys/jobs/{job}" if job else f"{url}/keys")
        page.get_by_text("State at " if job else "Live: updated every second").wait_for()
        return page

    yield start
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def fresh(fleet: Fleet) -> Fleet:
    """Reset all keys, make some calls with them, and delete all dead letters.

    The jobs that an earlier test left behind end first.
    """
    fleet.sandbox.control("reset")
    client = fleet.producer.app.backend.client
    if names := client.keys("{kw:dead}:*"):
        client.delete(*names)
    fleet.producer.ask("tasks.admin.reset_keys", include_disabled=True)
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 12)
    fleet.producer.await_all(ids, within_s=30)
    await_end_of_all_jobs(fleet)  # jobs of the test before would wait beside those of this test
    return fleet
