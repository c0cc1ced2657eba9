"""The leases of a channel's messages, with a real Redis.

What workers make of them is in `tests/workers/aio/test_aio_leases.py`.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.transport_harness import STOCK, send, tube, waiting
from tests.processes import eventually


@pytest.fixture
def store(server: EmbeddedRedis) -> Iterator["redis.Redis"]:
    server.flush()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def test_only_what_is_not_renewed_is_given_back_and_its_deaths_are_counted(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", *range(3))
    with tube(server.url, "a", lease_s=900) as one, tube(server.url, "b", lease_s=900) as medic:
        one.until(lambda: len(one.got) == 3)
        tags = [message.delivery_tag for message in one.got]
        assert sorted(store.zrange("unacked.leases", 0, -1)) == sorted(tags)
        medic.turn()
        died_s = round(time.time() - 1000, 3)
        store.zadd(
            "unacked.leases", {tags[0]: died_s + 900, tags[1]: 0}
        )  # it died with one, let go of another
        medic.channel.qos.recover_at_s = 0
        medic.channel.recover()
        assert store.hkeys("unacked") == store.zrange("unacked.leases", 0, -1) == [tags[2]]
        one.until(lambda: len(one.got) == 5)
        again = {message.decode(): message for message in one.got[3:]}
        assert again[0].headers["deaths"] == 1
        assert again[0].headers["died_s"] == pytest.approx(died_s, abs=0.002)
        assert not {"deaths", "died_s"} & set(again[1].headers)
        assert all(message.headers["redelivered"] for message in again.values())
        # The tags are others: who had it first can neither forget nor return what somebody else has
        # now.
        assert {message.delivery_tag for message in again.values()}.isdisjoint(tags)
        one.got[0].reject()
        one.channel.flush_acks()
        assert store.hlen("unacked") == 3


def test_headers_that_are_added_stand_in_the_message_that_comes_again_and_not_in_this_one(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", "dies", "goes back", "ends")
    with tube(server.url, "a", lease_s=900) as one, tube(server.url, "b", lease_s=900) as medic:
        one.until(lambda: len(one.got) == 3)
        tags = [message.delivery_tag for message in one.got]
        for message in one.got:
            one.channel.add_headers(message, {"note": message.delivery_tag})
            assert "note" not in message.headers
        one.got[1].requeue()
        one.got[2].ack()
        one.channel.add_headers(one.got[2], {"note": "late"})
        medic.turn()
        store.zadd("unacked.leases", {tags[0]: time.time() - 1})
        medic.channel.qos.recover_at_s = 0
        medic.channel.recover()
        assert store.hlen("unacked") == 0
        one.until(lambda: len(one.got) == 5)
        again = {message.decode(): message.headers for message in one.got[3:]}
        assert again["dies"]["note"] == tags[0]
        assert again["dies"]["deaths"] == 1
        assert "deaths" not in again["goes back"]
        assert {message.delivery_tag.partition("@")[0] for message in one.got[3:]} == {
            tag.partition("@")[0] for tag in tags[:2]
        }


def test_nobody_is_given_up_before_all_had_time_to_renew_after_a_silence(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", 1)
    with tube(server.url, "a", lease_s=900) as one:
        one.until(lambda: one.got)
        one.turn()
        store.zadd("unacked.leases", {one.got[0].delivery_tag: 1.0})
        store.hset("unacked.pulse", "heard", time.time() - 800)  # the server was away
        one.channel.qos.recover_at_s = 0
        one.channel.recover()
        assert store.hlen("unacked") == 1
        assert float(store.hget("unacked.pulse", "hold_until")) > time.time() + 400


def test_where_the_servers_clock_was_set_back_the_leases_of_before_are_set_back_with_it(
    server: EmbeddedRedis, store: Any
) -> None:
    with tube(server.url, "a", lease_s=900) as one:
        one.turn()
        before_s, since_s = time.time() + 3_600, time.time() + 1_000
        store.zadd("unacked.leases", {"of a dead worker": before_s + 500, "taken since": since_s})
        store.hset("unacked.pulse", mapping={"heard": before_s, "hold_until": before_s})
        one.channel.qos.recover_at_s = 0
        one.channel.recover()
        end_s = store.zscore("unacked.leases", "of a dead worker")
        assert time.time() + 400 < end_s <= time.time() + 500.001  # it is kept in milliseconds
        assert store.zscore("unacked.leases", "taken since") == pytest.approx(since_s)
        assert float(store.hget("unacked.pulse", "hold_until")) <= time.time() + 450.001


def test_what_a_stock_worker_took_or_gave_back_is_left_to_the_visibility_timeout(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", 1, 2)
    with (
        tube(server.url, "a", transport=STOCK, prefetch=1) as stock,
        tube(server.url, "a", lease_s=900) as ours,
    ):
        stock.until(lambda: stock.got)
        ours.until(lambda: ours.got)
        with tube(server.url, transport=STOCK, visibility_timeout=-60) as medic:
            medic.channel.qos.restore_visible()
        assert store.hlen("unacked") == 0
        assert store.zcard("unacked.leases") == 1  # the stock code knows nothing of it
        store.zadd("unacked.leases", {ours.got[0].delivery_tag: 1.0})
        ours.channel.qos.recover_at_s = 0
        ours.channel.recover()
        assert store.zcard("unacked.leases") == 0


def test_a_booked_entry_that_is_no_message_is_set_aside(
    server: EmbeddedRedis, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tube(server.url, "a", lease_s=900) as one:
        one.until(lambda: one.channel.hints.all_empty)
        store.hset("unacked", "odd", "{")
        store.zadd("unacked.leases", {"odd": 1.0})
        one.channel.qos.recover_at_s = 0
        one.channel.recover()
        assert store.lrange("unacked.unreadable", 0, -1) == ["{"]
        assert store.hlen("unacked") == store.zcard("unacked.leases") == 0
    assert "moved an entry of unacked that is not a message" in caplog.text


def test_acknowledgements_and_returns_that_came_too_late_for_their_channel_are_sent_all_the_same(
    server: EmbeddedRedis, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server.url, "a", *range(4))
    with tube(server.url, "a", lease_s=900) as one:
        one.until(lambda: len(one.got) == 4)
        tags = [message.delivery_tag for message in one.got]
        monkeypatch.setattr(
            "worker.aio.transport.unacked.of_process.running_jobs", lambda _: set(tags[:3])
        )  # the pool runs three of them
        one.close()
        assert store.llen("a") == 1
        assert sorted(store.hkeys("unacked")) == sorted(tags[:3])
        one.got[0].ack()
        one.got[1].requeue()
        eventually(lambda: sorted(store.hkeys("unacked")) == sorted(tags[1:3]))
        eventually(lambda: store.zscore("unacked.leases", tags[1]) == 0)
        assert store.zscore("unacked.leases", tags[2]) > 0
        keeper = one.channel.qos.keeper
        keeper.release_unanswered(tags[2].partition("@")[2])
        eventually(lambda: store.zscore("unacked.leases", tags[2]) == 0)
        keeper.release_detached()


def test_what_ends_while_its_channel_ends_is_acknowledged_and_does_not_come_again(
    server: EmbeddedRedis, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server.url, "a", *range(5))
    with tube(server.url, "a", lease_s=900) as one:
        one.until(lambda: len(one.got) == 5)
        tags = [message.delivery_tag for message in one.got]

        def running_jobs(_: set[str]) -> set[str]:
            """As the pool does: two were running when it looked, then it read what had ended."""
            one.got[0].ack()
            one.got[1].ack()
            one.got[2].requeue()
            return {tags[1], tags[2], tags[3]}

        monkeypatch.setattr("worker.aio.transport.unacked.of_process.running_jobs", running_jobs)
        one.close()
        keeper = one.channel.qos.keeper
        assert keeper._detached == {tags[3]}
        assert waiting(store, "a") == [4]
        eventually(lambda: sorted(store.hkeys("unacked")) == sorted(tags[2:4]))
        eventually(lambda: store.zscore("unacked.leases", tags[2]) == 0)
        keeper.release_detached()


def test_without_leases_only_the_visibility_timeout_counts(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", 1)
    with tube(server.url, "a", lease_s=0) as one:
        one.with_hub()
        one.until(lambda: one.got)
        one.channel.recover()
        assert not store.exists("unacked.leases", "unacked.pulse")
        assert one.channel.qos.keeper is None


def test_what_a_full_server_does_not_take_back_is_given_out_again_later(
    server: EmbeddedRedis, store: Any
) -> None:
    send(server.url, "a", "job")
    with tube(server.url, "a", lease_s=900) as one, tube(server.url, "b", lease_s=900) as medic:
        one.until(lambda: one.got)
        store.config_set("maxmemory", 1)
        try:
            one.got[0].reject(requeue=True)
            assert store.hlen("unacked") == 1
        finally:
            store.config_set("maxmemory", 0)
        medic.until(lambda: store.zscore("unacked.leases", one.got[0].delivery_tag) in {0, None})
        medic.channel.qos.recover_at_s = 0
        medic.channel.recover()
        one.until(lambda: len(one.got) == 2)
        assert one.got[1].decode() == "job"
        assert "deaths" not in one.got[1].headers
