"""`celery -A worker dead …` as a person types it, and what a replay puts into the queue."""

import asyncio
import base64
import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from click.testing import CliRunner, Result
from kombu.exceptions import OperationalError
from redis.asyncio import Redis

from config.settings import get_settings
from sandbox.redis import free_port
from tests.processes import run_celery
from worker.cli.dead_letters import dead
from worker.deadletters import DeadLetter, DeadLetters, Message, Replayed, replay

HOUR_MS = 3_600_000
NOW_MS = 1_790_000_000_000
SECRET = "canary-2207 of a prompt"
CHAIN = [
    {
        "task": "tasks.ai.complete",
        "args": [],
        "kwargs": {"prompt": "next"},
        "options": {},
        "subtask_type": None,
    }
]

Cli = Callable[..., Result]


def letter(number: int = 1, **changes: Any) -> DeadLetter:
    told: dict[str, Any] = {
        "task": "tasks.ai.complete",
        "queue": "ai",
        "service": "groq",
        "kind": "failed",
    }
    return DeadLetter(
        id=f"job-{number}", **told | {"reason": "RequestRejected: [bold] no"} | changes
    )


def email(number: int = 1, **changes: Any) -> DeadLetter:
    told = {"task": "tasks.email.send", "queue": "email", "service": "resend"}
    return letter(number, **told | changes)


def put(
    url: str,
    *letters: DeadLetter,
    message: Message | None = Message(kwargs={"prompt": SECRET}),  # noqa: B008 - frozen
) -> None:
    async def go() -> None:
        async with Redis.from_url(url, decode_responses=True) as client:
            for one in letters:
                await DeadLetters(client).put(one, message.text() if message else "")

    asyncio.run(go())


def queued(url: str, queue: str) -> list[dict[str, Any]]:
    """What waits in a queue, the first to be taken first.

    Headers, and the body as `args`, `kwargs`, `embed`.
    """
    with redis.Redis.from_url(url) as client:
        found = [json.loads(text) for text in reversed(client.lrange(queue, 0, -1))]
    for one in found:
        one["args"], one["kwargs"], one["embed"] = json.loads(base64.b64decode(one["body"]))
    return found


def again(url: str, **options: Any) -> Replayed:
    """Replay all letters, as if it were `NOW_MS` now."""

    async def go() -> Replayed:
        async with Redis.from_url(url, decode_responses=True) as client:
            store = DeadLetters(client)
            return await replay(
                store,
                await store.find(),
                by="ada",
                now_ms=NOW_MS,
                **{"app": Celery("test", broker=url, set_as_current=False)} | options,
            )

    return asyncio.run(go())


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "220")
    get_settings.cache_clear()
    app = Celery("test", broker=redis_url, set_as_current=False)
    yield lambda *arguments: CliRunner().invoke(dead, arguments, obj=SimpleNamespace(app=app))
    get_settings.cache_clear()
    app.close()


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
    told = json.loads(cli("list", "--kind", "unknown", "--json").output)
    assert [one["id"] for one in told["dead_letters"]] == ["job-2"]
    assert told["total"] == 2
    assert SECRET not in shown.output + json.dumps(told)
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


