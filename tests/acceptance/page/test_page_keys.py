"""Actions on keys and services on the page."""

import re
from typing import Any

from config.api_key import key_id
from tests.acceptance.flower_process import LOGIN, metric
from tests.acceptance.page.page_driving import (
    PHONE,
    RESET_WITHIN_S,
    WIDE,
    Open,
    card,
    has_focus,
    screenshot,
    state,
)
from tests.acceptance.readability import too_wide, unreadable
from tests.chromium import NEEDS_BROWSER
from tests.fleets import Fleet
from tests.processes import eventually

pytestmark = NEEDS_BROWSER
AN_HOUR_AHEAD = "const now = Date.now; Date.now = () => now() + 3600000;"
"""Sets a browser's clock wrong."""


def test_a_cooling_key_counts_down_and_a_reset_brings_it_back(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    first = fresh.sandbox.keys("groq")[0]
    fresh.sandbox.control("exhaust", service="groq", seconds=600)  # for the whole test
    ids = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 12)
    state(page, first, "cooling", within_s=20)
    left = card(page, first).locator(".key-left").first

    def seconds() -> int:
        minutes, rest = re.findall(r"(\d+) (?:min|s)", left.inner_text())
        return int(minutes) * 60 + int(rest)

    before = seconds()
    assert 400 < before <= 600
    eventually(lambda: seconds() <= before - 2, what="the countdown")
    assert not [url for url in requests if "api-keys/status" in url or "/events" in url], (
        "the page uses the stream and does not poll"
    )
    page.locator(".keys-fact-note", has_text="deferred").wait_for(timeout=20_000)
    page.get_by_text("Deferred jobs, until when and why: ").click()
    waiting = page.get_by_role("list", name="Deferred jobs of Groq").get_by_role("listitem")
    assert re.match(
        r"next try in \d min \d\d s · .*(limit|daily quota).* · job [0-9a-f]{8}…",
        waiting.first.inner_text(),
    )
    titles = "(links) => links.map((link) => link.title)"
    shown_ids = eventually(
        lambda: {*waiting.get_by_role("link").evaluate_all(titles)} & {*ids},
        what="these jobs by their ids",
    )
    assert {job[:8] for job in shown_ids} <= {
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
    all_well = "All is well: 3 of 3 keys of Groq and 2 of 2 keys of Resend are ready."
    page.get_by_text(all_well).wait_for()
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
    # A busy browser may report the end of the first dialog only when the second is open.
    page.evaluate("document.querySelector('#keys-dialog').dispatchEvent(new Event('close'))")
    page.keyboard.type(
        "<img src=x onerror=alert(1)>leaked"
    )  # replaces nothing: the field holds the earlier text to edit
    page.keyboard.press("Enter")
    state(page, first, "disabled")
    assert has_focus(card(page, first).get_by_role("button", name="Enable key"))
    # Shown as text, not as markup.
    assert "<img src=x onerror=alert(1)>leaked" in card(page, first).inner_text()
    page.get_by_role("cell", name="onerror").first.wait_for()
    assert page.locator("#keys-page img").count() == 0
    # A key that a person disabled comes back only if the reset includes it.
    for tick in (False, True):
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
    key_card, dialog = card(page, secret), page.get_by_role("dialog")
    assert "last used " in key_card.inner_text()
    key_card.get_by_text("Latest calls").click()
    key_card.get_by_text(re.compile(r"ok · openai/gpt-oss-120b")).first.wait_for()
    assert 4 <= key_card.get_by_role("link", name="job ").count() <= 8
    assert not unreadable(page)
    key_card.get_by_role("button", name="Disable key").click()
    dialog.get_by_label("For how long").select_option("an hour")
    dialog.get_by_label("Reason").fill("launch day")
    screenshot(page, "disable-for")
    dialog.get_by_role("button", name="Disable").click()
    state(page, secret, "disabled")
    key_card.get_by_text(
        re.compile(r"^(1 h 00|59) min( \d\d s)? · launch day, by flower ada")
    ).wait_for()
    assert page.get_by_text("All is well").is_visible(), (
        "a key that a person disabled is not trouble"
    )
    key_card.get_by_role("button", name="Note on").click()
    dialog.get_by_label("Note").fill("belongs to ops")
    dialog.get_by_role("button", name="Save").click()
    key_card.get_by_text("belongs to ops", exact=True).wait_for()
    screenshot(page, "disabled-for")
    key_card.get_by_role("button", name="Enable key").click()
    state(page, secret, "ready")
    key_card.get_by_role("button", name="Check key").click()
    dialog.get_by_text("The provider accepts this key.").wait_for()
    assert dialog.get_by_role("listitem").count() == 1
    dialog.get_by_role("button", name="Close").click()
    key_card.get_by_role("button", name="Note on").click()
    dialog.get_by_label("Note").fill("")
    dialog.get_by_role("button", name="Save").click()
    key_card.get_by_text("belongs to ops").wait_for(state="hidden")


def test_a_service_is_paused_and_resumed_by_its_buttons(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Pause Groq").click()
    dialog.get_by_label("For how long").select_option("an hour")
    dialog.get_by_label("Reason").fill("they bill us twice")
    dialog.get_by_role("button", name="Pause").click()
    eventually(
        lambda: has_focus(page.get_by_role("button", name="Resume Groq")),
        what="the focus on the button that takes its place",
    )
    page.get_by_text("Groq is paused by flower ada: they bill us twice.").wait_for()
    assert re.fullmatch(r"🟠 Groq paused: resumes in (1:00:00|59:\d\d) · Keys", page.title())
    ids = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 2)
    page.get_by_text("they bill us twice. 2 jobs wait.").wait_for()
    assert not unreadable(page)
    screenshot(page, "paused")
    page.get_by_text("Deferred jobs, until when and why: paused by a person").click()
    waiting = page.get_by_role("list", name="Deferred jobs of Groq").get_by_role("link")
    page.add_init_script(AN_HOUR_AHEAD)
    waiting.first.click()  # opens the job's own page
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
    assert has_focus(page.get_by_role("button", name="Reload keys"))


def test_a_reset_brings_back_no_key_that_was_disabled_after_its_dialog_had_opened(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    first, second, third = fresh.sandbox.keys("groq")

    def disable(secret: str) -> None:
        response = page.context.request.post(
            f"{site}/api/admin/api-keys/disable",
            data={"service": "groq", "key": key_id(secret), "reason": "leaked"},
        )
        assert response.ok, response.text()
        state(page, secret, "disabled")

    disable(first)
    page.get_by_role("button", name="Reset all keys of Groq").click()
    dialog = page.get_by_role("dialog")
    page.get_by_role("checkbox").check()
    disable(second)
    dialog.get_by_role("button", name="Reset").click()
    state(page, first, "ready")
    page.locator(".toast", has_text=f"Still disabled by people: {second[:10]}").wait_for()
    card(page, third).get_by_role("button", name="Reset key").click()
    disable(third)
    dialog.get_by_role("button", name="Reset").click()
    page.locator(".toast", has_text=f"Still disabled by people: {third[:10]}").wait_for()
    for secret in (second, third):
        assert card(page, secret).locator(".key-state").inner_text() == "disabled"
    card(page, third).get_by_role("button", name="Reset key").click()  # which names the key now
    assert "leaked" in dialog.inner_text()
    dialog.get_by_role("button", name="Reset").click()
    state(page, third, "ready")


def test_a_dialog_changes_only_by_what_its_user_does(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    page = open_page(site)
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/api-keys/check", hold)
    page.get_by_role("button", name="Check keys").click()
    eventually(lambda: page.evaluate("1") and held, what="the request of the check")
    card(page, fresh.sandbox.keys("groq")[0]).get_by_role("button", name="Disable key").click()
    dialog = page.get_by_role("dialog")
    with page.expect_response("**/api-keys/check"):
        held[0].fulfill(json={"keys": [], "problems": []})
    page.get_by_role("button", name="Check keys", include_hidden=True).wait_for(state="attached")
    assert "Disable gsk_" in dialog.inner_text()
    composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true})"
    page.locator("#dialog-reason").evaluate(f"(element) => element.dispatchEvent({composing})")
    assert "Disable gsk_" in dialog.inner_text(), (
        "Enter ended a word of the input method and did not close the dialog"
    )
    page.keyboard.press("Escape")
    dialog.get_by_text("The providers accept every key").wait_for()


def test_a_cancel_without_an_answer_claims_nothing(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=60)
    job = fresh.producer.app.send_task("tasks.ai.complete", kwargs={"prompt": "x"}, queue="ai")
    page = open_page(site, job=job.id)
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('offline')); }")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("It may or may not be cancelled: Flower cannot be reached.").wait_for()
    job.revoke()
