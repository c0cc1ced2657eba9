"""The example with its own task: 500 users at once, through limits, a kill and a reset."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chromium import ARGUMENTS, CHROMIUM
from tests.fleets import Fleet, fleets
from tests.processes import ROOT, Worker, environment, eventually
from tests.workers.examples.program import Program

EXAMPLE = ROOT / "examples/cover-letters"
USERS = 500


@pytest.fixture(scope="module")
def fleet_and_letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Path]]:
    letters = tmp_path_factory.mktemp("letters")
    settings = {
        "KEYWHEEL_TASKS": "letters",
        "PYTHONPATH": f"{ROOT}:{EXAMPLE}",
        "LETTERS_FOLDER": str(letters),
        "KEYWHEEL_WORKER_LEASE_S": "4",
        "KEYWHEEL_WORKER_CONCURRENCY": "200",
        "KEYWHEEL_GROQ_COOLDOWN_S": "2",
        "KEYWHEEL_RESEND_COOLDOWN_S": "2",
    }
    limits = {"groq_rpm": 3_000, "groq_tpm": 0, "groq_rpd": 0, "groq_tpd": 0, "resend_rps": 100}
    limits["groq_latency_ms"] = 150  # the page polls every 100 ms
    with fleets(lambda: tmp_path_factory.mktemp("fleet")) as start:
        fleet = start(
            settings=settings,
            groq_keys=3,
            resend_keys=2,
            resend_daily=0,
            resend_monthly=0,
            **limits,
        )
        yield fleet, letters


@pytest.fixture(scope="module")
def page_url(
    fleet_and_letters: tuple[Fleet, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    fleet, _ = fleet_and_letters
    log = tmp_path_factory.mktemp("page") / "log"
    command = [sys.executable, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "0"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=EXAMPLE,
            env=environment(REDIS_URL=fleet.redis.url, PYTHONPATH=""),
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    program = Program(process, log)
    yield program.await_url()
    program.stop()


def apply(url: str, count: int) -> list[str]:
    with httpx.Client(base_url=url, timeout=40) as browser:
        return [
            browser.post(
                "/letters",
                json={
                    "name": f"Ann {number}",
                    "address": f"jobs{number}@company.example.net",
                    "opening": "gardener",
                },
            ).json()["id"]
            for number in range(count)
        ]


def accepted(fleet: Fleet) -> int:
    return int(fleet.sandbox.ledger()["judgement"]["emails_accepted"])


def test_every_letter_goes_out_once_and_no_finished_step_is_paid_twice(
    fleet_and_letters: tuple[Fleet, Path], page_url: str
) -> None:
    fleet, letters = fleet_and_letters
    ids = apply(page_url, USERS)
    eventually(lambda: accepted(fleet) > USERS // 10, within_s=90, what="the first letters")
    fleet.sandbox.control("exhaust", service="groq", seconds=4)
    fleet.workers[0].kill()
    fleet.workers.append(Worker(fleet.folder, fleet.environ, name="w3"))
    fleet.producer.ask("tasks.admin.reset_keys")
    eventually(lambda: accepted(fleet) == USERS, within_s=100, what="every letter")
    jobs = [fleet.producer.app.AsyncResult(job) for job in ids]
    eventually(lambda: all(job.state == "SUCCESS" for job in jobs), within_s=60, what="the ends")
    judgement = fleet.sandbox.ledger()["judgement"]
    assert judgement["emails_accepted"] == USERS
    assert judgement["emails_accepted_twice"] == judgement["content_accepted_twice"] == 0
    assert {path.stem for path in letters.iterdir()} == set(ids)
    # An unfinished step of the killed worker is done again; a finished step is not.
    calls = fleet.sandbox.ledger(full=True)["calls"]
    completions = Counter(call["status"] for call in calls if call["service"] == "groq")
    under_way = int(fleet.environ["KEYWHEEL_WORKER_CONCURRENCY"])
    assert 3 * USERS <= completions[200] <= 3 * USERS + under_way


def test_the_page_shows_each_step_as_it_is_done(
    fleet_and_letters: tuple[Fleet, Path], page_url: str
) -> None:
    playwright_api: Any = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (PyPI: playwright)"
    )
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian: chromium)")
    with playwright_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(base_url=page_url)
        page.goto("/")
        page.get_by_label("Your name").fill("Bea")
        page.get_by_label("Address of the company").fill("jobs@company.example.net")
        page.get_by_label("Opening").fill("cook")
        page.get_by_role("button").click()
        page.wait_for_function("document.getElementById('status').textContent === 'Sent.'")
        assert page.locator("#steps li").count() >= 1
        browser.close()


def test_an_empty_form_is_rejected(page_url: str) -> None:
    assert httpx.post(f"{page_url}/letters", json={"name": ""}).status_code == 422
    assert httpx.get(f"{page_url}/letters/nothing").json() == {"state": "waiting"}
