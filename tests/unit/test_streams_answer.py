"""The records of an answer: their content, their ids, and those that are written again."""

import json

import pytest

from tests.unit.unstarted_streams import fields, stream_of
from worker.streams.answer import Record, encoded


def test_an_answer_is_a_start_its_pieces_and_an_end() -> None:
    stream = stream_of()
    stream.calling()
    stream.begin()
    assert stream.take() == [Record("7-1", fields(type="start", attempt=1), clears=True)]
    assert stream.take() == []
    stream.piece(text="a", reasoning="r")
    stream.piece(text="b")
    stream.piece(tool_calls=[{"index": 0, "name": "f"}])
    delta = fields(type="delta", attempt=1, text="ab", reasoning="r")
    calls = b'[{"index":0,"name":"f"}]'
    assert stream.take() == [Record("7-2", delta | {"tool_calls": calls}, continues=True)]
    stream.piece()
    assert stream.take() == []
    stream.piece(tool_calls=[{"index": 1}])
    closed = [stream.closed]
    stream.close("end", status="done")
    assert [*closed, stream.closed] == [False, True]
    rest = fields(type="delta", attempt=1) | {"tool_calls": b'[{"index":1}]'}
    end = fields(type="end", status="done", attempt=1)
    last = [Record("7-3", rest, continues=True), Record("7-4", end, continues=True)]
    assert stream.take() == last
    assert stream.take() == []
    assert not stream.finished.is_set()
    stream.on_written()
    assert stream.finished.is_set()


def test_pieces_that_came_before_the_first_write_are_one_record() -> None:
    stream = stream_of()
    stream.begin()
    for name in "ab":
        stream.piece(text=name, reasoning=name.upper(), tool_calls=[{"id": name}])
    start, delta = stream.take()
    assert (start.fields["type"], start.clears) == (b"start", True)
    calls = b'[{"id":"a"},{"id":"b"}]'
    text = fields(type="delta", attempt=0, text="ab", reasoning="AB")
    assert delta == Record("7-2", text | {"tool_calls": calls}, continues=True)
    stream.on_lost()
    assert stream.take()[1].fields == text | {"tool_calls": calls}


def test_an_answer_that_begins_again_holds_nothing_of_the_one_that_broke_off() -> None:
    stream = stream_of()
    for name in "ab":
        stream.calling()
        stream.begin()
        stream.piece(text=name)
    start, delta = stream.take()
    assert (start.fields, delta.fields) == (
        fields(type="start", attempt=2), fields(type="delta", attempt=2, text="b")
    )  # fmt: skip
    stream.begin()
    stream.piece(text="c")
    again, delta = stream.take()
    assert (again.fields["type"], again.clears) == (b"restart", True)
    assert delta.fields["text"] == b"c"


def test_a_stream_without_an_answer_may_begin_with_its_end() -> None:
    stream = stream_of(attempts=2)
    stream.close("wait", reason="tpm")
    stream.on_written()
    assert not stream.finished.is_set(), "the last record is not written yet"
    end = fields(type="wait", reason="tpm", attempt=2)
    assert stream.take() == [Record("7-1", end, continues=False)]


def test_the_writer_is_notified_of_each_record_and_only_the_last_is_urgent() -> None:
    are_urgent: list[bool] = []
    stream = stream_of(notify=lambda _, urgent: are_urgent.append(urgent))
    stream.calling()
    assert are_urgent == []
    stream.begin()
    stream.piece(text="a")
    stream.close("end")
    assert are_urgent == [False, False, True]
    stream.give_up()
    assert stream.finished.is_set()
    stream.begin()
    stream.close("end")
    assert are_urgent == [False, False, True]
    assert stream.take() == []


def test_the_answer_of_another_job_is_repeated_whole() -> None:
    stream = stream_of()
    stream.repeat({"text": "a", "reasoning": None, "tool_calls": [{"id": "x"}, {"index": 9}]})
    start, delta = stream.take()
    assert start.fields["type"] == b"start"
    assert delta.fields.keys() == {"type", "attempt", "text", "tool_calls"}
    assert json.loads(delta.fields["tool_calls"]) == [{"index": 0, "id": "x"}, {"index": 9}]
    stream.repeat({"tool_calls": "none"})
    [begins] = stream.take()
    assert begins.fields["type"] == b"restart"


