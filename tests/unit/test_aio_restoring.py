"""Messages that go back to their queue: those of dead workers, and those that a channel returns."""

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_broker import AWAY, BACK_KEYS, FULL, Broker, deliver, message, unstarted
from worker.aio.transport import restoring, unacked
from worker.aio.transport.headers import DEATHS, DIED_S
from worker.aio.transport.qos import TransportQoS
from worker.aio.transport.scripts import EXPIRED, GIVE_BACK, UPDATE_ENTRY


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    fresh = Broker()
    monkeypatch.setattr(restoring, "time", SimpleNamespace(monotonic=lambda: fresh.now_s))
    return fresh


@pytest.fixture
def qos(broker: Broker) -> TransportQoS:
    return unstarted(broker)


def test_headers_are_added_to_the_message_as_it_would_come_again(
    broker: Broker, qos: TransportQoS
) -> None:
    qos.add_headers(message("1@7", headers={"id": "job", "begun": 1}), {"begun": 2, "more": 3})
    [[*command, entry]] = broker.sent
    assert command == ["EVAL", UPDATE_ENTRY, 1, "p.unacked", "1@7"]
    payload, exchange, routing_key = json.loads(entry)
    assert payload["headers"] == {"id": "job", "begun": 2, "more": 3}
    assert payload["properties"]["delivery_tag"] == "1"  # the tag of its producer
    assert (exchange, routing_key) == ("x", "a")


def test_messages_that_go_back_are_sent_in_parts_from_the_last_to_the_first(
    broker: Broker, qos: TransportQoS
) -> None:
    broker.execute_command.side_effect = [500, 1]
    tags = [str(number) for number in range(501)]
    back = [(tag, f"text {tag}", ["a"]) for tag in tags]
    assert qos.give_back(back, before="12.5") == 501
    arguments = [each for tag in reversed(tags[1:]) for each in (tag, f"text {tag}", 1, 5)]
    assert broker.sent == [
        ["EVAL", GIVE_BACK, 5, *BACK_KEYS, "p.a", "12.5", *arguments],
        ["EVAL", GIVE_BACK, 5, *BACK_KEYS, "p.a", "12.5", "0", "text 0", 1, 5],
    ]
    broker.execute_command.side_effect = None
    qos.give_back([("1", "t", ["a", "b"]), ("2", "u", ["unacked.unreadable", "b"])])
    assert broker.sent == [
        ["EVAL", GIVE_BACK, 6, *BACK_KEYS, "p.b", "p.a", "", "2", "u", 2, 4, 5, "1", "t", 2, 6, 5]
    ]
    assert qos.give_back([]) == 0
    assert broker.sent == []


def test_a_channel_that_ends_puts_its_messages_back_in_order_and_marks_them(
    broker: Broker, qos: TransportQoS
) -> None:
    deliver(qos, "1@5", "2")
    qos.moved = "3"
    qos.append(message("3", routing_key="unbound"), "3")
    qos.ack("2")
    broker.execute_command.side_effect = [AWAY, 2]
    qos.restore_unacked_once()
    _, back = broker.sent
    command, (third, text3, count3, list3), (first, text1, count1, *lists1) = (
        back[:11],
        back[11:15],
        back[15:],
    )
    assert command == ["EVAL", GIVE_BACK, 7, *BACK_KEYS, "p.unbound:0", "p.a:0", "p.b:0", ""]
    assert (third, count3, list3) == ("3", 1, 5)
    assert (first, count1, lists1) == ("1@5", 2, [6, 7])
    for tag, text in (("1", text1), ("3", text3)):
        payload = json.loads(text)
        assert payload["headers"] == {"id": "job", "redelivered": True}
        assert payload["properties"]["delivery_tag"] == tag
        assert payload["properties"]["delivery_info"]["redelivered"] is True
    assert [*qos._delivered] == []


