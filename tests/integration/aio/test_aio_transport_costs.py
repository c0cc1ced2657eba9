"""The transport's costs for a real Redis: connections, commands, and polls of queues."""

import gc
import json
import time
from typing import Any

import pytest
from kombu import Connection

from tests.integration.aio.transport_harness import (
    OURS,
    calls,
    receiving,
    send,
)
from worker.aio.transport.poller import has_buffered
from worker.aio.transport.scripts import EXPIRED

pytestmark = pytest.mark.usefixtures("only_taking")


def test_all_commands_of_a_channel_share_one_client(url: str) -> None:
    with receiving(url) as receiver:
        with (
            receiver.channel.conn_or_acquire() as first,
            receiver.channel.conn_or_acquire() as second,
        ):
            assert first is second
        receiver.channel._disconnect_pools()  # as after a fork
        with receiver.channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()


def test_the_channels_of_one_connection_share_a_client_until_one_is_closed(
    url: str, books: Any
) -> None:
    with Connection(url, transport=OURS) as connection:
        closed, other = connection.channel(), connection.channel()
        with closed.conn_or_acquire() as first, other.conn_or_acquire() as second:
            before = len(books.client_list())
            assert first.ping() and second.ping()  # noqa: PT018 - one after the other
            assert len(books.client_list()) == before + 1
        closed.close()
        third = connection.channel()
        for channel in (other, third):
            with channel.conn_or_acquire() as client:
                assert client.ping()


def test_only_bytes_that_have_been_read_count_as_buffered_and_the_socket_is_not_polled(
    url: str,
) -> None:
    with receiving(url) as receiver, receiver.channel.conn_or_acquire() as client:
        connection = client.connection_pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands([("PING",)] * 2))
            assert connection.can_read(10)
            assert not has_buffered(connection)  # the socket holds all of it
            connection.read_response()
            assert has_buffered(connection)
            connection.read_response()
            assert not has_buffered(connection)
        finally:
            client.connection_pool.release(connection)


@pytest.mark.parametrize("end", ["close", "abandon"])
def test_a_channel_that_gives_messages_back_at_its_end_leaves_no_connection_open(
    url: str, books: Any, end: str
) -> None:
    def connections() -> set[str]:
        return {client["id"] for client in books.client_list()}

    send(url, "a", 1, 2)
    gc.collect()
    gc.disable()  # garbage collection would close them at some time
    try:
        before = connections()
        with receiving(url, "a") as receiver:
            receiver.until(lambda: len(receiver.messages) == 2)
            assert connections() > before
            getattr(receiver.channel, end)()
            assert books.llen("a") == 2
        deadline = time.monotonic() + 15
        while connections() - before:
            assert time.monotonic() < deadline
    finally:
        gc.enable()


def test_a_look_into_empty_queues_costs_the_server_one_command_for_all_of_them(
    url: str, books: Any
) -> None:
    with receiving(url, *"abcde") as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty)
        before = {name: calls(books, name) for name in ("evalsha", "exists", "lrange", "llen")}
        receiver.channel.hints.look_at_s = 0.0
        receiver.until(
            lambda: calls(books, "evalsha") > before["evalsha"] and not receiver.channel._in_poll
        )
        assert {name: calls(books, name) - count for name, count in before.items()} == {
            "evalsha": 1,
            "exists": 1,
            "lrange": 0,
            "llen": 0,
        }


def test_a_channel_that_only_publishes_has_one_connection(url: str, books: Any) -> None:
    before = len(books.client_list())
    with Connection(url, transport=OURS) as connection:
        connection.SimpleQueue("a").queue.maybe_bind(connection.default_channel)
        connection.Producer().publish("x", routing_key="a")
        assert len(books.client_list()) - before == 1


def test_of_a_change_only_the_list_that_changed_is_looked_into(url: str, books: Any) -> None:
    names = ("evalsha", "exists", "lrange", "getex", "time", "zadd", "hset", "ltrim")
    with receiving(url, *"abcde", prefetch=100, delayed_queues=["e"]) as receiver:
        receiver.with_hub()
        for number in range(2):  # the second request does not ask for other lists either
            receiver.until(
                lambda: receiver.channel.hints.all_empty and not receiver.channel._in_poll
            )
            before = {name: calls(books, name) for name in names}
            send(url, "d", *range(3 * number, 3 * number + 1), priority=9)
            receiver.until(lambda number=number: len(receiver.messages) > number)
            receiver.until(
                lambda: receiver.channel.hints.all_empty and not receiver.channel._in_poll
            )
            spent = {name: calls(books, name) - count for name, count in before.items()}
            assert spent == {
                name: 0 if name == "getex" else 2 if name == "zadd" else 1 for name in names
            }


