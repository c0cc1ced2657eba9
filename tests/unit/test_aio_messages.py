"""Messages as the transport reads them, and requests as the tracer sees them.

Both equal those of Celery and kombu.
"""

import json
import operator
from typing import Any

import pytest
from celery.app.task import Context
from kombu import Connection
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.transport import virtual

from worker.aio import fast_json
from worker.aio.tracing import JobContext
from worker.aio.transport import messages
from worker.aio.transport.messages import UNREADABLE, Message, decode, share_values

JSON = "application/json"


@pytest.fixture
def channel() -> Any:
    with Connection("memory://") as connection:
        yield connection.channel()


def _payload(
    body: Any, *, encoding: str | None = "base64", headers: Any = None, content: str = JSON
) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "delivery_tag": "t",
        "delivery_info": {"exchange": "", "routing_key": "q"},
    }
    if encoding:
        properties["body_encoding"] = encoding
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": content,
        "headers": {"id": "1", "task": "a"} if headers is None else headers,
        "properties": properties,
    }


@pytest.mark.parametrize(
    "payload",
    [
        _payload("W1tdLCB7fSwge31d"),
        # a body that is not encoded
        _payload('[[], {"a": "\u00e9"}, {}]', encoding=None),
        # a compressed body
        _payload("eJyLjgUAARUAuQ==", headers={"compression": "application/x-gzip"}),
        # without a body, and with invalid headers
        _payload(None),
        _payload("e30=", headers=[]),
    ],
)
def test_a_message_is_kombus_and_goes_back_as_it_came(
    channel: Any, payload: dict[str, Any]
) -> None:
    before = json.dumps(payload, sort_keys=True)
    message, stock = (
        Message(json.loads(before), channel=channel),
        virtual.Message(json.loads(before), channel=channel),
    )
    for name in (
        "body",
        "headers",
        "properties",
        "delivery_info",
        "delivery_tag",
        "content_type",
        "content_encoding",
    ):
        assert getattr(message, name) == getattr(stock, name), name
    assert bool(message.errors) == bool(stock.errors)
    assert json.dumps(message._raw, sort_keys=True) == before


def test_a_body_is_decoded_as_by_kombu_and_refused_if_kombu_refuses_it(channel: Any) -> None:
    fast_json.install()
    message = Message(_payload("W1tdLCB7fSwge31d"), channel=channel)
    with pytest.raises(ContentDisallowed):
        Message(
            _payload("gAQu", content="application/x-python-serialize"), channel=channel
        ).decode()
    message.accept = {JSON}
    assert message.payload == [[], {}, {}]
    text = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    payloads = []
    for _ in range(2):
        usual = Message(_payload(text, encoding=None), channel=channel)
        usual.accept = {JSON}
        assert usual.payload == json.loads(text)
        payloads.append(usual.payload)
    assert payloads[0][2] is payloads[1][2], (
        "the objects may be shared because nothing changes them"
    )
    broken = Message(_payload("W10x"), channel=channel)
    broken.accept = {JSON}
    with pytest.raises(DecodeError):
        broken.decode()


def test_texts_are_decoded_together_and_an_unreadable_one_harms_no_other() -> None:
    texts = [b'{"n": %d}' % number for number in range(40)]
    assert decode(texts) == [{"n": number} for number in range(40)]
    texts[7], texts[20] = b"[1, 2", b'{"a": {"__type__": "uuid", "__value__": "not one"}}'
    decoded = decode(texts)
    assert decoded[7] is UNREADABLE
    assert decoded[20] is UNREADABLE
    assert [message["n"] for index, message in enumerate(decoded) if index not in {7, 20}] == [
        number for number in range(40) if number not in {7, 20}
    ]
    assert decode([b"1, 2", b"3"]) == [UNREADABLE, 3]  # two values in one text are invalid


