"""The leases of a channel's messages, with a real Redis.

`tests/workers/aio/test_aio_leases.py` tests them with workers.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.transport_harness import STOCK, receiving, send, waiting
from tests.processes import eventually


@pytest.fixture
def store(server: EmbeddedRedis) -> Iterator["redis.Redis"]:
    server.flush()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def test_only_messages_whose_leases_are_not_renewed_are_given_back_and_their_deaths_counted(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", *range(3))
    with (
        receiving(server.url, "a", lease_s=900) as receiver,
        receiving(server.url, "b", lease_s=900) as medic,
    ):
        receiver.until(lambda: len(receiver.messages) == 3)
        tags = [message.delivery_tag for message in receiver.messages]
        assert sorted(store.zrange("unacked.leases", 0, -1)) == sorted(tags)
        medic.turn()
        died_s = round(time.time() - 1000, 3)
        store.zadd(
            "unacked.leases", {tags[0]: died_s + 900, tags[1]: 0}
        )  # it died with one message, and had returned another
        medic.channel.qos.recover_at_s = 0
        medic.channel.recover()
        assert store.hkeys("unacked") == store.zrange("unacked.leases", 0, -1) == [tags[2]]
        receiver.until(lambda: len(receiver.messages) == 5)
        again = {message.decode(): message for message in receiver.messages[3:]}
        assert again[0].headers["deaths"] == 1
        assert again[0].headers["died_s"] == pytest.approx(died_s, abs=0.002)
        assert not {"deaths", "died_s"} & set(again[1].headers)
        assert all(message.headers["redelivered"] for message in again.values())
        # The tags are new: the first worker can neither acknowledge nor return messages that
        # another worker has now.
        assert {message.delivery_tag for message in again.values()}.isdisjoint(tags)
        receiver.messages[0].reject()
        receiver.channel.flush_acks()
        assert store.hlen("unacked") == 3


def test_headers_that_are_added_stand_in_the_message_that_comes_again_and_not_in_this_one(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", "dies", "goes back", "ends")
    with (
        receiving(server.url, "a", lease_s=900) as receiver,
        receiving(server.url, "b", lease_s=900) as medic,
    ):
        receiver.until(lambda: len(receiver.messages) == 3)
        tags = [message.delivery_tag for message in receiver.messages]
        for message in receiver.messages:
            receiver.channel.add_headers(message, {"note": message.delivery_tag})
            assert "note" not in message.headers
        receiver.messages[1].requeue()
        receiver.messages[2].ack()
        receiver.channel.add_headers(receiver.messages[2], {"note": "late"})
        medic.turn()
        store.zadd("unacked.leases", {tags[0]: time.time() - 1})
        medic.channel.qos.recover_at_s = 0
        medic.channel.recover()
        assert store.hlen("unacked") == 0
        receiver.until(lambda: len(receiver.messages) == 5)
        again = {message.decode(): message.headers for message in receiver.messages[3:]}
        assert again["dies"]["note"] == tags[0]
        assert again["dies"]["deaths"] == 1
        assert "deaths" not in again["goes back"]
        assert {message.delivery_tag.partition("@")[0] for message in receiver.messages[3:]} == {
            tag.partition("@")[0] for tag in tags[:2]
        }


def test_after_a_silence_no_lease_expires_before_all_workers_had_time_to_renew(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", 1)
    with receiving(server.url, "a", lease_s=900) as receiver:
        receiver.until(lambda: receiver.messages)
        receiver.turn()
        store.zadd("unacked.leases", {receiver.messages[0].delivery_tag: 1.0})
        store.hset("unacked.pulse", "heard", time.time() - 800)  # the server was down
        receiver.channel.qos.recover_at_s = 0
        receiver.channel.recover()
        assert store.hlen("unacked") == 1
        assert float(store.hget("unacked.pulse", "hold_until")) > time.time() + 400


def test_if_the_servers_clock_was_set_back_the_leases_of_before_are_set_back_with_it(
    server: EmbeddedRedis, store: Any
) -> None:
    with receiving(server.url, "a", lease_s=900) as receiver:
        receiver.turn()
        before_s, since_s = time.time() + 3_600, time.time() + 1_000
        store.zadd("unacked.leases", {"of a dead worker": before_s + 500, "taken since": since_s})
        store.hset("unacked.pulse", mapping={"heard": before_s, "hold_until": before_s})
        receiver.channel.qos.recover_at_s = 0
        receiver.channel.recover()
        end_s = store.zscore("unacked.leases", "of a dead worker")
        assert time.time() + 400 < end_s <= time.time() + 500.001  # Redis keeps it in milliseconds
        assert store.zscore("unacked.leases", "taken since") == pytest.approx(since_s)
        assert float(store.hget("unacked.pulse", "hold_until")) <= time.time() + 450.001


def test_messages_of_stock_workers_are_left_to_the_visibility_timeout(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", 1, 2)
    with (
        receiving(server.url, "a", transport=STOCK, prefetch=1) as stock,
        receiving(server.url, "a", lease_s=900) as ours,
    ):
        stock.until(lambda: stock.messages)
        ours.until(lambda: ours.messages)
        with receiving(server.url, transport=STOCK, visibility_timeout=-60) as medic:
            medic.channel.qos.restore_visible()
        assert store.hlen("unacked") == 0
        assert store.zcard("unacked.leases") == 1  # the stock code does not know it
        store.zadd("unacked.leases", {ours.messages[0].delivery_tag: 1.0})
        ours.channel.qos.recover_at_s = 0
        ours.channel.recover()
        assert store.zcard("unacked.leases") == 0


def test_an_unacknowledged_entry_that_is_not_a_message_is_set_aside(
    server: EmbeddedRedis, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(server.url, "a", lease_s=900) as receiver:
        receiver.until(lambda: receiver.channel.hints.all_empty)
        store.hset("unacked", "odd", "{")
        store.zadd("unacked.leases", {"odd": 1.0})
        receiver.channel.qos.recover_at_s = 0
        receiver.channel.recover()
        assert store.lrange("unacked.unreadable", 0, -1) == ["{"]
        assert store.hlen("unacked") == store.zcard("unacked.leases") == 0
    assert "moved an entry of unacked that is not a message" in caplog.text


def test_acknowledgements_and_returns_that_came_too_late_for_their_channel_are_sent_anyway(
    server: EmbeddedRedis, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server.url, "a", *range(4))
    with receiving(server.url, "a", lease_s=900) as receiver:
        receiver.until(lambda: len(receiver.messages) == 4)
        tags = [message.delivery_tag for message in receiver.messages]
        monkeypatch.setattr(
            "worker.aio.transport.unacked.of_process.running_jobs", lambda _: set(tags[:3])
        )  # the pool runs three of them
        receiver.close()
        assert store.llen("a") == 1
        assert sorted(store.hkeys("unacked")) == sorted(tags[:3])
        receiver.messages[0].ack()
        receiver.messages[1].requeue()
        eventually(lambda: sorted(store.hkeys("unacked")) == sorted(tags[1:3]))
        eventually(lambda: store.zscore("unacked.leases", tags[1]) == 0)
        assert store.zscore("unacked.leases", tags[2]) > 0
        keeper = receiver.channel.qos.keeper
        keeper.release_unanswered(tags[2].partition("@")[2])
        eventually(lambda: store.zscore("unacked.leases", tags[2]) == 0)
        keeper.release_detached()


def test_a_job_that_ends_while_its_channel_closes_is_acknowledged_and_not_redelivered(
    server: EmbeddedRedis, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server.url, "a", *range(5))
    with receiving(server.url, "a", lease_s=900) as receiver:
        receiver.until(lambda: len(receiver.messages) == 5)
        tags = [message.delivery_tag for message in receiver.messages]

        def running_jobs(_: set[str]) -> set[str]:
            """Report running jobs as the pool does: two of them end after it has looked."""
            receiver.messages[0].ack()
            receiver.messages[1].ack()
            receiver.messages[2].requeue()
            return {tags[1], tags[2], tags[3]}

        monkeypatch.setattr("worker.aio.transport.unacked.of_process.running_jobs", running_jobs)
        receiver.close()
        keeper = receiver.channel.qos.keeper
        assert keeper._detached == {tags[3]}
        assert waiting(store, "a") == [4]
        eventually(lambda: sorted(store.hkeys("unacked")) == sorted(tags[2:4]))
        eventually(lambda: store.zscore("unacked.leases", tags[2]) == 0)
        keeper.release_detached()


def test_without_leases_only_the_visibility_timeout_counts(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", 1)
    with receiving(server.url, "a", lease_s=0) as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.messages)
        receiver.channel.recover()
        assert not store.exists("unacked.leases", "unacked.pulse")
        assert receiver.channel.qos.keeper is None


def test_messages_that_a_full_server_does_not_take_back_are_redelivered_later(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", "job")
    with (
        receiving(server.url, "a", lease_s=900) as receiver,
        receiving(server.url, "b", lease_s=900) as medic,
    ):
        receiver.until(lambda: receiver.messages)
        store.config_set("maxmemory", 1)
        try:
            receiver.messages[0].reject(requeue=True)
            assert store.hlen("unacked") == 1
        finally:
            store.config_set("maxmemory", 0)
        medic.until(
            lambda: store.zscore("unacked.leases", receiver.messages[0].delivery_tag) in {0, None}
        )
        medic.channel.qos.recover_at_s = 0
        medic.channel.recover()
        receiver.until(lambda: len(receiver.messages) == 2)
        assert receiver.messages[1].decode() == "job"
        assert "deaths" not in receiver.messages[1].headers
