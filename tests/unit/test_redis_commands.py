"""How commands are encoded and sent, look-ups combined, and a stream of events read."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest
from redis._parsers.encoders import Encoder
from redis.connection import PythonRespSerializer
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import NoScriptError

from worker.redis import autopipeline
from worker.redis.audit_stream import read_latest
from worker.redis.autopipeline import AutoPipeline, pipeline_of
from worker.redis.lookup import BatchedLookup
from worker.redis.lua import Script, keys_of
from worker.redis.resp import Encoded, encode, encode_command


@pytest.mark.parametrize(
    "command", [("GET", "a"), ("SET", "ä\r\n€", ""), ("EVALSHA", "f00", 2, -3, 0.25), ("PING",)]
)
def test_a_command_is_written_as_the_client_writes_it(command: tuple[Any, ...]) -> None:
    client = PythonRespSerializer(6_000, Encoder("utf-8", "strict", False).encode)
    expected = b"".join(client.pack(*command))
    assert encode_command(command) == expected
    for at in range(len(command) + 1):
        first, rest = command[:at], command[at:]
        assert encode_command((encode(*first), *rest)) == expected
        assert encode_command((*first, encode(*rest))) == expected
    assert encode(*command).count == len(command)


class ScriptedConnection:
    """Replaces a shared connection: notes commands, and gives planned replies."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.sent = list(answers), list[Any]()

    async def send(self, *command: Any) -> Any:
        self.sent.append(command)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_script_is_loaded_if_the_server_does_not_know_it() -> None:
    connection = ScriptedConnection(
        "first", NoScriptError("NOSCRIPT"), "loaded", "second", LostError("lost")
    )
    script, keys = Script(connection, "return 1"), keys_of(["a", "b"])  # type: ignore[arg-type]
    assert keys == encode(2, "a", "b")
    named = encode("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db")
    assert await script(keys, 7) == "first"
    assert await script(keys, 7) == "second"
    with pytest.raises(LostError):
        await script(keys)
    loaded = [("SCRIPT", "LOAD", "return 1"), (named, keys, 7)]
    assert connection.sent == [(named, keys, 7), (named, keys, 7), *loaded, (named, keys)]


async def test_a_client_has_one_pipeline_which_goes_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Client:
        """A client that can be the key of a weak mapping."""

    class Made:
        def __init__(self, _: Any) -> None:
            pass

    monkeypatch.setattr(autopipeline, "AutoPipeline", Made)
    first, second = Client(), Client()
    pipeline: Any = pipeline_of(first)  # type: ignore[arg-type]
    assert type(pipeline) is Made
    assert pipeline_of(first) is pipeline  # type: ignore[arg-type]
    assert pipeline_of(second) is not pipeline  # type: ignore[arg-type]
    del first
    gc.collect()
    assert not [each for each in autopipeline._PIPELINES.values() if each is pipeline]


async def test_a_command_goes_by_the_shared_link(monkeypatch: pytest.MonkeyPatch) -> None:
    class Link:
        async def send(self, command: bytes) -> Any:
            return command

    async def link(_: Any) -> Link:
        return Link()

    monkeypatch.setattr(AutoPipeline, "link", link)
    made = AutoPipeline.__new__(AutoPipeline)
    assert await made.send("GET", Encoded(1, "$1\r\na\r\n")) == encode_command(("GET", "a"))


class Records:
    """A store that answers when the test lets it, or fails."""

    def __init__(self) -> None:
        self.lookups: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def present(self, ids: Sequence[str]) -> set[str]:
        self.lookups.append(list(ids))
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return {each for each in ids if each.startswith("there")}


async def test_jobs_that_ask_while_an_answer_is_on_its_way_share_the_next_one() -> None:
    store = Records()
    lookup = BatchedLookup(store)
    first = [asyncio.create_task(lookup.has(job)) for job in ("there 1", "gone 1")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = [asyncio.create_task(lookup.has(job)) for job in ("there 2", "gone 2")]
    second[0].cancel()
    await asyncio.sleep(0)
    assert store.lookups == [["there 1", "gone 1"]]
    store.may_answer.set()
    assert await asyncio.gather(*first) == [True, False]
    assert await second[1] is False
    assert store.lookups[1:] in ([["there 2", "gone 2"]], [["gone 2"]])
    assert await lookup.has("there 3")
    assert store.lookups[2:] == [["there 3"]]


async def test_a_failed_lookup_fails_each_caller_and_is_not_reported_without_callers() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    store = Records()
    store.error = LostError("lost")
    lookup = BatchedLookup(store)
    begun = lookup.begin("a")
    waiting = asyncio.create_task(lookup.has("b"))
    await asyncio.sleep(0)
    store.may_answer.set()
    with pytest.raises(LostError):
        await waiting
    del begun, waiting
    unheard = lookup.begin("c")
    await asyncio.wait([unheard])
    del unheard
    cancelled = lookup.begin("d")
    cancelled.cancel()
    await asyncio.wait([cancelled])
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


class Stream:
    """A client whose stream has entries."""

    def __init__(self, *entries: Any) -> None:
        self.entries, self.lookups = entries, list[Any]()

    async def xrevrange(self, *arguments: Any, **options: Any) -> Any:
        self.lookups.append((arguments, options))
        return self.entries


@pytest.mark.parametrize(("before_ms", "last"), [(None, "+"), (1000, "999"), (0, "-1")])
async def test_the_latest_entries_of_a_stream_are_read_before_an_instant(
    before_ms: int | None, last: str
) -> None:
    client: Any = Stream()
    assert await read_latest(client, "s", count=7, before_ms=before_ms) == []
    assert client.lookups == [(("s",), {"max": last, "count": 7})]


# The fields of an entry, and the two instants that are read from them.
@pytest.mark.parametrize(
    ("fields", "at_ms", "until_ms"),
    [
        ({}, "1700", "0"),
        ({"at_ms": "5", "until_ms": "-7"}, "5", "-7"),
        ({"at_ms": "123456789012345", "until_ms": "1234567890123456"}, "123456789012345", "0"),
        ({"at_ms": "5x", "until_ms": ""}, "1700", "0"),
        ({"at_ms": " 5", "until_ms": "1e3"}, "1700", "0"),
    ],
)
async def test_an_entry_of_another_program_has_our_fields_and_its_numbers_are_numbers(
    fields: dict[str, str], at_ms: str, until_ms: str
) -> None:
    entry = {"event": "blocked", "own": "x"} | fields
    client: Any = Stream(("1700-3", entry))
    [(entry_id, whole)] = await read_latest(client, "s", count=1, before_ms=None)
    assert entry_id == "1700-3"
    texts = {"event": "blocked", "scope": "", "name": "", "reason": "", "by": "", "own": "x"}
    assert whole == texts | {"at_ms": at_ms, "until_ms": until_ms}