def test_one_letter_shows_its_arguments_only_where_they_are_asked_for(
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
    assert SECRET not in shown.output
    assert SECRET not in cli("show", "job-1", "--json").output
    assert SECRET in cli("show", "job-1", "--arguments").output
    assert json.loads(cli("show", "job-1", "--arguments", "--json").output)["arguments"][
        "kwargs"
    ] == {"prompt": SECRET}


def test_what_was_no_job_shows_as_it_came(cli: Cli, redis_url: str) -> None:
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


def test_many_are_replayed_by_what_they_are_and_what_cannot_be_is_named(
    cli: Cli, redis_url: str
) -> None:
    put(redis_url, *(letter(number) for number in range(1, 301)), email(301))
    put(redis_url, *(letter(number) for number in range(302, 315)), message=None)
    assert "add --yes" in cli("replay", "--service", "groq").output
    shown = cli("replay", "--service", "groq", "--yes")
    assert "300 of 313 jobs sent again" in shown.output
    assert "its arguments are not kept" in shown.output
    assert "and 3 more" in shown.output
    assert {one["headers"]["id"] for one in queued(redis_url, "ai")} == {
        f"job-{number}" for number in range(1, 301)
    }
    told = json.loads(cli("replay", "--task", "tasks.ai.complete", "--yes", "--json").stdout)
    assert (told["replayed"], len(told["refused"])) == ([], 13)


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


def test_a_letter_that_knows_no_queue_is_replayed_where_its_task_belongs(redis_url: str) -> None:
    put(redis_url, letter(queue=""))
    app = Celery("test", broker=redis_url, set_as_current=False)
    app.conf.task_routes = {"tasks.ai.*": {"queue": "ai"}}
    assert again(redis_url, app=app).sent == ("job-1",)
    assert [one["headers"]["id"] for one in queued(redis_url, "ai")] == ["job-1"]


async def test_a_replay_that_is_stopped_lets_nobody_else_send_what_may_still_get_through(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["worker.deadletters.replay"]
    publish, begun, go_on = module._publish, threading.Event(), threading.Event()

    def slowly(*args: Any, **options: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        publish(*args, **options)

    async with Redis.from_url(redis_url, decode_responses=True) as client:
        store, app = DeadLetters(client), Celery("test", broker=redis_url, set_as_current=False)
        await store.put(letter(), Message().text())
        found = await store.find()
        monkeypatch.setattr(module, "_publish", slowly)
        first = asyncio.ensure_future(replay(store, found, app=app, by="ada", now_ms=NOW_MS))
        assert await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = await replay(store, found, app=app, by="bob", now_ms=NOW_MS)
        go_on.set()
    assert second.refused == (("job-1", "another replay has it at this moment"),)


def test_letters_are_dropped_one_by_one_and_all_at_once(cli: Cli, redis_url: str) -> None:
    put(redis_url, *(letter(number) for number in range(1, 8)))
    assert "2 dropped" in cli("drop", "job-1", "job-2").output
    assert "add --yes" in cli("drop", "--all").output
    assert "5 dropped" in cli("drop", "--all", "--yes").output
    assert "There is no such dead letter" in cli("drop", "--all", "--yes").output


# What is typed, and what is said about it.
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["drop"], "name the jobs"),  # nothing must not mean everything
        (["replay"], "name the jobs"),
        (["drop", "job-1", "--all"], "name the jobs"),  # two things at once
        (["replay", "job-1", "--kind", "failed"], "name the jobs"),
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


# An email's letter, whether it goes out again, and whether with a new idempotency key.
@pytest.mark.parametrize(
    ("changes", "force", "sent", "new_key"),
    [
        ({}, False, True, False),  # surely not sent
        (
            {"doubt_ms": NOW_MS - 21 * HOUR_MS},
            False,
            True,
            False,
        ),  # its idempotency key still counts
        ({"doubt_ms": NOW_MS - 21 * HOUR_MS}, True, True, False),  # so nobody needs another one
        ({"doubt_ms": NOW_MS - 23 * HOUR_MS}, False, False, False),  # nobody could tell
        ({"doubt_ms": NOW_MS - 23 * HOUR_MS}, True, True, True),  # somebody accepts a second email
        ({"doubt_ms": NOW_MS - 23 * HOUR_MS, "kind": "unknown"}, False, False, False),
    ],
)
def test_an_email_that_may_have_been_sent_goes_out_again_only_where_that_is_safe(
    redis_url: str, changes: dict[str, Any], force: Any, sent: Any, new_key: Any
) -> None:
    put(redis_url, email(**changes), message=Message(kwargs={"to": "ann@example.com"}))
    done = again(redis_url, force=force)
    messages = queued(redis_url, "email")
    assert (done.sent, len(messages)) == ((("job-1",), 1) if sent else ((), 0))
    if not sent:
        assert "needs force" in done.refused[0][1]
        assert [one.id for one in find(redis_url)] == ["job-1"]
        return
    assert messages[0]["headers"]["id"] == "job-1"
    assert (
        messages[0]["kwargs"]
        .get("idempotency_key", "")
        .startswith("job-1/again-" if new_key else "")
    )
    # The next letter of this job must not forget the doubt.
    doubt_ms = changes.get("doubt_ms")
    assert messages[0]["headers"]["keywheel_doubt_ms"] == (0 if new_key else doubt_ms or 0)


def find(url: str) -> list[DeadLetter]:
    async def go() -> list[DeadLetter]:
        async with Redis.from_url(url, decode_responses=True) as client:
            return await DeadLetters(client).find()

    return asyncio.run(go())


def test_two_operators_who_replay_the_same_letters_run_each_job_once(redis_url: str) -> None:
    put(redis_url, *(letter(number) for number in range(1, 41)))

    async def go() -> list[Replayed]:
        async with Redis.from_url(redis_url, decode_responses=True) as client:
            store, app = DeadLetters(client), Celery("test", broker=redis_url, set_as_current=False)
            letters = await store.find()
            return await asyncio.gather(
                *(replay(store, letters, app=app, by=who, now_ms=NOW_MS) for who in ("ada", "bob"))
            )

    one, other = asyncio.run(go())
    assert len(queued(redis_url, "ai")) == 40
    assert len(one.sent) + len(other.sent) == 40
    assert not set(one.sent) & set(other.sent)


def test_a_broker_that_is_away_costs_no_letter(redis_url: str) -> None:
    put(redis_url, letter(1), letter(2))
    away = Celery("test", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    away.conf.broker_transport_options = {"socket_connect_timeout": 1}
    away.conf.task_publish_retry_policy = {"max_retries": 0}
    with pytest.raises(OperationalError):
        again(redis_url, app=away)
    assert len(find(redis_url)) == 2
    assert len(again(redis_url).sent) == 2  # at once: nobody holds the right to it
