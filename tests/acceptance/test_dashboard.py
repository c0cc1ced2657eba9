"""The page of the keys in a real browser, beside a real worker.

Debian's Chromium, driven by Playwright.
"""

import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.flower_process import LOGIN, flower, metric
from tests.acceptance.readability import too_wide, unreadable
from tests.processes import Fleet, StartFleet, eventually

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (PyPI: playwright)"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: chromium)"),
]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
RESET_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def fleet(start_fleet: StartFleet) -> Fleet:
    return start_fleet(
        count=1, groq_keys=3, groq_rpm=3_000, groq_rpd=14_400, groq_tpm=60_000, groq_tpd=0,
        groq_latency_ms=20,
        resend_keys=2, grace_ms=500, settings={"KEYWHEEL_STATUS_INTERVAL_S": "0.5"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> Iterator[str]:
    with flower(fleet.folder / "flower", fleet.environ) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens the page of the keys; at the end no error may stand in any console."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def start(
        url: str, *, size: dict[str, int] = WIDE, dark: bool = False, refused: str = ""
    ) -> Any:
        def hear(told: Any) -> None:
            made_here = (
                refused and f"status of {refused} " in told.text
            )  # the test answers so itself
            if told.type in {"error", "warning"} and not made_here:
                complaints.append(told.text)

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
        page.goto(f"{url}/keys")
        page.get_by_text("Live: updated every second").wait_for()
        return page

    yield start
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def fresh(fleet: Fleet) -> Fleet:
    """All keys as new, with some calls behind them, and no dead letter."""
    fleet.sandbox.control("reset")
    client = fleet.producer.app.backend.client
    if names := client.keys("{kw:dead}:*"):
        client.delete(*names)
    fleet.producer.ask("tasks.admin.reset_keys", include_disabled=True)
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 12)
    fleet.producer.await_all(ids, within_s=30)
    return fleet


def card(page: Any, secret: str) -> Any:
    return page.get_by_role("article", name=f"{secret[:10]}...")


def state(page: Any, secret: str, word: str, *, within_s: float = 10) -> float:
    """Wait until a key's card shows a state; returns how long that took, in seconds."""
    started = time.monotonic()
    card(page, secret).locator(".key-state", has_text=word).wait_for(timeout=within_s * 1000)
    return time.monotonic() - started


def screenshot(page: Any, name: str) -> None:
    """Keep a picture where KEEP_SCREENSHOTS names a folder.

    Of the whole page, or of what a phone shows of it.
    """
    if folder := os.environ.get("KEEP_SCREENSHOTS"):
        page.screenshot(
            path=str(Path(folder) / f"{name}.png"), full_page=page.viewport_size != PHONE
        )


def end_some_jobs(fleet: Fleet) -> None:
    """Have jobs that end for good without success.

    A caller's mistake, one that workers died of, an email in doubt.
    """
    call = {
        "at_ms": 1,
        "key": f"{fleet.sandbox.keys('resend')[0][:9]}...",
        "code": "timeout",
        "in_doubt": True,
    }
    mail = {
        "from": "a@team1.example.net",
        "to": "ann@example.com",
        "subject": "canary",
        "text": "canary",
    }
    for name, kwargs, headers in (
        ("tasks.ai.complete", {"prompt": "canary", "temperature": 9}, {}),
        ("tasks.ai.complete", {"prompt": "canary"}, {"deaths": 5, "keywheel_alone": 4}),
        ("tasks.email.send", mail, {"keywheel": {"attempts": 1, "trail": [call]}}),
    ):
        result = fleet.producer.app.send_task(
            name, kwargs=kwargs, queue=name.split(".")[1], headers=headers
        )
        fleet.producer.outcome(result)


