"""What the transport costs a real Redis: its connections, its commands, its looks into queues."""

import gc
import time
from typing import Any

import pytest
from kombu import Connection

from tests.integration.aio.transport_harness import (
    OURS,
    calls,
    send,
    tube,
)
from worker.aio.transport import Channel


@pytest.fixture(autouse=True)
def only_taking(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted here is what taking costs; to look for tenants costs a command now and then.

    That is counted in `test_aio_transport_sharing.py`.
    """
    monkeypatch.setattr(Channel, "share", lambda _: None)


def test_all_commands_of_a_channel_share_one_client(url: str) -> None:
    with tube(url) as one:
        with one.channel.conn_or_acquire() as first, one.channel.conn_or_acquire() as second:
            assert first is second
        one.channel._disconnect_pools()  # as after a fork
        with one.channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()


def test_the_channels_of_one_connection_share_what_sends_their_commands_until_one_is_closed(
    url: str, books: Any
) -> None:
    with Connection(url, transport=OURS) as connection:
        one, other = connection.channel(), connection.channel()
        with one.conn_or_acquire() as first, other.conn_or_acquire() as second:
            before = len(books.client_list())
            assert first.ping() and second.ping()  # noqa: PT018 - one after the other
            assert len(books.client_list()) == before + 1
        one.close()
        third = connection.channel()
        for channel in (other, third):
            with channel.conn_or_acquire() as client:
                assert client.ping()


@pytest.mark.parametrize("end", ["close", "abandon"])
def test_a_channel_that_gives_messages_back_at_its_end_leaves_no_connection_open(
    url: str, books: Any, end: str
) -> None:
    def connections() -> set[str]:
        return {client["id"] for client in books.client_list()}

    send(url, "a", 1, 2)
    gc.collect()
    gc.disable()  # it would close them, some day
    try:
        before = connections()
        with tube(url, "a") as one:
            one.until(lambda: len(one.got) == 2)
            assert connections() > before
            getattr(one.channel, end)()
            assert books.llen("a") == 2
        deadline = time.monotonic() + 15
        while connections() - before:
            assert time.monotonic() < deadline
    finally:
        gc.enable()


def test_a_look_into_empty_queues_costs_the_server_one_command_for_all_of_them(
    url: str, books: Any
) -> None:
    with tube(url, *"abcde") as one:
        one.with_hub()
        one.until(lambda: one.channel.hints.all_empty)
        before = {name: calls(books, name) for name in ("evalsha", "exists", "lrange", "llen")}
        one.channel.hints.look_at_s = 0.0
        one.until(lambda: calls(books, "evalsha") > before["evalsha"] and not one.channel._in_poll)
        assert {name: calls(books, name) - count for name, count in before.items()} == {
            "evalsha": 1,
            "exists": 1,
            "lrange": 0,
            "llen": 0,
        }


def test_who_only_publishes_has_one_connection(url: str, books: Any) -> None:
    before = len(books.client_list())
    with Connection(url, transport=OURS) as connection:
        connection.SimpleQueue("a").queue.maybe_bind(connection.default_channel)
        connection.Producer().publish("x", routing_key="a")
        assert len(books.client_list()) - before == 1


def test_of_a_change_only_the_list_that_changed_is_looked_into(url: str, books: Any) -> None:
    names = ("evalsha", "exists", "lrange", "getex", "time", "zadd", "hset", "ltrim")
    with tube(url, *"abcde", prefetch=100, delayed_queues=["e"]) as one:
        one.with_hub()
        for number in range(2):  # the second time no question asks of other lists, either
            one.until(lambda: one.channel.hints.all_empty and not one.channel._in_poll)
            before = {name: calls(books, name) for name in names}
            send(url, "d", *range(3 * number, 3 * number + 1), priority=9)
            one.until(lambda number=number: len(one.got) > number)
            one.until(lambda: one.channel.hints.all_empty and not one.channel._in_poll)
            spent = {name: calls(books, name) - count for name, count in before.items()}
            assert spent == {
                name: 0 if name == "getex" else 2 if name == "zadd" else 1 for name in names
            }


def test_what_is_taken_at_once_is_entered_at_once(url: str, books: Any) -> None:
    send(url, "a", *range(40))
    send(url, "b", *range(40, 80))
    before = {name: calls(books, name) for name in ("hset", "ltrim")}
    with tube(url, "a", "b", prefetch=60) as one:
        one.with_hub()
        one.until(lambda: len(one.got) == 60)
        assert (books.llen("a"), books.llen("b")) == (10, 10)
        assert (
            books.hlen("unacked")
            == books.zcard("unacked_index")
            == books.zcard("unacked.leases")
            == 60
        )
        spent = {name: calls(books, name) - count for name, count in before.items()}
        assert spent["ltrim"] == 2
        assert spent["hset"] <= 5  # leases are kept meanwhile


def test_a_queue_that_is_left_out_costs_no_questions_and_is_asked_again_once_it_may_be(
    url: str, books: Any
) -> None:
    with tube(url, "a", "b", prefetch=100) as one:
        one.with_hub()
        room = [0]
        one.channel.take_at_most("a", lambda: room[0])
        send(url, "a", 1, 2)
        one.until(lambda: one.channel.hints.left_out == {"a"} and not one.channel._in_poll)
        before = calls(books, "evalsha")
        send(url, "b", 3)
        one.until(lambda: one.bodies == [3])
        for _ in range(5):
            one.turn()
        assert calls(books, "evalsha") == before + 1
        room[0] = 10
        one.until(lambda: one.bodies == [3, 1, 2])


def test_an_emptied_server_is_looked_at_anew(url: str, books: Any) -> None:
    with tube(url, "a", polling_interval=60) as one:
        one.with_hub()
        one.until(lambda: one.channel.hints.all_empty)
        books.flushall()
        send(url, "a", 1)
        one.until(lambda: one.got)
