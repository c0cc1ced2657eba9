"""How long the oldest message of a list, and the oldest deferred job, have waited; no Redis."""

from types import SimpleNamespace
from typing import Any

import pytest

from worker.dashboard import queue_age, queues
from worker.dashboard.deferred_age import DeferredAge
from worker.dashboard.queue_age import QueueAge


class _List:
    """A list of Redis, the newest message first; it counts the searches."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.searched: list[str] = []

    def eval(self, script: str, keys: int, name: str, most: int) -> str | None:
        assert (script, keys, name, most) == (queue_age._NEWEST, 1, "ai", 65_536)
        return self.messages[0] if self.messages else None

    def lpos(self, name: str, message: str, *, rank: int = 1) -> int | None:
        assert name == "ai"
        assert rank in {1, -1}
        self.searched.append(message)
        return self.messages.index(message) if message in self.messages else None


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> _List:
    monkeypatch.setattr(queue_age.time, "perf_counter", lambda: 7.0)  # a search takes no time
    return _List()


def test_the_oldest_message_is_as_old_as_the_oldest_marker_that_is_still_there(
    client: _List,
) -> None:
    age = QueueAge()
    assert age.measure(client, "ai", 90.0) == 0.0, "no message waits"
    seen = []
    # One message comes every five seconds, and from the fourth on two are taken.
    for step in range(8):
        client.messages.insert(0, f"m{step}")
        if step >= 4:
            del client.messages[-2:]
        seen.append(age.measure(client, "ai", 100.0 + 5 * step))
    # The list then begins with m2, m4, m6, and at the end has only the message just seen.
    assert seen == [0, 5, 10, 15, 10, 5, 0, 0]
    client.messages.clear()
    assert age.measure(client, "ai", 200.0) == 0.0


def test_a_message_is_marked_every_five_seconds_and_once(client: _List) -> None:
    age = QueueAge()
    for at_s, newest in ((0.0, "a"), (4.9, "b"), (5.0, "c"), (10.0, "c"), (15.0, "d")):
        if newest not in client.messages:
            client.messages.insert(0, newest)
        age.measure(client, "ai", at_s)
    assert age._markers == [("a", 0.0), ("c", 5.0), ("d", 15.0)]
    client.messages = client.messages[:-1]
    assert age.measure(client, "ai", 16.0) == 11.0, "b waits at least since c came"


def test_if_the_oldest_is_still_there_nothing_else_is_searched_for(client: _List) -> None:
    age = QueueAge()
    for step in range(10):
        client.messages.insert(0, f"m{step}")
        age.measure(client, "ai", 5.0 * step)
    assert client.searched == ["m0"] * 9
    del client.messages[-7:]
    client.searched.clear()
    assert age.measure(client, "ai", 46.0) == 11.0
    assert len(client.searched) <= 5, "the search is a bisection"


def test_after_a_search_there_is_a_pause_of_a_hundred_times_as_long(
    client: _List, monkeypatch: pytest.MonkeyPatch
) -> None:
    age, clock = QueueAge(), [7.0]

    def perf_counter() -> float:
        clock[0] += 0.02
        return clock[0]

    monkeypatch.setattr(queue_age.time, "perf_counter", perf_counter)
    client.messages.append("a")
    for at_s, searches in ((10.0, 0), (11.9, 0), (12.1, 1), (14.0, 1), (14.2, 2)):
        age.measure(client, "ai", at_s)
        assert len(client.searched) == searches, at_s


def test_at_most_128_markers_are_kept_and_the_oldest_stays(client: _List) -> None:
    age = QueueAge()
    for step in range(128):
        client.messages.insert(0, f"m{step}")
        age.measure(client, "ai", 5.0 * step)
    assert len(age._markers) == 128
    client.messages.insert(0, "m128")
    assert age.measure(client, "ai", 5.0 * 128) == 5.0 * 128
    assert [marker for marker, _ in age._markers] == [f"m{step}" for step in range(0, 129, 2)]


# --- the lists of a queue


def test_a_queue_is_as_old_as_the_oldest_of_its_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    ages = {"ai:0": 1.0, "ai:3": 4.0, "ai:6": 2.0, "ai.deferred:9": 3.0}
    deferred = {"ai.deferred:3": 5.0, "ai.deferred:6": 6.0}
    sizes = {"ai": 7, "ai.deferred": 8}
    listed: list[Any] = []

    def deferred_jobs(app: str, client: str, lists: list[str]) -> tuple[str, ...]:
        listed.append((app, client, lists))
        return ("a job",)

    class _Of:
        def __init__(self, name: str) -> None:
            self.name = name

        def measure(self, client: str, *about: Any) -> float:
            assert client == "the client"
            if about == (self.name, 50.0):
                return ages.get(self.name, 0.0)
            assert about == (f"{self.name}.due", "ai.deferred.due.texts")
            return deferred.get(self.name, 0.0)

    class _Each(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return _Of(name)

    channel = SimpleNamespace(
        client="the client",
        priority_steps=(0, 3, 6, 9),
        _size=sizes.get,
        _q_for_pri=lambda queue, priority: f"{queue}:{priority}",
    )
    monkeypatch.setattr(queues, "deferred_jobs", deferred_jobs)
    app: Any = "the app"
    watch = queues.QueueWatch(app, ("ai",), _ages=_Each(), _deferred=_Each())
    stock = watch._stock_in_redis(channel, "ai", 50.0)
    assert (stock.ready, stock.deferred, stock.deferred_jobs) == (7, 8, ("a job",))
    # The first two priorities are of interactive jobs, the other two of bulk jobs.
    assert (stock.oldest_s, stock.oldest_bulk_s) == (5.0, 6.0)
    lists = [f"ai.deferred:{priority}" for priority in (0, 3, 6, 9)]
    assert listed == [("the app", "the client", lists)]
    deferred.clear()
    stock = watch._stock_in_redis(channel, "ai", 50.0)
    assert (stock.oldest_s, stock.oldest_bulk_s) == (4.0, 3.0)


# --- deferred jobs


def test_the_oldest_deferred_jobs_that_were_seen_are_looked_at_again() -> None:
    evaluated: list[Any] = []
    ages_ms = {f"job-{number}": number * 1_000 for number in range(1, 13)}
    replies: list[list[Any]] = [
        [],
        [field for pair in ages_ms.items() for field in pair],
        ["job-9", 2_500],
    ]

    class _Client:
        def eval(self, _: str, keys: int, *given: Any) -> list[Any]:
            evaluated.append((keys, given))
            return replies.pop(0)

    age = DeferredAge()
    ages_s = [age.measure(_Client(), "its.due", "its.texts") for _ in range(3)]
    assert ages_s == [0, 12, 2.5]
    first, second, third = evaluated
    assert first == second == (2, ("its.texts", "its.due", 8))
    oldest = [f"job-{number}" for number in range(12, 4, -1)]
    assert third == (2, ("its.texts", "its.due", 8, *oldest))
    assert age._oldest == ["job-9"]