# How the page is looked at.
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
        fresh.sandbox.control("exhaust", service="groq", account=key["account"], seconds=45)
    first, second, third = fresh.sandbox.keys("groq")

    fresh.producer.many(
        "tasks.ai.complete", [{"prompt": "x"}] * 12
    )  # they wait until the next test's reset
    page = open_page(site, size=size, dark=dark)
    state(page, first, "disabled")
    state(page, second, "cooling")
    state(page, third, "cooling")
    assert page.get_by_role("article").count() == 5
    page.locator("#service-groq").get_by_text(
        "yes", exact=True
    ).wait_for()  # paused: all keys are out
    wrong = page.get_by_role("list", name="What is wrong").get_by_role("listitem").first
    eventually(
        lambda: re.fullmatch(
            r"No key of Groq serves\. 12 jobs wait\. Next key in 0:[0-4]\d\. Show Groq",
            wrong.inner_text(),
        ),
        what="what is wrong, above everything else",
    )
    assert re.fullmatch(r"🔴 Groq: next key in 0:[0-4]\d · Keys", page.title())
    assert page.evaluate("document.documentElement.dataset.bsTheme") == (
        "dark" if dark else "light"
    )
    assert not too_wide(page)
    screenshot(page, f"{name}-first")
    for kind in ("key-more", "keys-words"):  # what a phone keeps folded
        page.evaluate(
            f"document.querySelectorAll('.{kind}').forEach((one) => {{ one.open = true; }})"
        )
    assert not unreadable(page)
    assert page.get_by_role("meter").count() >= 3
    order = [one.inner_text() for one in page.locator("#service-groq .key-state").all()]
    assert order == sorted(order, key=["disabled", "cooling", "ready"].index), "trouble comes first"
    page.get_by_text("3 jobs ended for good without success").wait_for()
    assert "canary" not in page.content()
    assert not [secret for secret in fresh.sandbox.keys("groq") if secret in page.content()]
    if size == PHONE:
        page.evaluate("document.querySelector('#letters-title').scrollIntoView({block: 'center'})")
    screenshot(page, name)


def test_the_page_of_a_job_counts_its_calls_only_where_they_are_known(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    (served,) = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}])
    fresh.producer.await_all([served], within_s=30)
    wrong = fresh.producer.app.send_task(
        "tasks.ai.complete", kwargs={"prompt": "x", "temperature": 9}, queue="ai"
    )
    fresh.producer.outcome(wrong)
    for job, ended, calls in ((served, "It succeeded", 0), (wrong.id, "It failed", 1)):
        page.goto(f"{site}/keys/jobs/{job}")
        page.get_by_text(ended).wait_for()
        assert page.locator("#job-facts").get_by_text("Calls", exact=True).count() == calls


def test_a_cooling_key_counts_down_and_a_reset_brings_it_back(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    first = fresh.sandbox.keys("groq")[0]
    fresh.sandbox.control("exhaust", service="groq", seconds=45)
    ids = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 12)
    state(page, first, "cooling", within_s=20)
    left = card(page, first).locator(".key-left").first

    def seconds() -> int:
        return int(left.inner_text().split()[0])

    before = seconds()
    assert 0 < before <= 60
    eventually(lambda: seconds() <= before - 2, within_s=6, what="the countdown")
    assert not [url for url in requests if "api-keys/status" in url or "/events" in url], "pushed"
    page.locator(".keys-fact-note", has_text="deferred").wait_for(timeout=20_000)
    page.get_by_text("Deferred jobs, until when and why: ").click()
    waiting = page.get_by_role("list", name="Deferred jobs of Groq").get_by_role("listitem")
    assert re.match(
        r"next try in \d+ s · .*(limit|daily quota).* · job [0-9a-f]{8}…",
        waiting.first.inner_text(),
    )
    titles = "(links) => links.map((one) => one.title)"
    seen = eventually(
        lambda: {*waiting.get_by_role("link").evaluate_all(titles)} & {*ids},
        what="these jobs by their ids",
    )
    assert {one[:8] for one in seen} <= {
        *re.findall(r"job (\w{8})", " ".join(waiting.all_inner_texts()))
    }
    screenshot(page, "deferred")
    eventually(
        lambda: metric(site, 'keywheel_deferrals_total{service="groq"}') >= 1,
        what="deferrals in the metrics",
    )
    assert metric(site, 'keywheel_keys{service="groq",state="cooling"}') >= 1
    fresh.sandbox.control("reset")
    page.get_by_role("button", name="Reset all keys of Groq").click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert "Reset all keys of Groq?" in dialog.inner_text()
    assert f"{first[:10]}...: rests for " in dialog.inner_text()
    dialog.get_by_role("button", name="Reset").click()
    assert state(page, first, "ready", within_s=RESET_WITHIN_S) < RESET_WITHIN_S
    page.locator(".toast", has_text=f"{first[:10]}...").wait_for()
    fresh.producer.await_all(ids, within_s=20)
    page.get_by_role("cell", name=f"flower {LOGIN[0]}").first.wait_for()


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