@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("error", [None, AWAY, OSError("reset"), FULL])
def test_a_channel_that_ends_leaves_the_messages_of_jobs_that_run_on(
    broker: Broker,
    qos: TransportQoS,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    *,
    leases: bool,
) -> None:
    qos.keeper = broker.keeper if leases else None
    questions: list[set[str]] = []

    def run_on(held: set[str]) -> set[str]:
        questions.append(held)
        return {"2", "of another channel"}

    monkeypatch.setattr(unacked.of_process, "running_jobs", run_on)
    given: list[str] = []

    def give_back(messages: list[tuple[str, Any, list[str]]], **_: Any) -> None:
        given.extend(tag for tag, *_ in messages)
        if error is not None:
            raise error

    monkeypatch.setattr(qos, "give_back", give_back)
    deliver(qos, "1", "2", "3", "4")
    qos.ack("4")
    if leases or error is None:
        qos.restore_unacked_once()
    else:
        with pytest.raises(type(error)):
            qos.restore_unacked_once()
    assert given == (["1", "3"] if leases else ["1", "2", "3"])
    assert [*qos._delivered] == []
    if leases:
        assert questions == [{"1", "2", "3", "4"}]
        steps = [call.acknowledge(["4"]), call.detach(["2"]), call.leave(qos)]
        steps += [call.release(["1", "3"])] if error else []
        assert broker.keeper.mock_calls == steps
        words = f"cannot put 2 messages back now ({error}); releasing their leases"
        assert caplog.messages == [words] * (error is not None)
        assert broker.sent == []
    qos.restore_unacked_once()
    assert len(given) == (2 if leases else 3)


@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("error", [AWAY, OSError("reset"), FULL])
def test_messages_that_cannot_be_returned_lose_their_leases(
    broker: Broker,
    qos: TransportQoS,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    *,
    leases: bool,
) -> None:
    broker.execute_command.side_effect = error
    if not leases:
        with pytest.raises(type(error)):
            qos.return_or_release([("1", "", ["a"])])
        return
    qos.keeper = broker.keeper
    qos.return_or_release([("1", "", ["a"]), ("2", "", ["a"])])
    [(released,)] = [each.args for each in broker.keeper.release.call_args_list]
    assert list(released) == ["1", "2"]
    assert caplog.messages == [f"cannot put 2 messages back now ({error}); releasing their leases"]


