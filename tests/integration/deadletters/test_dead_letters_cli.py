"""`celery -A worker dead …`: its output, and the messages of its replays."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from config.current import get_settings
from sandbox.redis import free_port
from tests.integration.deadletters.dead_letters_written import (
    CHAIN,
    NOW_MS,
    SECRET,
    email,
    letter,
    put,
    queued,
)
from tests.processes import run_celery
from worker.cli.dead_letters import dead
from worker.deadletters import Message

Cli = Callable[..., Result]


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "220")
    get_settings.cache_clear()
    app = Celery("test", broker=redis_url, set_as_current=False)
    yield lambda *arguments: CliRunner().invoke(dead, arguments, obj=SimpleNamespace(app=app))
    get_settings.cache_clear()
    app.close()


def _line(shown: Result, word: str) -> str:
    return next(line for line in shown.output.splitlines() if word in line)


def test_the_list_shows_everything_but_arguments(cli: Cli, redis_url: str) -> None:
    put(redis_url, letter(1, calls=3), email(2, kind="unknown", doubt_ms=5))
    shown = cli("list")
    assert shown.exit_code == 0, shown.output
    for word in (
        "job-1",
        "job-2",
        "tasks.email.send",
        "unknown",
        "RequestRejected: [bold] no",
        "2 shown of 2",
    ):
        assert word in shown.output
    listing = json.loads(cli("list", "--kind", "unknown", "--json").output)
    assert [letter["id"] for letter in listing["dead_letters"]] == ["job-2"]
    assert listing["total"] == 2
    assert SECRET not in shown.output + json.dumps(listing)
    assert "0 shown of 2" in cli("list", "--before", "2001-01-01").output


def test_no_id_is_cut_off_on_a_narrow_screen(
    cli: Cli, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    job = str(uuid.uuid4())
    put(
        redis_url,
        replace(
            email(reason="OutcomeUnknown: " + "nobody knows " * 20, doubt_ms=5, calls=1), id=job
        ),
    )
    shown = cli("list").output
    for word in (job, "tasks.email.send", "(1 call,"):
        assert word in shown


def test_one_letter_shows_its_arguments_only_if_they_are_asked_for(
    cli: Cli, redis_url: str
) -> None:
    call = {"at_ms": NOW_MS, "key": "gsk_abc123...", "code": "rate_limit", "in_doubt": True}
    put(redis_url, letter(attempts=(call,), since_ms=NOW_MS))
    shown = cli("show", "job-1")
    for word in (
        "RequestRejected",
        "gsk_abc123...",
        "rate_limit",
        "possible",
        "--arguments shows them",
    ):
        assert word in shown.output
    headings, row = (_line(shown, word) for word in ("when (UTC)", "gsk_abc123..."))
    for heading, cell in (("when", "2026"), ("key", "gsk_"), ("answer", "rate"), ("may", "yes")):
        assert headings.index(heading) == row.index(cell)
    assert SECRET not in shown.output
    assert SECRET not in cli("show", "job-1", "--json").output
    assert SECRET in cli("show", "job-1", "--arguments").output
    assert json.loads(cli("show", "job-1", "--arguments", "--json").output)["arguments"][
        "kwargs"
    ] == {"prompt": SECRET}


def test_a_message_that_is_not_a_job_is_shown_as_it_came(cli: Cli, redis_url: str) -> None:
    put(
        redis_url,
        letter(note="the message itself cannot be run", kind="poison"),
        message=Message(raw="{" + SECRET),
    )
    put(redis_url, letter(2), message=None)
    assert json.loads(cli("show", "job-1", "--arguments", "--json").output)["arguments"] == {
        "raw": "{" + SECRET
    }
    assert "cannot be run" in cli("show", "job-1").output
    assert "its arguments are not kept" in cli("show", "job-2", "--arguments").output


def test_a_replay_sends_the_job_with_its_id_and_everything_that_hangs_on_it(
    cli: Cli, redis_url: str
) -> None:
    options = {
        "root_id": "root",
        "chain": CHAIN,
        "time_limit": 9,
        "headers": {"mine": 1},
        "priority": 3,
    }
    put(redis_url, letter(), message=Message(["a"], {"prompt": SECRET}, options))
    shown = cli("replay", "job-1")
    assert (shown.exit_code, "1 of 1 job sent again" in shown.output) == (0, True), shown.output
    [sent] = queued(redis_url, "ai\x06\x163") or queued(redis_url, "ai")
    headers = sent["headers"]
    assert (headers["id"], headers["task"], headers["root_id"], headers["mine"]) == (
        "job-1", "tasks.ai.complete", "root", 1,
    )  # fmt: skip
    assert (headers["retries"], headers["timelimit"], headers["argsrepr"]) == (
        0,
        [9, None],
        "<hidden>",
    )
    assert "keywheel" not in headers
    assert (sent["args"], sent["kwargs"], sent["embed"]["chain"]) == (
        ["a"],
        {"prompt": SECRET},
        CHAIN,
    )
    assert json.loads(cli("list", "--json").output)["total"] == 0


def test_many_letters_are_replayed_by_a_filter_and_those_that_cannot_be_are_named(
    cli: Cli, redis_url: str
) -> None:
    put(redis_url, *(letter(number) for number in range(1, 301)), email(301))
    put(redis_url, *(letter(number) for number in range(302, 315)), message=None)
    assert "add --yes" in cli("replay", "--service", "groq").output
    shown = cli("replay", "--service", "groq", "--yes")
    assert "300 of 313 jobs sent again" in shown.output
    assert "its arguments are not kept" in shown.output
    assert "and 3 more" in shown.output
    assert {message["headers"]["id"] for message in queued(redis_url, "ai")} == {
        f"job-{number}" for number in range(1, 301)
    }
    reply = json.loads(cli("replay", "--task", "tasks.ai.complete", "--yes", "--json").stdout)
    assert (reply["replayed"], len(reply["refused"])) == ([], 13)


def test_whatever_a_stranger_wrote_into_a_letter_can_be_shown(cli: Cli, redis_url: str) -> None:
    call = {"at_ms": NOW_MS, "key": "[/red]", "code": ":smile:"}
    put(
        redis_url,
        replace(letter(task="[/]", attempts=(call,)), id="[bold]1[/bold]"),
        message=Message(kwargs={"prompt": "half a \ud83d character, ä"}),
    )
    listed, shown = cli("list"), cli("show", "[bold]1[/bold]", "--arguments")
    assert (listed.exit_code, shown.exit_code) == (0, 0), (listed.exception, shown.exception)
    assert "[bold]1[/bold]" in listed.output
    assert "[/]" in listed.output
    assert all(word in shown.output for word in ("[/red]", ":smile:", "half a ? character, ä"))


def test_letters_are_dropped_one_by_one_and_all_at_once(cli: Cli, redis_url: str) -> None:
    put(redis_url, *(letter(number) for number in range(1, 8)))
    assert "2 dropped" in cli("drop", "job-1", "job-2").output
    assert "add --yes" in cli("drop", "--all").output
    assert "5 dropped" in cli("drop", "--all", "--yes").output
    assert "there is no such dead letter" in cli("drop", "--all", "--yes").output


@pytest.mark.parametrize("verb", ["drop", "replay"])
def test_by_id_a_newer_letter_than_the_one_that_was_seen_stays(
    cli: Cli, redis_url: str, verb: str
) -> None:
    put(redis_url, letter(1), letter(2))
    letters = json.loads(cli("list", "--json").output)["dead_letters"]
    at_ms = min(letter["at_ms"] for letter in letters)
    shown = cli(verb, "job-1", "job-2", "--before", str(at_ms))
    assert shown.exit_code == 1
    assert "it has died again, so look at `dead show` first" in shown.output
    assert "2 shown of 2" in cli("list").output
    assert cli("drop", "job-1", "--before", str(at_ms + 86_400_000)).output == "1 dropped\n"


# The command line, and its message.
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["drop"], "name the jobs"),  # an empty selection must not mean all jobs
        (["replay"], "name the jobs"),
        (["drop", "job-1", "--all"], "name the jobs"),  # two selections at once
        (["replay", "job-1", "--kind", "failed"], "name the jobs"),
        (["drop", "job-1", "--before", "2026-01-31", "--all"], "name the jobs"),
        (["show", "job-9"], "the job 'job-9' has no dead letter"),
        (["replay", "job-9"], "the job 'job-9' has no dead letter"),
        (["list", "--kind", "weird"], "'weird' is not one of"),
    ],
)
def test_a_wrong_command_is_answered_in_words(
    cli: Cli, redis_url: str, arguments: list[str], sentence: str
) -> None:
    shown = cli(*arguments)
    assert shown.exit_code in {1, 2}
    assert sentence in shown.output


def test_the_command_is_there_and_names_a_redis_that_is_down(tmp_path: Any) -> None:
    url = f"redis://:canary-password@127.0.0.1:{free_port()}/0"
    shown = run_celery(tmp_path, {"REDIS_URL": url}, "dead", "list")
    assert shown.returncode == 1
    assert "is it running?" in shown.stderr
    assert "canary-password" not in shown.stderr + shown.stdout
