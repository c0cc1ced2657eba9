"""Which commands share a round trip, and to which command each reply belongs; without Redis."""

import asyncio
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
import redis

from worker.aio import end_storing, pipelining
from worker.aio.end_storing import EndStoringBackend
from worker.aio.pipelining import STORES, Pipelining

LOST, REPLICA = redis.ConnectionError("lost"), redis.exceptions.ReadOnlyError("READONLY")
WRONG = redis.ResponseError("WRONGTYPE")


class Server:
    """A link that gives each command its planned reply, and notes the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, repeats: int = 1) -> None:
        self.plan: list[Any] = []
        self.batches: list[list[Any]] = []
        self.leave = Mock()
        client: Any = Mock(**{"get_retry.return_value.get_retries.return_value": repeats})
        self.link = AsyncMock(side_effect=self._link)
        connection = Mock(link=self.link)
        monkeypatch.setattr(pipelining, "SharedConnection", lambda _: connection)
        monkeypatch.setattr(pipelining.hiredis, "pack_command", lambda command: command)
        self.pipelining = Pipelining(client)

    async def _link(self) -> Any:
        self.batches.append([])
        return self

    def send(self, command: Any) -> Any:
        self.batches[-1].append(command)
        future = asyncio.get_running_loop().create_future()
        answer = self.plan.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


async def test_the_commands_of_one_turn_share_a_round_trip(server: Server) -> None:
    server.plan = ["a", "b", "c", [], "d"]
    runs = [server.pipelining.run([("A",), ("B",)]), server.pipelining.run([("C",)])]
    stores = [server.pipelining.store(f"k{number}", "v", 60) for number in range(2)]
    assert await asyncio.gather(*runs, *stores) == [["a", "b"], ["c"], None, None]
    [batch] = server.batches
    assert batch[:3] == [("A",), ("B",), ("C",)]
    assert batch[3][2:] == (2, "k0", "k1", "v", 60, "v", 60)
    await asyncio.sleep(0)
    assert await server.pipelining.run([("D",)]) == ["d"]


async def test_a_hundred_stores_share_a_script_and_each_returns_the_value_before_it(
    server: Server,
) -> None:
    server.plan = [[0, b"old", 99, WRONG], []]
    stores = [server.pipelining.store(number, "v", 60) for number in range(STORES + 1)]
    settled = await asyncio.gather(*stores, return_exceptions=True)
    assert settled == [b"old", *[None] * 98, WRONG, None]
    [batch] = server.batches
    assert [command[2] for command in batch] == [STORES, 1]
    server.leave.assert_not_called()


# The replies of consecutive attempts, and the outcome.
@pytest.mark.parametrize(
    ("plan", "ends", "tries"),
    [
        (["a", "b"], ["a", "b"], 1),
        (["a", WRONG], WRONG, 1),
        ([LOST, LOST, "a", "b"], ["a", "b"], 2),
        (["a", LOST, LOST, LOST], LOST, 2),
        (["a", REPLICA, "a", "b"], ["a", "b"], 2),
        (["a", REPLICA, "a", REPLICA], "this Redis is a replica now (READONLY)", 2),
    ],
)
async def test_a_batch_whose_connection_is_lost_is_repeated_as_often_as_the_client_says(
    server: Server, plan: list[Any], ends: Any, tries: int
) -> None:
    server.plan = plan
    [settled] = await asyncio.gather(
        server.pipelining.run([("A",), ("B",)]), return_exceptions=True
    )
    assert (str(settled) if isinstance(ends, str) else settled) == ends
    if isinstance(ends, str):
        assert isinstance(settled, redis.ConnectionError)
    assert len(server.batches) == tries


async def test_a_script_that_met_a_replica_ends_the_use_of_its_link(server: Server) -> None:
    server.plan = [[0, REPLICA], [], [0, WRONG]]
    [settled] = await asyncio.gather(server.pipelining.store("k", "v", 60), return_exceptions=True)
    assert settled is REPLICA
    server.leave.assert_called_once_with()
    assert await server.pipelining.store("k", "v", 60) is None
    server.leave.assert_called_once_with()


async def test_a_caller_that_was_cancelled_does_no_harm_to_the_others(server: Server) -> None:
    server.plan = ["a", "b"]
    gone, other = server.pipelining.run([("A",)]), server.pipelining.run([("B",)])
    gone.cancel()
    assert await other == ["b"]


class Ends:
    """A store of ends in which some keys have values already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend: Any = EndStoringBackend.__new__(EndStoringBackend)
        self.known: list[list[Any]] = []
        self.replies: list[list[Any]] = []
        self.sent: list[Any] = []
        pipe = Mock(execute=lambda: self.replies.pop(0))
        pipe.execute_command = lambda *command: self.sent.append(command)
        whole = Mock(__enter__=Mock(return_value=pipe), __exit__=Mock(return_value=None))
        client = Mock(**{"pipeline.return_value": whole})
        client.execute_command.side_effect = lambda *_: self.known.pop(0)
        self.client = client
        monkeypatch.setattr(EndStoringBackend, "client", client)
        monkeypatch.setattr(end_storing, "store_command", lambda entries: (len(entries),))
        monkeypatch.setattr(end_storing, "replacement", lambda *entry: entry)
        for name, value in (
            ("_entry", lambda task_id, *_: (f"key of {task_id}", "v", 60)),
            ("encode_result", lambda exc, _: exc),
            ("ensure", lambda function, args: function(*args)),
            (
                "_is_replaceable",
                lambda stored, _state, *, over_ends: over_ends and stored != b"success",
            ),
        ):
            monkeypatch.setattr(self.backend, name, value, raising=False)


def test_ends_are_stored_a_hundred_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends(monkeypatch)
    ends.known = [[], [], []]
    ends.backend.store_ends([("job", ValueError(), None)] * 201, "REVOKED")
    sizes = [command.args for command in ends.client.execute_command.call_args_list]
    assert sizes == [(100,), (100,), (1,)]
    ends.client.pipeline.assert_not_called()


@pytest.mark.parametrize("over_ends", [True, False])
def test_an_end_gives_way_until_it_is_one_that_stays(
    monkeypatch: pytest.MonkeyPatch, *, over_ends: bool
) -> None:
    ends = Ends(monkeypatch)
    ends.known = [[0, b"old", 1, b"success", 2, b"old"]]
    ends.replies = [[b"newer", None], [b"success"]]
    jobs = [(name, ValueError(), None) for name in "abc"]
    options = {} if over_ends else {"over_ends": False}
    ends.backend.store_ends(jobs, "REVOKED", **options)
    replaced = [
        (b"old", "key of a", "v", 60), (b"old", "key of c", "v", 60),
        (b"newer", "key of a", "v", 60),
    ]  # fmt: skip
    assert ends.sent == (replaced if over_ends else [])
    if over_ends:
        assert ends.client.pipeline.call_args_list == [call(transaction=False)] * 2


def test_an_error_reply_of_the_server_is_raised_to_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = Ends(monkeypatch)
    ends.known = [[0, WRONG]]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        ends.backend.store_ends([("a", ValueError(), None)], "REVOKED")
