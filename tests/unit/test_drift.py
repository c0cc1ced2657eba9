"""How unknown answers are counted in Redis; without a Redis."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostError

from worker.providers import drift
from worker.providers.drift import KEPT_S, Drift, Seen
from worker.providers.unknowns import Kind, Unknown


class Server:
    """Holds hashes that only whole transactions may change."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, Any]] = {}
        self.expires: dict[str, int] = {}
        self.now = (1_000, 999_999)
        self.fails = 0
        self.commands: list[Callable[[], Any]] = []

    def pipeline(self, *, transaction: bool) -> "Server":
        assert transaction
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.commands.append(lambda: getattr(self, f"_{name}")(*args))

    async def execute(self) -> list[Any]:
        commands, self.commands = self.commands, []
        if self.fails:
            self.fails -= 1
            raise LostError("gone")
        return [command() for command in commands]

    def _of(self, name: str) -> dict[str, Any]:
        return self.hashes.setdefault(name, {})

    def _time(self) -> Any:
        return self.now

    def _hkeys(self, name: str) -> list[str]:
        return [*self._of(name)]

    def _hgetall(self, name: str) -> dict[str, str]:
        return {field: str(value) for field, value in self._of(name).items()}

    def _hlen(self, name: str) -> int:
        return len(self._of(name))

    def _hincrby(self, name: str, field: str, by: int) -> None:
        self._of(name)[field] = self._of(name).get(field, 0) + by

    def _hsetnx(self, name: str, field: str, value: Any) -> None:
        self._of(name).setdefault(field, value)

    def _hset(self, name: str, field: str, value: Any) -> None:
        self._of(name)[field] = value

    def _expire(self, name: str, after_s: int) -> None:
        self.expires[name] = after_s

    def _delete(self, *names: str) -> None:
        for name in names:
            self.hashes.pop(name, None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(drift, "_EVERY_S", 3600.0)  # nothing is written until the close
    return Server()


def drift_of(server: Any) -> Drift:
    return Drift(server, namespace="ns")


def unknown(shape: str) -> Unknown:
    return Unknown("groq", Kind.ERROR_CODE, shape)


NAMES = {f"{{ns:unknown}}:{of}" for of in ("count", "first_ms", "last_ms")}


async def test_each_shape_is_counted_with_its_first_and_last_instant(server: Server) -> None:
    counts = drift_of(server)
    for shape in ("b", "a", "b"):
        counts.notice(unknown(shape))
    await counts.close()
    server.now = (2_000, 1_999)
    later = drift_of(server)
    later.notice(unknown("a"))
    await later.close()
    assert await later.seen() == [
        Seen("groq", "error_code", "a", 2, 1_000_999, 2_000_001),
        Seen("groq", "error_code", "b", 2, 1_000_999, 1_000_999),
    ]
    assert server.expires == dict.fromkeys(NAMES, KEPT_S)
    assert (await later.seen())[1].as_json() == {
        "service": "groq", "kind": "error_code", "shape": "b", "count": 2,
        "first_ms": 1_000_999, "last_ms": 1_000_999,
    }  # fmt: skip
    assert await later.forget() == 2
    assert await later.seen() == []
    assert await later.forget() == 0


async def test_shapes_beyond_the_most_are_counted_as_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counts = drift_of(server)
    for shape in "ab":
        counts.notice(unknown(shape))
    await counts.close()
    monkeypatch.setattr(drift, "MOST_SHAPES", 3)
    more = drift_of(server)
    for shape in ("c", "a", "d", "c", "e"):
        more.notice(unknown(shape))
    await more.close()
    seen = {each.shape: each.count for each in await more.seen()}
    assert seen == {"a": 2, "b": 1, "c": 2, "(others)": 1}
    last = drift_of(server)
    for shape in "dea":
        last.notice(unknown(shape))
    await last.close()
    seen_at_last = {each.shape: each.count for each in await last.seen()}
    assert seen_at_last == {"a": 3, "b": 1, "c": 2, "(others)": 3}
    logged = [message.split("): ")[1].split(".")[0] for message in caplog.messages]
    assert logged == [*"ab", *"cad", *"dea"], "the first answer of each shape, up to the limit"
    assert caplog.messages[0].startswith("Groq sent an unknown answer (error code): a. `celery")


async def test_counts_that_could_not_be_written_are_written_with_the_next_ones(
    server: Server,
) -> None:
    counts = drift_of(server)
    counts.notice(unknown("a"))
    server.fails = 1
    await counts.close()
    assert await counts.seen() == []
    counts.notice(unknown("a"))
    await counts.close()
    assert [each.count for each in await counts.seen()] == [2]


async def test_the_last_counts_are_written_if_the_loop_has_cancelled_the_writing_task(
    server: Server,
) -> None:
    counts = drift_of(server)
    counts.notice(unknown("a"))
    task = counts._task
    assert task is not None
    task.cancel()
    await asyncio.wait([task])
    await counts.close()
    assert [each.shape for each in await counts.seen()] == ["a"]
    await drift_of(server).close()  # it has counted nothing


async def test_fields_that_other_programs_wrote_are_left_out(server: Server) -> None:
    count, first, last = (f"{{ns:unknown}}:{of}" for of in ("count", "first_ms", "last_ms"))
    fields = [json.dumps(["groq", "status", shape]) for shape in "abc"]
    unreadable = ["odd", "[1]", json.dumps(["groq", "status", 7])]
    server.hashes = {
        count: dict.fromkeys([*fields, *unreadable], 1) | {fields[1]: "many"},
        first: {fields[0]: 5, fields[2]: "x"},
        last: {fields[0]: 6},
    }
    seen = await drift_of(server).seen()
    assert seen == [Seen("groq", "status", "a", 1, 5, 6)]
    server.hashes[first] = {}
    assert [each.shape for each in await drift_of(server).seen()] == ["a", "c"]
    assert [each.first_ms for each in await drift_of(server).seen()] == [0, 0]