def test_a_reply_names_for_each_message_its_list_its_tag_and_its_text() -> None:
    answer = [3, b"1 2 0 3 1 1", b"aabbbc", [b"x", b"y", b"z"], 7]
    taken = [("r", "aa", b"x"), ("q", "bbb", b"y"), ("r", "c", b"z")]
    assert messages.read_batch(answer, ["q", "r"]) == (3, taken, 7)
    assert messages.read_batch([0, b"", b"", [], -1], ["q"]) == (0, [], -1)


def test_a_value_that_a_message_has_several_times_is_kept_once() -> None:
    message = json.loads(
        '{"headers": {"id": "12 34", "root_id": "12 34"}, "properties": {"correlation_id": "12 '
        '34"}}'
    )
    share_values(message)
    job = message["headers"]["id"]
    assert message["headers"]["root_id"] is job
    assert message["properties"]["correlation_id"] is job
    share_values({"headers": None, "properties": {}})


def test_values_that_most_messages_share_are_one_object() -> None:
    def read() -> dict[str, Any]:
        message: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "content-type": "a type",
                    "content-encoding": "an encoding",
                    "headers": {"id": "1", "lang": "a lang", "task": "a task", "origin": "a host"}
                    | {"argsrepr": "()", "kwargsrepr": "{}", "timelimit": [None, None]},
                    "properties": {"reply_to": "a queue", "body_encoding": "a base", "n": 5}
                    | {"delivery_info": {"exchange": "an exchange", "routing_key": "a key"}},
                }
            )
        )
        before = json.dumps(message)
        share_values(message)
        assert json.dumps(message) == before
        return message

    def values(message: Any) -> list[Any]:
        pairs = []
        for name, value in message.items():
            pairs += values(value) if isinstance(value, dict) else [(name, value)]
        return pairs

    own = {"id", "n"}
    for (name, value), (_, same_value) in zip(values(read()), values(read()), strict=True):
        assert (value is same_value) or name in own, name


@pytest.mark.parametrize("odd", [5, None, ["x"], {"y": 1}])
def test_a_value_that_should_be_a_text_may_be_of_any_kind(odd: Any) -> None:
    message = {
        "content-type": odd,
        "headers": {"id": "1", "task": odd},
        "properties": {"reply_to": odd},
    }
    before = json.dumps(message)
    share_values(message)
    assert json.dumps(message) == before


@pytest.mark.parametrize(
    "request_dict",
    [
        {"id": "1", "timelimit": [5, 3], "retries": 2, "deaths": 1, "own": "x"},
        {"id": "1", "timelimit": None, "ignore_result": True},
        {"id": "1", "headers": {"own": "y"}},
    ],
)
def test_a_jobs_context_is_celerys(request_dict: dict[str, Any]) -> None:
    more: dict[str, Any] = {"args": [1], "kwargs": {}, "called_directly": False}
    assert vars(JobContext(dict(request_dict), **more)) == vars(Context(dict(request_dict), **more))
    assert vars(JobContext(id="2")) == vars(Context(id="2"))


def test_a_message_that_is_not_celerys_gains_no_header() -> None:
    message = _payload("e30=", headers={"kind": "foreign"})
    before = json.dumps(message)
    share_values(message)
    assert json.dumps(message) == before


def test_messages_that_come_one_by_one_share_the_names_of_their_headers() -> None:
    text = b'{"headers": {"id": "%d", "a name": null}, "properties": {"another name": %d}}'
    first, second = (decode([text % (number, number)])[0] for number in (1, 2))
    assert second == {"headers": {"id": "2", "a name": None}, "properties": {"another name": 2}}
    for part in ("headers", "properties"):
        assert all(map(operator.is_, first[part], second[part])), part
    assert decode([b'{"headers": 1}', b"[]"]) == [{"headers": 1}, []]
    for _ in range(2):
        assert decode([b'{"headers": [1]}']) == [{"headers": [1]}]


def test_no_more_names_are_kept_than_messages_usually_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_shapes", shapes := dict[Any, Any]())
    for number in range(300):
        text = b'{"headers": {"name %d": 1}}' % number
        assert decode([text]) == [{"headers": {f"name {number}": 1}}]
    assert len(shapes) == messages._SHAPES <= 256