def test_a_revoked_key_stays_out_until_its_button_is_pressed(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    first = fresh.sandbox.keys("groq")[0]
    fresh.sandbox.control("revoke", key="groq:1")
    fresh.producer.await_all(
        fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 12), within_s=30
    )
    state(page, first, "disabled")
    assert "until reset" in card(page, first).inner_text()
    page.get_by_text(f"The key {first[:10]}... of Groq is disabled: invalid key.").wait_for()
    assert page.title() == "🟠 1 key disabled · Keys"
    fresh.sandbox.control("reset")
    card(page, first).get_by_role("button", name="Reset key").click()
    page.get_by_role("dialog").get_by_role("button", name="Reset").click()
    assert state(page, first, "ready", within_s=RESET_WITHIN_S) < RESET_WITHIN_S
    page.get_by_text("All is well: 3 of 3 keys of Groq and 2 of 2 keys of Resend serve.").wait_for()
    assert page.title() == "Keys · Flower"


def test_a_key_is_disabled_by_keyboard_alone_and_escape_changes_nothing(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    first = fresh.sandbox.keys("groq")[0]
    opener = card(page, first).get_by_role("button", name="Disable key")
    opener.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    assert not unreadable(page)
    screenshot(page, "keys-dialog")
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.textContent") == "Disable"
    assert card(page, first).locator(".key-state").inner_text() == "ready"
    page.keyboard.press("Enter")
    # A browser that is busy may report the first dialog's end only when the second one is open.
    page.evaluate("document.querySelector('#keys-dialog').dispatchEvent(new Event('close'))")
    page.keyboard.type(
        "<img src=x onerror=alert(1)>leaked"
    )  # replaces nothing: the field holds a text to go on from
    page.keyboard.press("Enter")
    state(page, first, "disabled")
    assert "<img src=x onerror=alert(1)>leaked" in card(page, first).inner_text()  # text, no markup
    page.get_by_role("cell", name="onerror").first.wait_for()
    assert page.locator("#keys-page img").count() == 0
    for tick in (False, True):  # what a person took out comes back only where the reset says so
        page.get_by_role("button", name="Reset all keys of Groq").click()
        assert f"{first[:10]}... (" in page.get_by_role("dialog").inner_text()
        assert "by flower ada" in page.get_by_role("dialog").inner_text()
        page.get_by_role("checkbox").set_checked(tick)
        page.get_by_role("dialog").get_by_role("button", name="Reset").click()
        if not tick:
            page.locator(".toast", has_text="Still disabled by people").wait_for()
        state(page, first, "ready" if tick else "disabled")


def test_a_key_is_disabled_for_a_time_has_a_note_and_is_enabled(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    secret = fresh.sandbox.keys("groq")[0]
    its, dialog = card(page, secret), page.get_by_role("dialog")
    assert "last used " in its.inner_text()
    its.get_by_text("Latest calls").click()
    its.get_by_text(re.compile(r"ok · openai/gpt-oss-120b")).first.wait_for()
    assert 4 <= its.get_by_role("link", name="job ").count() <= 8
    assert not unreadable(page)
    its.get_by_role("button", name="Disable key").click()
    dialog.get_by_label("For how long").select_option("an hour")
    dialog.get_by_label("Reason").fill("launch day")
    screenshot(page, "disable-for")
    dialog.get_by_role("button", name="Disable").click()
    state(page, secret, "disabled")
    its.get_by_text(
        re.compile(r"^(1 h 00|59) min( \d\d s)? · launch day, by flower ada")
    ).wait_for()
    assert page.get_by_text("All is well").is_visible(), "a person wanted it"
    its.get_by_role("button", name="Note on").click()
    dialog.get_by_label("Note").fill("belongs to ops")
    dialog.get_by_role("button", name="Keep").click()
    its.get_by_text("belongs to ops", exact=True).wait_for()
    screenshot(page, "disabled-for")
    its.get_by_role("button", name="Enable key").click()
    state(page, secret, "ready")
    its.get_by_role("button", name="Check key").click()
    dialog.get_by_text("The provider accepts this key.").wait_for()
    assert dialog.get_by_role("listitem").count() == 1
    dialog.get_by_role("button", name="Close").click()
    its.get_by_role("button", name="Note on").click()
    dialog.get_by_label("Note").fill("")
    dialog.get_by_role("button", name="Keep").click()
    its.get_by_text("belongs to ops").wait_for(state="hidden")


def test_a_service_is_paused_and_resumed_by_its_buttons(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Pause Groq").click()
    dialog.get_by_label("For how long").select_option("an hour")
    dialog.get_by_label("Reason").fill("they bill us twice")
    dialog.get_by_role("button", name="Pause").click()
    page.get_by_text("Groq is paused by flower ada: they bill us twice.").wait_for()
    assert re.fullmatch(r"🟠 Groq paused: goes on in (1:00:00|59:\d\d) · Keys", page.title())
    ids = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 2)
    page.get_by_text("they bill us twice. 2 jobs wait.").wait_for()
    assert not unreadable(page)
    screenshot(page, "paused")
    page.get_by_text("Deferred jobs, until when and why: paused by a person").click()
    waiting = page.get_by_role("list", name="Deferred jobs of Groq").get_by_role("link")
    waiting.first.click()  # the job's own page
    page.get_by_text(re.compile(r"^It waits: paused by a person\. Next try in \d+:\d\d")).wait_for()
    page.locator("#job-line").get_by_text("went back to its queue, to wait").wait_for()
    assert re.fullmatch(r"next try in \d+:\d\d · job [0-9a-f]{8}", page.title())
    assert not unreadable(page)
    screenshot(page, "job")
    page.set_viewport_size(PHONE)
    assert not too_wide(page)
    screenshot(page, "job-phone")
    page.set_viewport_size(WIDE)
    page.get_by_role("main").get_by_role("link", name="Keys").click()
    page.get_by_text("Live: updated every second").wait_for()
    page.get_by_role("button", name="Resume Groq").click()
    page.get_by_text("All is well").wait_for()
    fresh.producer.await_all(ids, within_s=20)


def test_keys_are_checked_by_a_button_and_unknown_answers_are_listed(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    table = page.get_by_role("region", name="Table of unknown answers")
    assert not table.is_visible()
    fresh.sandbox.control("fault", service="groq", kind="something_new", count=1)
    fresh.sandbox.control("revoke", key="groq:2")
    fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}])
    table.get_by_text("400 brand_new_code").wait_for()
    assert metric(site, 'keywheel_unknown_answers_total{kind="error_code",service="groq"}') >= 1
    page.get_by_role("button", name="Check keys").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("is not accepted: Invalid API Key (HTTP 401)").wait_for()
    lines = dialog.get_by_role("listitem")
    assert lines.count() == 5
    assert "alive · openai/gpt-oss-120b" in lines.first.inner_text()
    assert "dead · Invalid API Key" in lines.nth(1).inner_text()
    assert "100 emails a day" in lines.last.inner_text()
    screenshot(page, "check")
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")
    page.get_by_role("button", name="Reload keys").click()
    dialog.get_by_text("w1@test: 3 groq, 2 resend").wait_for()
    dialog.get_by_role("button", name="Close").click()