def test_messages_taken_together_are_entered_together(url: str, books: Any) -> None:
    send(url, "a", *range(40))
    send(url, "b", *range(40, 80))
    before = {name: calls(books, name) for name in ("hset", "ltrim")}
    with receiving(url, "a", "b", prefetch=60) as receiver:
        receiver.with_hub()
        receiver.until(lambda: len(receiver.messages) == 60)
        assert (books.llen("a"), books.llen("b")) == (10, 10)
        assert (
            books.hlen("unacked")
            == books.zcard("unacked_index")
            == books.zcard("unacked.leases")
            == 60
        )
        spent = {name: calls(books, name) - count for name, count in before.items()}
        assert spent["ltrim"] == 2
        assert spent["hset"] <= 5  # leases are renewed meanwhile


def test_a_queue_that_is_left_out_costs_no_questions_and_is_asked_again_once_it_may_be(
    url: str, books: Any
) -> None:
    with receiving(url, "a", "b", prefetch=100) as receiver:
        receiver.with_hub()
        room = [0]
        receiver.channel.take_at_most("a", lambda: room[0])
        send(url, "a", 1, 2)
        receiver.until(
            lambda: receiver.channel.hints.left_out == {"a"} and not receiver.channel._in_poll
        )
        before = calls(books, "evalsha")
        send(url, "b", 3)
        receiver.until(lambda: receiver.bodies == [3])
        for _ in range(5):
            receiver.turn()
        assert calls(books, "evalsha") == before + 1
        room[0] = 10
        receiver.until(lambda: receiver.bodies == [3, 1, 2])


def test_after_a_flush_of_the_server_queues_are_looked_into_again(url: str, books: Any) -> None:
    with receiving(url, "a", polling_interval=60) as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty)
        books.flushall()
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages)


def test_the_text_of_the_script_is_sent_once_if_the_server_does_not_know_it(
    url: str, books: Any
) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty and not receiver.channel._in_poll)
        books.script_flush()
        before = {name: calls(books, name) for name in ("eval", "evalsha")}
        for body in (1, 2, 3):
            send(url, "a", body)
            receiver.until(lambda body=body: receiver.bodies[-1:] == [body])
        spent = {name: calls(books, name) - count for name, count in before.items()}
        assert spent["eval"] == 1
        assert spent["evalsha"] >= 3


@pytest.mark.parametrize(
    "message",
    [
        {"headers": {"properties": {"delivery_tag": "false"}}, "properties": "here"},
        # sorts before the others, so the last text of that kind is another one
        {"properties": "here", "headers": {"properties": {"delivery_tag": "false"}}},
        {"headers": {"x": '"properties": {"delivery_tag": "false"}}'}, "properties": "here"},
        {"properties": "here", "more": {"deeper": [{"properties": {"delivery_tag": "false"}}]}},
    ],
)
def test_a_message_is_entered_by_its_own_properties_wherever_they_stand(
    url: str, books: Any, message: dict[str, Any]
) -> None:
    text = json.dumps({"body": "MQ==", "content-type": "application/json", **message}).replace(
        '"here"',
        '{"delivery_tag": "true", "body_encoding": "base64", "delivery_info": '
        '{"exchange": "e", "routing_key": "a", "properties": {"delivery_tag": "false"}}}',
    )
    books.lpush("a", text)
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        receiver.until(lambda: books.hlen("unacked"))
        ((tag, entry),) = books.hgetall("unacked").items()
        assert tag.startswith("true@")
        assert json.loads(entry) == [json.loads(text), "e", "a"]


def test_a_channel_that_holds_nothing_needs_no_connection_for_leases(url: str, books: Any) -> None:
    with receiving(url, "a", lease_s=2) as receiver:
        receiver.with_hub()
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages)
        keeper = receiver.channel.qos.keeper
        assert keeper is not None
        receiver.until(lambda: keeper._client is not None)  # it renews leases
        heard_s = float(books.hget("unacked.pulse", "heard"))
        receiver.messages[0].ack()
        receiver.until(lambda: keeper._client is None and not books.hlen("unacked"))
        before = calls(books, "eval")
        receiver.until(lambda: float(books.hget("unacked.pulse", "heard")) > heard_s + 1)
        assert keeper._client is None
        assert calls(books, "eval") > before, "the poll for dead workers updates the pulse"


def test_workers_count_each_other_as_they_look_for_messages_of_dead_ones(books: Any) -> None:
    def look(*, first: int = 1, rounds: int = 0) -> int:
        books.hincrby("pulse", "round", -rounds)  # as if these rounds had passed
        reply = books.eval(EXPIRED, 3, "pulse", "leases", "unacked", 30, 100, 1_000_000, first)
        return int(reply[1])

    assert [look() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert look(first=0) == 5  # another worker takes over
    assert look(rounds=1) == 5  # the last round counts until this one has more
    assert [look() for _ in range(5)] == [5, 5, 5, 5, 6]
    assert look(rounds=2) == 1  # all were silent for a round