# The server's clock, the last record's id and attempt, and the claim, kind and attempt of the next.
@pytest.mark.parametrize(
    ("now_ms", "last_id", "attempt", "attempts", "record_id", "kind", "number"),
    [
        (7, "", None, 0, "7-1", b"start", 0),
        (7, "", None, 1, "7-1", b"restart", 1),
        (7, "5-9", 0, 0, "7-1", b"restart", 0),
        (7, "7-9", 2, 1, "8-1", b"restart", 2),
        (7, "9-1", 1, 2, "10-1", b"restart", 2),
    ],
)
def test_a_run_claims_the_ids_after_everything_in_the_stream(
    *,
    now_ms: int,
    last_id: str,
    attempt: int | None,
    attempts: int,
    record_id: str,
    kind: bytes,
    number: int,
) -> None:
    stream = stream_of(attempts=attempts, claims=False)
    claimed = [stream.is_claimed]
    stream.claim(now_ms, last_id, attempt)
    assert [*claimed, stream.is_claimed] == [False, True]
    stream.begin()
    assert stream.take() == [
        Record(record_id, {"type": kind} | fields(attempt=number), clears=True)
    ]


# The stream's last record, whether a new stream may be begun, and whether the end is written.
@pytest.mark.parametrize(
    ("last_id", "ended", "creates", "is_written"),
    [
        ("", False, True, True),
        ("", False, False, False),
        ("5-1", False, False, True),
        ("5-1", False, True, True),
        ("5-1", True, True, False),
    ],
)
def test_an_end_from_outside_is_written_once_and_begins_no_stream_unasked(
    last_id: str, *, ended: bool, creates: bool, is_written: bool
) -> None:
    stream = stream_of(claims=False)
    stream.close_from_outside(creates=creates, status="failed")
    stream.claim(7, last_id, 1 if last_id else None, **({"ended": True} if ended else {}))
    assert [record.fields["type"] for record in stream.take()] == [b"end"] * is_written
    assert stream.finished.is_set() is not is_written
    inside = stream_of(claims=False)
    inside.close("end")
    inside.claim(7, last_id, None, ended=ended)
    assert len(inside.take()) == 1, "a run's own end is always written"


def test_an_answer_that_may_be_lost_is_written_again_from_its_start() -> None:
    stream = stream_of()
    stream.begin()
    stream.piece(text="a")
    stream.take()
    stream.renew_at_s = 9
    stream.on_lost()
    assert stream.renew_at_s == 0
    stream.piece(text="b")
    start, delta = stream.take()
    assert (start.id, start.fields["type"], start.clears) == ("7-3", b"restart", True)
    assert delta.fields["text"] == b"ab"
    stream.close("end")
    stream.take()
    stream.on_lost()
    assert [each.fields["type"] for each in stream.take()] == [b"restart", b"delta", b"end"]
    early = stream_of()
    early.on_lost()
    assert early.take() == []
    early.begin()
    assert early.take()[0].fields["type"] == b"restart"


# A run's reports, how often it has written, and whether it claims the stream once more.
@pytest.mark.parametrize(
    ("last", "writes", "again"),
    [(None, 1, True), (None, 2, False), ("end", 1, True), ("wait", 1, False), ("end", 2, False)],
)
def test_a_run_yields_its_stream_unless_it_has_only_begun(
    last: str | None, writes: int, *, again: bool
) -> None:
    stream = stream_of()
    stream.begin()
    if writes > 1:
        stream.take()
        stream.piece(text="a")
    if last:
        stream.close(last)
    stream.take()
    stream.take()
    assert stream.on_superseded() is again
    assert stream.is_claimed is not again
    if again:
        stream.claim(9, "8-1", None)
        assert stream.take()[0] == Record("9-1", fields(type="restart", attempt=0), clears=True)
        assert stream.on_superseded() is True, "the stream was claimed again"


def test_halves_of_a_character_are_joined_or_replaced() -> None:
    assert encoded("ä\ud83d\ude00") == "ä😀".encode()
    assert encoded("a\ud83d") == "a\N{REPLACEMENT CHARACTER}".encode()
