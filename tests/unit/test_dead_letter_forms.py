"""The forms of a dead letter: for operators, in Redis, and which ones a filter selects."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from worker.deadletters.capture import capture_message, queue_of
from worker.deadletters.dead_letter import (
    UNREADABLE,
    DeadLetter,
    Message,
    one_line,
    reason_line,
)
from worker.deadletters.recorder import NOT_JSON, TOO_LARGE, _fitted, is_recorded, weight
from worker.deadletters.store import Filter

PROMPT = "canary-2214 of a prompt"
LETTER = DeadLetter(
    id="job-1",
    task="tasks.ai.complete",
    queue="ai",
    service="groq",
    kind="failed",
    reason="RequestRejected: no such Model",
    at_ms=7,
    since_ms=5,
    calls=2,
    attempts=(
        {"at_ms": 6, "key": "GROQ_API_KEY", "code": "model_not_found"},
        {"at_ms": 6, "key": "", "code": ""},
    ),
    size=30,
    worker="w@host",
    delivery="tag-1",
)


def test_redis_keeps_a_dead_letter_as_it_was_and_operators_see_it_without_its_delivery() -> None:
    head = LETTER.head()
    label, _, text = head.partition("\n")
    assert label == LETTER.label == "groq|failed"
    stored = json.loads(text)
    assert not {"id", "at_ms", "size"} & stored.keys()
    assert ", " not in text
    assert DeadLetter.of("job-1", 7, head, 30) == LETTER
    seen = LETTER.as_json()
    assert "delivery" not in seen
    assert (seen["id"], seen["at_ms"], seen["size"]) == ("job-1", 7, 30)
    assert seen["attempts"] == [*LETTER.attempts]
    assert (seen["in_doubt"], seen["replayable"]) == (False, True)
    bare = DeadLetter("x", "t", "q", "other", "failed", "no").head()
    assert json.loads(bare.partition("\n")[2]) == {
        "task": "t", "queue": "q", "service": "other", "kind": "failed", "reason": "no",
        "since_ms": 0, "faults": 0, "deferrals": 0, "calls": 0, "attempts": [], "doubt_ms": 0,
        "worker": "", "note": "", "delivery": "",
    }  # fmt: skip
    strange = DeadLetter.of("x", 1, 'groq|failed\n{"task":"t","of_later_versions":1}', 0)
    assert (strange.id, strange.task, strange.at_ms, strange.attempts) == ("x", "t", 1, ())


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "null"])
def test_a_text_that_another_program_wrote_is_marked_unreadable_and_kept_as_it_is(
    text: str,
) -> None:
    letter = DeadLetter.of("x", 3, f"groq|failed\n{text}", 9)
    assert letter == DeadLetter(
        "x", "", "", "other", "poison", UNREADABLE, at_ms=3, size=9, note=UNREADABLE
    )
    assert Message.of(text) == Message(raw=text)


@pytest.mark.parametrize(
    ("delivery_info", "queue"),
    [
        (None, ""),
        ({"routing_key": None}, ""),
        ({"routing_key": "ai"}, "ai"),
        ({"routing_key": "ai.deferred"}, "ai"),
        ({"routing_key": "a\nb"}, "a b"),
    ],
)
def test_a_queue_is_named_as_people_know_it(delivery_info: Any, queue: str) -> None:
    assert queue_of(delivery_info) == queue


def test_a_delivery_tag_with_a_blank_names_no_dead_letter() -> None:
    about: dict[str, Any] = {"headers": {}, "body": b"", "delivery_info": {}}
    letter, _ = capture_message(SimpleNamespace(**about, delivery_tag="a b"), reason="no job")
    assert letter.id.startswith("no-id-")
    assert " " not in letter.id


@pytest.mark.parametrize("name", ["args", "kwargs", "options"])
def test_a_message_without_all_of_its_parts_is_kept_as_it_is(name: str) -> None:
    whole = json.loads(Message([1], {"a": 2}, {"link": []}).text())
    for odd in ({**whole, name: "text"}, {**whole, name: None}):
        assert Message.of(json.dumps(odd)) == Message(raw=json.dumps(odd))
    assert Message.of(json.dumps(whole | {"raw": 7})) == Message([1], {"a": 2}, {"link": []})


# What is known of the job's message, and whether it can be sent again.
@pytest.mark.parametrize(
    ("changes", "in_doubt", "replayable"),
    [
        ({"size": 1}, False, True),
        ({"size": 0}, False, False),
        ({"size": 1, "note": "too large"}, False, False),
        ({"size": 1, "doubt_ms": 1}, True, True),
    ],
)
def test_a_dead_letter_says_whether_it_can_be_sent_again(
    changes: dict[str, Any], *, in_doubt: bool, replayable: bool
) -> None:
    letter = DeadLetter(id="x", task="t", queue="", service="", kind="", reason="", **changes)
    assert (letter.in_doubt, letter.replayable) == (in_doubt, replayable)


@pytest.mark.parametrize(
    ("selects", "is_meant"),
    [
        ({}, True),
        ({"service": "groq", "task": "tasks.ai.complete", "kind": "failed"}, True),
        ({"service": "resend"}, False),
        ({"task": "tasks.ai.other"}, False),
        ({"kind": "poisoned"}, False),
        ({"search": ""}, True),
        ({"search": "JOB-1"}, True),
        ({"search": "NO SUCH model"}, True),
        ({"search": "w@HOST"}, True),
        ({"search": "groq_api_key MODEL_NOT_FOUND"}, True),
        ({"search": "tag-1"}, False),
        ({"search": "job-1", "kind": "poisoned"}, False),
    ],
)
def test_a_filter_selects_by_what_a_person_may_know(
    selects: dict[str, Any], *, is_meant: bool
) -> None:
    assert Filter(**selects).matches(LETTER) is is_meant


def test_a_message_shows_nothing_of_its_content() -> None:
    for content in ({"args": [PROMPT]}, {"kwargs": {"prompt": PROMPT}}, {"raw": PROMPT}):
        message = Message(**content)
        assert repr(message) == "Message()"
        assert Message.of(message.text()) == message
    options = {"headers": {"x": PROMPT}}
    assert repr(Message(options=options)) == "Message()"
    assert Message().text() == '{"args":[],"kwargs":{},"options":{},"raw":null}'


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


# The message, its largest size in characters, the note that is kept, and whether its text is kept.
@pytest.mark.parametrize(
    ("message", "most", "note", "is_kept"),
    [
        (None, 1000, NOT_JSON, False),
        (Message(args=["x"]), 1000, "", True),
        (Message(args=["x" * 1000]), 1000, TOO_LARGE, False),
        (Message(args=["\N{SNOWMAN}" * 300]), 1000, TOO_LARGE, False),  # six characters each
        (Message(args=[object()]), 1000, NOT_JSON, False),
        (Message(args=["x"]), 50, "", True),
        (Message(args=["x"]), 49, TOO_LARGE, False),
        (Message(args=[1] * 100), 612, "", True),  # by its estimated size
        (Message(args=[1] * 100), 611, TOO_LARGE, False),
    ],
)
def test_a_message_is_kept_if_it_fits_and_can_be_written(
    message: Message | None, most: int, note: str, *, is_kept: bool
) -> None:
    letter, text = _fitted(LETTER, message, most)
    assert letter.note == note
    assert text == (message.text() if is_kept and message else "")
    noted, _ = _fitted(letter, None, most)
    assert noted.note == (note or NOT_JSON), "the first note stays"


def test_a_message_that_contains_itself_is_not_kept() -> None:
    letter, text = _fitted(LETTER, Message(args=CIRCLE), 1000)
    assert (letter.note, text) == (TOO_LARGE, "")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("abc", 5),
        (None, 6),
        (12345, 6),
        ([], 2),
        (["ab", ("c",)], 2 + 4 + 2 + 3),
        ({"ab": "cde"}, 2 + 4 + 5),
        ({1: {"a": []}}, 2 + 6 + 2 + 3 + 2),
    ],
)
def test_a_value_is_weighed_by_its_characters_in_json(value: Any, size: int) -> None:
    assert weight(value, most=1000) == size
    assert weight(value, value, most=1000) == 2 * size


def test_the_weighing_ends_beyond_the_most() -> None:
    assert weight(["x" * 10] * 1000, most=20) == 2 + 12 + 12
    assert weight("ab", "cd", most=3) == 4
    assert weight("ab", "cd", most=4) == 8


@pytest.mark.parametrize(
    ("task", "is_kept"),
    [("tasks.ai.complete", True), ("celery.map", False), ("tasks.admin.reset", False)],
)
def test_failures_of_the_operators_and_of_celery_are_not_recorded(
    task: str, *, is_kept: bool
) -> None:
    assert is_recorded(task) is is_kept


@pytest.mark.parametrize(
    ("text", "longest", "line"),
    [
        ("plain", 9, "plain"),
        ("  two \n\t words\x1b[0m ", 30, "two words [0m"),
        ("123456789", 9, "123456789"),
        ("1234567890", 9, "12345678…"),
        ("a\ud83d", 9, "a?"),
        (None, 9, "None"),
        (" " * 30 + "x", 9, ""),
    ],
)
def test_a_strangers_text_becomes_one_printable_line(text: Any, longest: int, line: str) -> None:
    assert one_line(text, longest=longest) == line
    assert len(reason_line("x" * 9999)) > len(one_line("x" * 9999))