def test_a_turn_of_the_hub_sends_acknowledgements_before_it_redelivers_messages_of_dead_workers(
    broker: Broker,
    qos: TransportQoS,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = Mock()
    for name in ("flush_acks", "recover"):
        monkeypatch.setattr(qos, name, getattr(steps, name))
    monkeypatch.setattr(restoring.StockQoS, "restore_visible", steps.restore_visible)
    qos.restore_visible(1, num=2)
    assert steps.mock_calls == [call.flush_acks(), call.recover(), call.restore_visible(1, num=2)]
    assert caplog.messages == []
    steps.recover.side_effect = FULL
    qos.restore_visible()
    assert caplog.messages == [f"the broker redelivers nothing now ({FULL}); trying again soon"]
    steps.recover.side_effect = AWAY
    with pytest.raises(redis.ConnectionError):
        qos.restore_visible()


def entry(**headers: Any) -> bytes:
    return json.dumps([message("1", headers=headers)._raw, "x", "a"]).encode()


# The entry's headers, the tag and lease of the message, and its values when it comes again.
@pytest.mark.parametrize(
    ("headers", "tag", "lease", "deaths", "died_s"),
    [
        ({}, "1", b"160.5", 1, 100.5),
        ({DEATHS: 2, DIED_S: 50}, "1", b"160.5", 3, 50),
        ({DEATHS: 2, DIED_S: 50.5}, "1", b"160.5", 3, 50.5),
        ({DEATHS: 2, DIED_S: 101}, "1", b"160.5", 3, 100.5),
        ({DEATHS: 2, DIED_S: 0}, "1", b"160.5", 3, 100.5),
        ({DEATHS: 2, DIED_S: -5}, "1", b"160.5", 3, 100.5),
        ({DEATHS: "2", DIED_S: "1"}, "1", b"160.5", 1, 100.5),  # from any producer
        ({DIED_S: True}, "1", b"160.12345", 1, 100.123),
        # It was waiting for its instant.
        ({"eta": "1970-01-01T00:01:41+00:00"}, "1", b"160.5", None, None),
        ({"eta": "1970-01-01T00:01:40"}, "1", b"160.5", 1, 100.5),
        ({"eta": "never"}, "1", b"160.5", 1, 100.5),
        ({}, "1", b"0", None, None),  # returned by its worker
        ({DEATHS: 2}, "1@0", b"160.5", 2, None),  # in a line, so no worker had it
    ],
)
def test_a_message_of_a_dead_worker_is_redelivered_with_its_count_of_deaths(
    broker: Broker,
    qos: TransportQoS,
    caplog: pytest.LogCaptureFixture,
    *,
    headers: dict[str, Any],
    tag: str,
    lease: bytes,
    deaths: int | None,
    died_s: float | None,
) -> None:
    broker.execute_command.side_effect = [
        [b"170.25", 3, tag.encode(), entry(**headers), lease],
        1,
        [b"170.5", 3],
    ]
    with caplog.at_level("INFO"):
        qos.recover()
    read, [*back, text, count, first, second], again = broker.sent
    keys = ["p.unacked.pulse", "p.unacked.leases", "p.unacked"]
    assert [read, again] == [
        ["EVAL", EXPIRED, 3, *keys, 61.0, 50, 15.0, is_first] for is_first in (1, 0)
    ]
    assert back == ["EVAL", GIVE_BACK, 6, *BACK_KEYS, "p.a:0", "p.b:0", "170.25", tag]
    assert (count, first, second) == (2, 5, 6)
    payload = json.loads(text)
    stored_headers = payload["headers"]
    assert stored_headers.pop("redelivered") is True
    death_headers = {DEATHS: deaths, DIED_S: headers.get(DIED_S) if deaths is None else died_s}
    assert stored_headers == headers | {
        name: value for name, value in death_headers.items() if value is not None
    }
    assert payload["properties"]["delivery_info"]["redelivered"] is True
    assert broker.keeper.workers == 3
    assert caplog.messages == [
        "redelivering 1 messages of a connection that was lost"
        if lease == b"0" or tag == "1@0"
        else "redelivering 1 messages held by dead workers"
    ]


def test_messages_of_dead_workers_are_looked_for_once_in_a_while_until_none_is_left(
    broker: Broker, qos: TransportQoS, caplog: pytest.LogCaptureFixture
) -> None:
    dead, released = [b"1", entry(), b"160"], [b"2", entry(), b"0"]
    broker.execute_command.side_effect = [
        [b"170", 2, *dead, *released, *dead],
        3,
        [b"170", 2, *dead],
        0,  # another worker was faster
    ]
    with caplog.at_level("INFO"):
        qos.recover()
    assert len(broker.sent) == 4
    assert caplog.messages == [
        "redelivering 3 messages held by dead workers",
        "redelivering 1 messages of a connection that was lost",
    ]
    broker.execute_command.side_effect = lambda *_: [b"170", 2]
    broker.now_s += 7.49
    qos.recover()
    assert broker.sent == []
    broker.now_s += 0.02
    qos.recover()
    assert len(broker.sent) == 1
    qos.recover_at_s = 0
    broker.keep_leases.return_value = None  # there are no leases
    qos.recover()
    assert broker.sent == []


@pytest.mark.parametrize("text", [b"no JSON", b"[1, 2]", b"5", b"null"])
def test_an_entry_that_is_not_a_message_is_put_aside(
    broker: Broker, qos: TransportQoS, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    broker.execute_command.side_effect = [[b"170", 1, b"1", text, b"160"], 1, [b"170", 1]]
    qos.recover()
    assert broker.sent[1] == ["EVAL", GIVE_BACK, 4, *BACK_KEYS, "170", "1", text, 1, 4]
    assert caplog.messages[0] == (
        "moved an entry of unacked that is not a message to unacked.unreadable"
    )
    assert text.decode() not in caplog.text or text == b"5"
