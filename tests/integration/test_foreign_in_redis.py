"""Entries of another program among our records in Redis hide no record, and end no worker."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from redis.asyncio import Redis

from config.current import get_settings
from config.settings import Settings
from tests.integration.deadletters.dead_letters_written import letter
from worker.action_log import ActionLog
from worker.cli.dead_letters import dead
from worker.cli.job import job
from worker.deadletters import DeadLetters, Message, replay
from worker.deadletters.dead_letter import UNREADABLE
from worker.keypool import latest_calls
from worker.keypool.margins import Margins
from worker.keypool.names import Names
from worker.keypool.published_keys import published_keys
from worker.keypool.published_margins import published_margins
from worker.providers.drift import Drift
from worker.redis.client import connect
from worker.usage.series import Series
from worker.usage.store import _Step

BYTES = b"\x80\x04\x95\xff of pickle"
WRONG: list[Any] = [
    BYTES,
    "",
    "no JSON",
    "x\nno JSON",
    "groq|failed\n[]",
    "groq|failed\n5",
    'groq|failed\n{"task": 5, "service": "mistral", "attempts": [5, null], "faults": "many"}',
    "groq|failed\n" + "[" * 100_000,
]


@pytest.fixture
async def redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    get_settings.cache_clear()
    client = connect(Settings(redis_url=redis_url))
    yield client
    await client.aclose()
    get_settings.cache_clear()


@pytest.mark.parametrize("head", WRONG)
async def test_a_foreign_dead_letter_hides_no_other_and_can_be_dropped(
    redis: Redis, head: Any
) -> None:
    store = DeadLetters.of(redis, get_settings())
    await store.put(letter(1), Message(kwargs={"prompt": "x"}).text())
    await store.put(letter(2), Message(kwargs={"prompt": "x"}).text())
    await redis.hset(store.name("heads"), "job-2", head)
    letters = {letter.id: letter for letter in await store.find()}
    assert sorted(letters) == ["job-1", "job-2"]
    json.dumps([letter.as_json() for letter in letters.values()])
    assert letters["job-1"].replayable
    assert (await store.get("job-2"))[0] == letters["job-2"]
    assert await store.delete([letters["job-2"]], by="a test") == 1
    assert [letter.id for letter in await store.find()] == ["job-1"]


async def test_a_half_written_dead_letter_is_listed_and_dropped(redis: Redis) -> None:
    store = DeadLetters.of(redis, get_settings())
    await store.put(letter(1), Message().text())
    await redis.hdel(store.name("heads"), "job-1")
    assert (await store.get("job-1"))[0].reason == UNREADABLE
    assert await store.delete(await store.find(), by="a test") == 1


@pytest.mark.parametrize(
    "text",
    [BYTES, "no JSON", "[]", "{}", '{"args": 5, "kwargs": {}, "options": {}}',
     '{"args": [], "kwargs": {}, "options": {"args": [5]}}'],
)  # fmt: skip
async def test_a_message_that_is_not_ours_is_refused_and_others_are_sent(
    redis: Redis, redis_url: str, text: Any
) -> None:
    store = DeadLetters.of(redis, get_settings())
    for number in (1, 2):
        await store.put(letter(number), Message(kwargs={"prompt": "x"}).text())
    await redis.hset(store.name("messages"), "job-1", text)
    app = Celery("test", broker=redis_url, set_as_current=False)
    done = await replay(store, await store.find(), app=app, by="a test", now_ms=0)
    app.close()
    assert done.sent == ("job-2",)
    [(refused, reason)] = done.refused
    assert refused == "job-1"
    assert "another program wrote it" in reason


def test_the_commands_show_foreign_dead_letters(redis_url: str, redis: Redis) -> None:
    from redis import Redis as Blocking  # noqa: PLC0415

    with Blocking.from_url(redis_url) as client:
        client.zadd("{kw:dead}:index", {"job-1": 10**15, BYTES: 10**15})
        client.hset("{kw:dead}:heads", "job-1", BYTES)
        client.hset("{kw:dead}:messages", "job-1", BYTES)
    obj = SimpleNamespace(app=None)
    for arguments in (["list"], ["show", "job-1"], ["show", "job-1", "--arguments"]):
        shown = CliRunner().invoke(dead, arguments, obj=obj)
        assert shown.exit_code == 0, shown.output
    assert UNREADABLE in shown.output


@pytest.mark.parametrize("stored", [BYTES, "no JSON", "[]", '{"status": 5}'])
def test_the_command_for_jobs_says_that_a_record_cannot_be_read(
    redis_url: str, redis: Redis, stored: Any
) -> None:
    app = Celery("test", broker=redis_url, backend=redis_url, set_as_current=False)
    app.backend.client.set("celery-task-meta-job-1", stored)
    obj = SimpleNamespace(app=app)
    shown = CliRunner().invoke(job, ["job-1", "job-2"], obj=obj)
    assert shown.exit_code == 0, shown.output
    first, second = shown.output.splitlines()
    assert first.startswith("job-1: PENDING: its record in the result store cannot be read")
    assert second == "job-2: PENDING: the job waits in its queue, or no job has this id"
    printed = json.loads(CliRunner().invoke(job, ["job-1", "--json"], obj=obj).output)
    assert printed == {"job-1": {"state": "PENDING", "unreadable": True}}
    app.close()


def test_a_call_that_is_not_ours_is_left_out() -> None:
    lines = ["no JSON", "5", "[1]", '["x", "ok", "job", "m"]', '[5, "ok", "job", "m"]']
    assert [call.at_ms for call in latest_calls.read("\n".join(lines))] == [5]


async def test_keys_margins_and_the_audit_trail_survive_what_others_wrote(redis: Redis) -> None:
    names = Names("kw", "groq")
    whole = {"label": "l", "variable": "GROQ_API_KEY", "account": None, "sender": None, "seen_s": 5}
    await redis.hset(
        names.keys,
        mapping={"0" * 12: json.dumps(whole), "a": BYTES, "b": "[]", "c": "{}", "d": "no JSON"},
    )
    assert [key.id for key in await published_keys(redis, names)] == ["0" * 12]
    for text in (BYTES, "5", "[]", "[[1]]", '[["x", 1]]', "null"):
        await redis.set(names.margins, text)
        assert await published_margins(redis, names) == Margins()
    log = ActionLog(redis, namespace="kw")
    await log.add("dropped", scope="dead_letter", name="job-1", by="ada")
    await redis.xadd(log.name, {"of": BYTES, "at_ms": "soon"})
    foreign, ours = await log.read()
    assert (ours["by"], foreign["by"], foreign["until_ms"]) == ("ada", "", "0")
    assert foreign["at_ms"].isdecimal()


async def test_unknown_answers_and_counts_of_use_survive_what_others_wrote(redis: Redis) -> None:
    book = Drift(redis, namespace="kw")
    ours = json.dumps(["groq", "status", "418"])
    foreign = {"no JSON": 1, "[5]": 1, json.dumps(["groq", "status", "419"]): "x", BYTES: 1}
    await redis.hset(book._counts, mapping={ours: 2, **foreign})
    assert [(sighting.shape, sighting.count) for sighting in await book.seen()] == [("418", 2)]
    step = _Step(0, {"1": Series("groq"), "2": Series("groq")})
    for bucket in ({"1": "no number!", "2": "a"}, {"1": "1", "2": "?,!"}):
        step.add(bucket)
    assert [series.counts[0] for series in step.counted()] == [10, 1]