def test_what_is_shown_is_called_live_only_while_it_is(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site, refused="503")
    assert page.locator("#letters-count").inner_text() == "No job ended without success.", (
        "it is there from the start"
    )
    client = fresh.producer.app.backend.client
    client.execute_command("CLIENT", "PAUSE", 5_000)  # takes each question and says nothing
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


def test_after_the_login_has_ended_the_page_asks_no_more(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site, refused="401")
    asked: list[Any] = []

    def refuse(route: Any) -> None:
        asked.append(route)
        route.fulfill(status=401, json={"error": "login_required", "message": "Log in."})

    page.route("**/api/admin/**", refuse)
    page.get_by_label("Kind").select_option("failed")
    page.get_by_text("Your login has expired. Reload this page").wait_for()
    before = len(asked)
    page.evaluate(
        "document.dispatchEvent(new Event('visibilitychange'))"
    )  # as when somebody comes back to the tab
    page.get_by_text("Not live").wait_for()
    assert len(asked) == before
    # A browser that is offered a login by such an answer would ask for a password each time.
    request = urllib.request.Request(  # noqa: S310
        f"{site}/api/admin/api-keys/status", headers={"Sec-Fetch-Mode": "cors"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310 - our own
    with caught.value as answer:
        assert not [
            one for one in answer.headers.get_all("WWW-Authenticate", []) if one.startswith("Basic")
        ]


def poisoned(fleet: Fleet, *, wait: bool = True) -> Any:
    """A job that becomes a dead letter at once."""
    result = fleet.producer.app.send_task(
        "tasks.ai.complete",
        kwargs={"prompt": "canary"},
        queue="ai",
        headers={"deaths": 5, "keywheel_alone": 4},
    )
    if wait:
        fleet.producer.outcome(result)
    return result


def test_a_dead_letter_is_replayed_or_dropped_by_its_buttons(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    first, second = poisoned(fresh), poisoned(fresh)
    page = open_page(site)
    row = page.locator(f"tr[data-job='{first.id}']")
    row.wait_for()
    for word in ("tasks.ai.complete", "poison", "5 workers died", "no call"):
        assert word in row.inner_text()
    page.get_by_text("2 jobs ended for good without success").wait_for()
    assert "canary" not in page.content()
    phone = open_page(site, size=PHONE, dark=True)
    phone.locator(f"tr[data-job='{first.id}']").wait_for()
    assert not too_wide(phone)
    for one, name in ((page, "keys-letters"), (phone, "keys-letters-phone")):
        assert not unreadable(one)
        one.locator("#letters-rows").scroll_into_view_if_needed()
        screenshot(one, name)
    phone.close()
    row.get_by_role("button", name="Replay").click()
    dialog = page.get_by_role("dialog")
    assert "Replay tasks.ai.complete?" in dialog.inner_text()
    dialog.get_by_role("button", name="Cancel").click()
    assert row.is_visible()
    row.get_by_role("button", name="Replay").click()
    dialog.get_by_role("button", name="Replay").click()
    row.wait_for(state="detached")
    eventually(
        lambda: fresh.producer.app.AsyncResult(first.id).state == "SUCCESS",
        what="the replayed job's success",
    )
    page.get_by_role("cell", name="replayed", exact=True).first.wait_for()
    page.get_by_label("Kind").select_option("failed")
    page.locator("#letters-table").wait_for(state="hidden")
    page.get_by_text("; none matches.").wait_for()
    assert page.get_by_role("button", name="Drop all that match").is_disabled()
    page.get_by_label("Kind").select_option("poison")
    page.locator(f"tr[data-job='{second.id}']").wait_for()
    page.get_by_role("button", name="Drop all that match").click()
    assert "Drop 1 poison dead letter?" in dialog.inner_text()
    third = poisoned(fresh)  # while somebody makes up his mind
    page.locator(f"tr[data-job='{third.id}']").wait_for()
    dialog.get_by_role("button", name="Drop").click()
    page.locator(f"tr[data-job='{second.id}']").wait_for(state="detached")
    page.get_by_role("cell", name="dropped", exact=True).first.wait_for()
    assert page.locator(f"tr[data-job='{third.id}']").is_visible(), "only what was seen is dropped"


def test_dead_letters_are_selected_searched_and_shown_by_pages(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    first, second, third = poisoned(fresh), poisoned(fresh), poisoned(fresh)
    page = open_page(site)
    for one in (first, second):
        page.get_by_label(f"Select job {one.id}").check()
    screenshot(page, "letters-selected")
    page.get_by_role("button", name="Drop 2 selected").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    page.locator(f"tr[data-job='{first.id}']").wait_for(state="detached")
    search, its = page.get_by_label("Search the dead letters"), f"tr[data-job='{third.id}']"
    search.fill(second.id)
    page.get_by_text("; none matches.").wait_for()
    search.fill(third.id[:13])
    page.locator(its).get_by_role("link", name=third.id).click()
    page.get_by_text("It failed: Poisoned: 5 workers died").wait_for()
    assert not unreadable(page)
    assert "canary" not in page.content()
    page.get_by_role("link", name="poison: show it").click()  # to it alone
    page.locator(its).wait_for()
    assert page.locator("tr[data-job]").count() == 1
    search.fill("")
    for _ in range(21):
        last = poisoned(fresh, wait=False)
    fresh.producer.outcome(last)
    page.get_by_role("button", name="Older dead letters").click()
    page.locator(its).wait_for()
    page.get_by_role("button", name="Newest dead letters").click()
    page.locator(its).wait_for(state="detached")


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
        assert folded.count() == (2 if count == 10 else 0), "a phone folds what is well"
        for one in folded.all():
            one.click()
        assert page.get_by_role("article").count() == 2 * count
        assert page.get_by_text("No key of Groq is configured here").is_visible() == (count == 0)
        assert not too_wide(page)
        assert not unreadable(page)
        page.close()  # before Flower goes, which it would complain about
