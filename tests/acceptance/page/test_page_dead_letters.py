"""Dead letters on the page: replayed, dropped, searched, and shown in pages."""

from typing import Any

from tests.acceptance.page.page_driving import (
    PHONE,
    WIDE,
    Open,
    has_focus,
    poisoned,
    screenshot,
)
from tests.acceptance.readability import too_wide, unreadable
from tests.chromium import NEEDS_BROWSER
from tests.fleets import Fleet
from tests.processes import eventually

pytestmark = NEEDS_BROWSER


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
    for view, name in ((page, "keys-letters"), (phone, "keys-letters-phone")):
        assert not unreadable(view)
        view.locator("#letters-rows").scroll_into_view_if_needed()
        screenshot(view, name)
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
    third = poisoned(fresh)  # while the dialog is open
    page.locator(f"tr[data-job='{third.id}']").wait_for()
    dialog.get_by_role("button", name="Drop").click()
    page.locator(f"tr[data-job='{second.id}']").wait_for(state="detached")
    page.get_by_role("cell", name="dropped", exact=True).first.wait_for()
    assert page.locator(f"tr[data-job='{third.id}']").is_visible(), (
        "a dead letter that came after the dialog opened is not dropped"
    )


def test_dead_letters_are_selected_searched_and_shown_by_pages(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    first, second, third = poisoned(fresh), poisoned(fresh), poisoned(fresh)
    page = open_page(site)
    for job in (first, second):
        page.get_by_label(f"Select job {job.id}").check()
    screenshot(page, "letters-selected")
    page.get_by_role("button", name="Drop 2 selected").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    page.locator(f"tr[data-job='{first.id}']").wait_for(state="detached")
    search = page.get_by_label("Search the dead letters")
    row_of_third = f"tr[data-job='{third.id}']"
    search.fill(second.id)
    page.get_by_text("; none matches.").wait_for()
    search.fill(third.id[:13])
    page.locator(row_of_third).get_by_role("link", name=third.id).click()
    page.get_by_text("It failed: Poisoned: 5 workers died").wait_for()
    page.go_back()
    page.locator(row_of_third).wait_for()
    assert (page.locator("tr[data-job]").count(), search.input_value()) == (1, third.id[:13])
    page.locator(row_of_third).get_by_role("link", name=third.id).click()
    page.get_by_text("It failed: Poisoned: 5 workers died").wait_for()
    assert not unreadable(page)
    assert "canary" not in page.content()
    page.get_by_role("link", name="poison: show it").click()  # shows only this one
    page.locator(row_of_third).wait_for()
    assert page.locator("tr[data-job]").count() == 1
    search.fill("")
    for _ in range(21):
        last = poisoned(fresh, wait=False)
    fresh.producer.outcome(last)
    page.get_by_text("20 of 22 are listed").wait_for()
    page.get_by_role("button", name="Older dead letters").click()
    page.locator(row_of_third).wait_for()
    newest = page.get_by_role("button", name="Newest dead letters")
    assert has_focus(newest), "the button Older does not exist any more"
    page.get_by_role("button", name="Drop all").click()
    dialog = page.get_by_role("dialog")
    assert "Drop all dead letters up to" in dialog.inner_text(), (
        "the count includes newer dead letters"
    )
    dialog.get_by_role("button", name="Cancel").click()
    newest.click()
    page.locator(row_of_third).wait_for(state="detached")
    above, below = [row.get_attribute("data-job") for row in page.locator("tr[data-job]").all()[:2]]
    page.get_by_label(f"Drop the dead letter of job {above}").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    page.locator(f"tr[data-job='{above}']").wait_for(state="detached")
    assert has_focus(page.get_by_label(f"Drop the dead letter of job {below}"))


def test_a_dead_letter_that_is_newer_than_the_one_shown_is_not_dropped(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    first = poisoned(fresh)
    page = open_page(site, refused="404")
    row = page.locator(f"tr[data-job='{first.id}']")
    row.wait_for()

    def die_again() -> None:
        fresh.producer.app.backend.client.zincrby("{kw:dead}:index", 60_000, first.id)

    page.get_by_label(f"Drop the dead letter of job {first.id}").click()
    die_again()  # while the dialog is open
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    page.get_by_text("The job has died again since").first.wait_for()
    assert row.is_visible()
    box = page.get_by_label(f"Select job {first.id}")
    box.check()
    die_again()
    page.get_by_role("button", name="Drop all").wait_for()
    assert not box.is_checked(), "the selected dead letters do not exist any more"


def test_all_means_the_dead_letters_that_are_listed_also_while_a_request_is_in_progress(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    first = poisoned(fresh)
    page = open_page(site, refused="503")
    page.locator(f"tr[data-job='{first.id}']").wait_for()
    page.get_by_label("Kind").select_option("poison")
    page.get_by_role("button", name="Drop all that match", disabled=False).wait_for()
    held: list[Any] = []
    released = False

    def hold(route: Any) -> None:
        if released:
            route.continue_()
        else:
            held.append(route)

    page.route("**/api/admin/dead-letters?*", hold)
    page.get_by_label("Kind").select_option("")
    eventually(lambda: page.evaluate("1") and held, what="the request for all kinds")
    assert page.get_by_role("button", name="Drop all").is_disabled()
    assert page.get_by_role("button", name="Replay all").is_disabled()
    released = True
    held[0].fulfill(status=503, json={"error": "x", "message": "Not now."})
    for late in held[1:]:
        late.continue_()
    page.locator(f"tr[data-job='{first.id}']").wait_for()  # the page asked again without a click
    page.get_by_label("Search the dead letters").press_sequentially("no such job")
    assert page.get_by_role("button", name="Drop all that match").is_disabled()
    page.get_by_text("; none matches.").wait_for()


def test_the_page_of_a_job_counts_its_calls_only_if_they_are_known(
    fresh: Fleet, site: str, open_page: Open
) -> None:
    (served,) = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}])
    fresh.producer.await_all([served], within_s=30)
    page = open_page(site, job=served)  # by a link, without another page before
    wrong = fresh.producer.app.send_task(
        "tasks.ai.complete", kwargs={"prompt": "x", "temperature": 9}, queue="ai"
    )
    fresh.producer.outcome(wrong)
    for job, ended, calls in (
        (served, "It succeeded", "1 call"),
        (wrong.id, "It failed", "0 calls"),
    ):
        page.goto(f"{site}/keys/jobs/{job}")
        page.get_by_text(ended).wait_for()
        assert page.locator("#job-facts dd").get_by_text(calls, exact=True).count() == 1
    page.get_by_role("link", name="show it, to replay or drop it").click()
    heading = page.get_by_role("heading", name="Dead letters")
    bar = page.locator(".navbar").bounding_box()["height"]

    def is_shown() -> bool:
        return bool(bar <= heading.bounding_box()["y"] < WIDE["height"])

    eventually(is_shown, what="the place that the address names")
    # Otherwise the address would still name it.
    page.evaluate("history.replaceState(null, '', '/keys')")
    page.locator("#letters-rows").get_by_role("link", name=wrong.id).click()
    page.get_by_text("State at").wait_for()
    page.go_back()
    eventually(is_shown, what="the place where the person was")
