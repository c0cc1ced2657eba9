"""The content of the page, and who may see it."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.flower_process import flower
from tests.acceptance.page.page_driving import (
    PHONE,
    WIDE,
    Open,
    card,
    end_some_jobs,
    enqueue_waiting_jobs,
    screenshot,
    state,
)
from tests.acceptance.readability import colourless, too_wide, unreadable
from tests.chromium import NEEDS_BROWSER
from tests.fleets import Fleet
from tests.processes import eventually

pytestmark = NEEDS_BROWSER


# The name of the picture, the size of the window, and whether the scheme is dark.
@pytest.mark.parametrize(
    ("name", "size", "dark"),
    [
        ("keys-light", WIDE, False),
        ("keys-dark", WIDE, True),
        ("keys-phone", PHONE, False),
        ("keys-phone-dark", PHONE, True),
    ],
)
def test_the_page_is_readable_everywhere(
    fresh: Fleet, site: str, open_page: Open, name: str, size: dict[str, int], *, dark: bool
) -> None:
    end_some_jobs(fresh)
    fresh.sandbox.control("revoke", key="groq:1")
    for key in fresh.sandbox.state()["keys"][1:3]:  # the first three are Groq's
        # A queue is paused only while its keys rest for longer than jobs wait in their worker: this
        # lasts for the whole test, however slow the machine is.
        fresh.sandbox.control("exhaust", service="groq", account=key["account"], seconds=600)
    first, second, third = fresh.sandbox.keys("groq")

    enqueue_waiting_jobs(fresh, 12)
    page = open_page(site, size=size, dark=dark)
    state(page, first, "disabled")
    state(page, second, "cooling")
    state(page, third, "cooling")
    assert page.get_by_role("article").count() == 5
    page.locator("#service-groq").get_by_text(
        "yes", exact=True
    ).wait_for()  # paused, because all keys rest
    wrong = page.get_by_role("list", name="Problems").get_by_role("listitem").first
    eventually(
        lambda: re.fullmatch(
            r"No key of Groq can be used now\. 12 jobs wait\. Next key in [89]:[0-5]\d\. Show Groq",
            wrong.inner_text(),
        ),
        what=lambda: f"the problem above everything else (now {wrong.inner_text()!r})",
    )
    assert re.fullmatch(r"🔴 Groq: next key in [89]:[0-5]\d · Keys", page.title())
    assert page.evaluate("document.documentElement.dataset.bsTheme") == (
        "dark" if dark else "light"
    )
    assert not too_wide(page)
    screenshot(page, f"{name}-first")
    for kind in ("key-more", "keys-words"):  # a phone hides these at first
        page.evaluate(
            f"document.querySelectorAll('.{kind}').forEach((element) => {{ element.open = true; }})"
        )
    assert not unreadable(page)
    assert page.get_by_role("meter").count() >= 3
    order = [word.inner_text() for word in page.locator("#service-groq .key-state").all()]
    assert order == sorted(order, key=["disabled", "cooling", "ready"].index), (
        "keys with trouble come first"
    )
    page.get_by_text("3 jobs ended for good without success").wait_for()
    table = page.locator("#letters-table")
    assert table.evaluate("(element) => element.scrollWidth <= element.clientWidth"), (
        "no button is outside of the view"
    )
    page.emulate_media(forced_colors="active")
    assert not colourless(page), "every element that only a background shows is visible"
    page.emulate_media(forced_colors="none", media="print")
    assert not unreadable(page)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)", (
        "text is black on paper"
    )
    assert not page.get_by_role("button").filter(visible=True).count()
    page.emulate_media(media="screen")
    assert "canary" not in page.content()
    assert not [secret for secret in fresh.sandbox.keys("groq") if secret in page.content()]
    if size == PHONE:
        page.evaluate("document.querySelector('#letters-title').scrollIntoView({block: 'center'})")
    screenshot(page, name)


@pytest.mark.parametrize("size", [WIDE, {"width": 1024, "height": 768}, PHONE])
def test_no_long_name_of_a_caller_widens_a_page(
    fresh: Fleet, site: str, open_page: Open, size: dict[str, int]
) -> None:
    job = fresh.producer.app.send_task(
        "tasks.ai.complete",
        kwargs={"prompt": "x", "model": "m" * 200},
        queue="ai",
        headers={"tenant": "t" * 200},
    )
    fresh.producer.outcome(job)
    page = open_page(site, size=size)
    page.locator(f"tr[data-job='{job.id}']").wait_for()
    for details in page.locator("details").all():
        details.evaluate("(element) => { element.open = true; }")
    assert page.locator(".key-blocks", has_text="m" * 200).count()
    assert not too_wide(page)
    letters = page.locator("#letters-table")
    assert letters.evaluate("(element) => element.scrollWidth <= element.clientWidth"), (
        "the buttons are visible"
    )
    for by, name in (("model", "m"), ("tenant", "t")):
        page.locator("#service-groq").get_by_label("How to group").select_option(by)
        page.locator("#service-groq .plot-legend", has_text=name * 200).wait_for()
        assert not too_wide(page), by
    job_page = open_page(site, size=size, job=job.id)
    job_page.get_by_text("It failed: RequestRejected").wait_for()
    assert not too_wide(job_page)


def test_the_usage_is_drawn_over_time_and_summed_by_key(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    client = fresh.producer.app.backend.client
    eventually(
        lambda: client.keys("{kw:usage}:hour:*"), what="usage, which workers write every 5 s"
    )
    page = open_page(site)
    usage = page.locator("#service-groq .keys-usage")
    usage.get_by_text(re.compile("Calls, last hour: [1-9]")).wait_for()
    plot = usage.get_by_role("slider")
    plot.focus()
    page.keyboard.press("Home")
    usage.get_by_role("button", name="Day", exact=True).click()
    usage.get_by_text(re.compile("Calls, last 24 hours: [1-9]")).wait_for()
    plot.focus()
    page.keyboard.press("End")
    assert re.search(r"accepted \d", plot.get_attribute("aria-valuetext"))
    assert plot.get_attribute("aria-valuenow") == plot.get_attribute("aria-valuemax") == "143"
    assert "accepted: " in usage.locator(".plot-hint").inner_text()
    page.keyboard.press("Escape")
    assert not usage.locator(".plot-hint").is_visible()
    usage.get_by_text("Sums by key").click()
    rows = usage.locator("tbody tr")
    rows.first.wait_for()
    assert {row.inner_text()[:13] for row in rows.all()} <= {
        f"{secret[:10]}..." for secret in fresh.sandbox.keys("groq")
    }
    usage.get_by_label("How to group").select_option("model")
    usage.locator(".usage-legend", has_text="openai/gpt-oss-120b").wait_for()
    with page.expect_download() as download:
        usage.get_by_role("link", name="CSV").click()
    assert download.value.path().read_text().startswith("time,service,model,calls,accepted,")
    assert not unreadable(page)
    screenshot(page, "usage")
    page.reload()
    usage.get_by_text("Calls, last 24 hours: ").wait_for()


def test_the_page_says_live_only_while_it_shows_the_current_state(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site, refused="503")
    assert page.locator("#letters-count").inner_text() == "No job ended without success.", (
        "the count is there from the start"
    )
    client = fresh.producer.app.backend.client
    client.execute_command("CLIENT", "PAUSE", 5_000)  # accepts each command and does not answer
    page.get_by_text("Not live: this is the state at").wait_for(timeout=8_000)
    assert page.title() == "⚪ not live · Keys"
    page.get_by_text("Live: updated every second").wait_for()
    assert page.title() == "Keys · Flower"
    page.route("**/api-keys/events", lambda _: None)
    page.reload()
    page.get_by_text("Still loading: no answer yet.").wait_for(timeout=8_000)
    page.unroute("**/api-keys/events")
    page.reload()
    page.get_by_text("Live: updated every second").wait_for()
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    page.get_by_text("its maxmemory-policy is allkeys-lru").wait_for()
    client.config_set("maxmemory-policy", "noeviction")
    page.get_by_text("its maxmemory-policy is").wait_for(state="hidden")
    client.config_set("maxmemory", "0")
    trouble = {"error": "redis_unreachable", "message": "Redis does not answer."}
    page.route("**/api/admin/**", lambda route: route.fulfill(status=503, json=trouble))
    page.reload()
    page.get_by_text("Redis does not answer. Trying again.").wait_for()
    assert page.locator("#letters-count").inner_text() == "Not known yet."
    assert page.get_by_role("cell", name="Not known yet.").is_visible()
    page.unroute("**/api/admin/**")
    page.get_by_text("Live: updated every second").wait_for()


def test_many_tabs_of_a_browser_are_live_together_and_their_buttons_work(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    reader = open_page(site)
    # A browser opens six connections to a server.
    others = [reader.context.new_page() for _ in range(7)]
    for page in others:
        page.goto(f"{site}/keys")
        page.get_by_text("Live: updated every second").wait_for()
    reader.close()
    first = fresh.sandbox.keys("groq")[0]
    card(others[-1], first).get_by_role("button", name="Disable key").click()
    others[-1].get_by_role("dialog").get_by_role("button", name="Disable").click()
    for page in others:
        state(page, first, "disabled")
    for page in others[:-1]:  # any of these pages may be the one that reads
        page.close()
    card(others[-1], first).get_by_role("button", name="Enable key").click()
    state(others[-1], first, "ready")


def test_without_keys_or_workers_the_page_says_so_and_no_changed_number_is_read_aloud(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    status = page.evaluate(
        "fetch('/api/admin/api-keys/status').then((response) => response.json())"
    )
    page.route(
        "**/api-keys/events",
        lambda route: route.fulfill(body=f"event: status\ndata: {json.dumps(status)}\n\n"),
    )
    pools = status["services"].values()
    for pool in pools:
        pool["queue"] |= {"workers": 0, "waiting": 0}
    page.reload()
    page.get_by_text("No worker answers, so no job would start.").wait_for()
    pool["queue"] |= {"waiting": 2, "oldest_s": 400.0}
    page.get_by_text("Jobs for Resend cannot start: no worker answers. 2 jobs wait.").wait_for()
    old = page.get_by_role("listitem").filter(has_text="Jobs for Resend have waited for more than")
    page.evaluate("(element) => { element.seen = true; }", old.element_handle())
    pool["queue"] |= {"waiting": 3, "oldest_s": 401.0}
    page.get_by_text("3 jobs wait. Show Resend").wait_for()
    page.get_by_text("The longest wait is 6 min 41 s.").wait_for()
    assert old.evaluate("(element) => element.seen"), (
        "an alert that is written again is read aloud again"
    )
    for pool in pools:
        pool["keys"] = []
        pool["summary"] |= {"keys": 0, "ready": 0}
    page.get_by_text("No key is configured here.", exact=True).wait_for()
    page.get_by_text("wait, but no key of Resend is configured here. 3 jobs wait.").wait_for()
    assert not page.get_by_text("All is well").is_visible()


def test_after_the_login_has_expired_the_page_sends_no_request(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site, refused="401")
    requests: list[Any] = []

    def refuse(route: Any) -> None:
        requests.append(route)
        route.fulfill(status=401, json={"error": "login_required", "message": "Log in."})

    page.route("**/api/admin/**", refuse)
    page.get_by_label("Kind").select_option("failed")
    page.get_by_text("Your login has expired. Reload this page").wait_for()
    before = len(requests)
    page.evaluate(
        "document.dispatchEvent(new Event('visibilitychange'))"
    )  # as when a person returns to the tab
    page.get_by_text("Not live").wait_for()
    assert len(requests) == before
    # A browser that such an answer offers a login would ask for a password each time.
    request = urllib.request.Request(  # noqa: S310
        f"{site}/api/admin/api-keys/status", headers={"Sec-Fetch-Mode": "cors"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310 - our own
    with caught.value as answer:
        assert not [
            scheme
            for scheme in answer.headers.get_all("WWW-Authenticate", [])
            if scheme.startswith("Basic")
        ]


def test_without_a_login_nothing_is_served(site: str) -> None:
    for path in (
        "/",
        "/keys",
        "/tasks",
        "/broker",
        "/api/admin/api-keys/status",
        "/api/admin/api-keys/audit",
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(site + path, timeout=10)  # noqa: S310 - our own
        with caught.value as answer:
            assert answer.code == 401
            assert b"gsk_" not in answer.read()


# How many keys each service has.
@pytest.mark.parametrize("count", [0, 1, 10])
def test_the_page_works_with_any_number_of_keys(
    fleet: Fleet, tmp_path: Path, open_page: Open, count: int
) -> None:
    environ = {"REDIS_URL": fleet.redis.url, "KEYWHEEL_NAMESPACE": f"n{count}"}
    for start in ("GROQ", "RESEND"):
        prefix = {"GROQ": "gsk_", "RESEND": "re_"}[start]
        for number in range(1, count + 1):
            name = f"{start}_API_KEY" if number == 1 else f"{start}_API_KEY_{number}"
            environ[name] = f"{prefix}{number:03d}abcdef{'0' * 40}"
    with flower(tmp_path, environ) as url:
        page = open_page(url, size=PHONE)
        page.locator("#service-resend").wait_for()
        assert page.locator("article").count() == 2 * count
        folded = page.get_by_text("10 keys ready")
        assert folded.count() == (2 if count == 10 else 0), "a phone hides services without trouble"
        for summary in folded.all():
            summary.click()
        assert page.get_by_role("article").count() == 2 * count
        assert page.get_by_text("No key of Groq is configured here").is_visible() == (count == 0)
        assert not too_wide(page)
        assert not unreadable(page)
        page.close()  # before Flower stops, because the page would report that
