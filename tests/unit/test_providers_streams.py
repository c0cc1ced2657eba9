"""How an answer is assembled from its streamed pieces."""

import json
from typing import Any

import pytest

from worker.providers.groq.stream import AssembledAnswer, EventDecoder


class RecordingListener:
    """Keeps the events that it receives."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def begin(self) -> None:
        self.events.append("begin")

    def piece(self, *, text: str = "", reasoning: str = "", tool_calls: Any = ()) -> None:
        self.events.append((text, reasoning, list(tool_calls)))


def chunk(reason: str | None = None, /, *, usage: Any = None, **delta: Any) -> bytes:
    body = {"id": "c1", "model": "m", "usage": usage}
    return json.dumps(body | {"choices": [{"delta": delta, "finish_reason": reason}]}).encode()


def assembled(*events: bytes) -> tuple[AssembledAnswer, list[Any]]:
    listener = RecordingListener()
    answer = AssembledAnswer(listener)
    for event in events:
        answer.take(event)
    return answer, listener.events


@pytest.mark.parametrize(
    ("parts", "events"),
    [
        ([b"data: a\n\n"], [b"a"]),
        ([b"data:a\n\ndata:  b\n\n"], [b"a", b" b"]),  # one blank belongs to the field
        ([b"da", b"ta: a", b"b\n", b"\n"], [b"ab"]),
        ([b"data: a\r\n\r\n"], [b"a"]),
        ([b"data: a\ndata: b\n\n"], [b"a\nb"]),
        ([b": comment\nevent: x\n\n"], []),
        ([b"\n\n\ndata: a\n\n\n"], [b"a"]),
        ([b"data: a\n"], []),
        ([b"data\ndata: a\n\n"], [b"\na"]),  # a field without a value
        ([b"data: a\rdata: b\r\r"], [b"a\nb"]),
        ([b"data: a\r", b"\ndata: b\r\n\r", b"\n"], [b"a\nb"]),
        ([b"data: a\r", b"", b"\ndata: b\n\n"], [b"a\nb"]),
        ([b"data: a\r", b"\r", b"\n\ndata: b\n\n"], [b"a", b"b"]),
        ([b"data: a\r\n", b"\n", b"data: b\n", b"\n"], [b"a", b"b"]),
        ([b"\xef\xbb\xbfdata: a\n\n"], [b"a"]),
        # A byte order mark is ignored only at the very beginning.
        ([b"\n\xef\xbb\xbfdata: a\n\n"], []),
    ],
)
def test_events_are_cut_out_of_the_bytes_wherever_those_break(
    parts: list[bytes], events: list[bytes]
) -> None:
    decoder = EventDecoder()
    assert [event for part in parts for event in decoder.feed(part)] == events


def test_an_answer_is_assembled_and_its_listener_gets_each_piece() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    call = {"index": 0, "id": "k", "type": "function", "function": {"name": "f", "arguments": "{"}}
    more = {"index": 0, "function": {"arguments": "}"}}
    answer, events = assembled(
        chunk(role="assistant", content=""),
        chunk(content="Hel", reasoning="Why"),
        chunk(content="lo", tool_calls=[call, "odd"]),
        chunk("tool_calls", tool_calls=[more], annotations=[{"index": 1, "a": 1}]),
        json.dumps({"choices": [], "x_groq": {"id": "req_1", "usage": usage}}).encode(),
        b" [DONE] ",
    )
    assert events == [
        "begin",
        ("Hel", "Why", []),
        ("lo", "", [call]),
        ("", "", [more]),
    ]
    assert (answer.done, answer.complete, answer.broken, answer.has_ended) == (
        True, True, False, True
    )  # fmt: skip
    assert answer.finish_reason == "tool_calls"
    assert answer.usage == usage
    assert answer.later_fields == {"annotations": [{"index": 1, "a": 1}]}
    value = answer.value({})
    assert value is not None
    assert (value["text"], value["reasoning"], value["finish_reason"]) == (
        "Hello", "Why", "tool_calls"
    )  # fmt: skip
    function = {"name": "f", "arguments": "{}"}
    assert value["tool_calls"] == [{"type": "function", "id": "k", "function": function}]
    assert (value["model"], value["usage"], value["request_id"]) == ("m", usage, "req_1")


def test_tool_calls_without_an_index_are_each_their_own() -> None:
    calls = [{"id": "a", "function": {"name": "f"}}, {"id": "b", "index": "odd"}]
    answer, _ = assembled(chunk(tool_calls=calls[:1]), chunk("stop", tool_calls=calls[1:]))
    value = answer.value({})
    assert value is not None
    assert [(tool_call["id"], tool_call["function"]) for tool_call in value["tool_calls"]] == [
        ("a", {"name": "f", "arguments": ""}),
        ("b", {"name": "", "arguments": ""}),
    ]
    later, _ = assembled(
        chunk(tool_calls=[{"index": 1, "id": "b"}, {"index": 0, "id": "a"}]),
        chunk("stop", tool_calls=[{"index": 0, "type": "custom", "function": {"name": "g"}}]),
    )
    value = later.value({})
    assert value is not None
    assert [(tool_call["id"], tool_call["type"]) for tool_call in value["tool_calls"]] == [
        ("a", "custom"), ("b", "function")
    ]  # fmt: skip


def test_pieces_of_a_field_are_joined_and_entries_of_one_index_merged() -> None:
    answer, _ = assembled(
        chunk(
            executed_tools=[{"index": 0, "name": "a", "output": None}], note="x", deep={"a": "1"}
        ),
        chunk(
            executed_tools=[{"index": 0, "output": "o", "name": None}], note="y", deep={"a": "2"}
        ),
        chunk("stop", executed_tools=[{"index": 1}, {"index": True}], note=None, deep={"b": 3}),
    )
    assert answer.later_fields == {
        "executed_tools": [
            {"index": 0, "name": "a", "output": "o"}, {"index": 1}, {"index": True}
        ],
        "note": "xy",
        "deep": {"a": "12", "b": 3},
    }  # fmt: skip


KINDS: list[Any] = ["x", [1], {"a": 1}, 6]


@pytest.mark.parametrize(
    ("before", "after"),
    [(earlier, later) for earlier in KINDS for later in KINDS if earlier is not later],
)
def test_a_field_that_changes_its_type_keeps_its_last_value(before: Any, after: Any) -> None:
    changed, _ = assembled(chunk(note=before), chunk(note=after))
    assert changed.later_fields == {"note": after}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "x", "status_code": 429}, 429),
        ({"message": "x", "status": 400}, 400),
        ({"message": "x", "status_code": 599}, 599),
        ({"message": "x", "status_code": 600}, 500),
        ({"message": "x", "status_code": 399}, 500),
        ({"message": "x", "status_code": "429"}, 500),
        ({"message": "x", "code": "tool_use_failed"}, 400),
        ({"message": "x", "code": "json_validate_failed"}, 400),
        ("in words", 500),
    ],
)
def test_an_error_in_the_stream_has_the_status_that_it_would_have_had(
    error: Any, status: int
) -> None:
    answer, events = assembled(chunk(content="a"), json.dumps({"error": error}).encode())
    assert (answer.broken, answer.complete, answer.has_ended) == (True, False, True)
    assert answer.value({}) is None
    judged = answer.answer(200, {"a": "b"})
    assert (judged.status, judged.headers) == (status, {"a": "b"})
    assert not judged.is_page
    assert judged.body["error"]["message"] == ("in words" if isinstance(error, str) else "x")
    assert events == ["begin", ("a", "", [])]


@pytest.mark.parametrize("event", [b"no JSON", b"[1]", b"7", b"[" * 100_000])
def test_an_event_that_is_not_an_object_makes_an_answer_unreadable(event: bytes) -> None:
    answer, events = assembled(event)
    assert (answer.unreadable, answer.broken, events) == (True, True, [])


def test_an_answer_that_groq_stops_says_why_and_one_that_goes_on_has_not_ended() -> None:
    stopped, _ = assembled(
        chunk(content="a"),
        json.dumps({"x_groq": {"error": "over capacity"}, "choices": "odd"}).encode(),
    )
    assert (stopped.stopped, stopped.broken) == ("over capacity", True)
    open_, _ = assembled(chunk(content="a"))
    assert (open_.has_ended, open_.done, open_.unreadable, open_.error) == (
        False, False, False, None
    )  # fmt: skip
    assert (open_.finish_reason, open_.usage, open_.value({})) == (None, {}, None)
    assert open_.answer(200, {}).status == 200


def test_the_listener_gets_an_answer_that_came_whole_in_one_piece() -> None:
    listener = RecordingListener()
    calls = [{"id": "a"}, {"id": "b"}]
    AssembledAnswer(listener).whole({"text": "hi", "reasoning": "why", "tool_calls": calls})
    numbered = [{"index": 0, "id": "a"}, {"index": 1, "id": "b"}]
    assert listener.events == ["begin", ("hi", "why", numbered)]
    silent = RecordingListener()
    AssembledAnswer(silent).whole({"text": "", "reasoning": "", "tool_calls": None})
    assert silent.events == ["begin"]
