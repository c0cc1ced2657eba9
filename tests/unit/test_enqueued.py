"""The time of enqueueing in a job's message."""

import time
from typing import Any

import pytest
from celery.signals import before_task_publish

from tests.pages import ROOT, blocks
from worker.hooks.publishing import note_enqueued
from worker.jobs.message import enqueued_ms_of


@pytest.mark.parametrize(
    ("headers", "instant"),
    [
        ({"enqueued_ms": 1_764_432_000_000}, 1_764_432_000_000),
        ({"enqueued_ms": -1}, 0),
        ({"enqueued_ms": True}, 0),
        ({"enqueued_ms": "1764432000000"}, 0),
        ({"enqueued_ms": 2**60}, 0),
        ({}, 0),
        (None, 0),
    ],
)
def test_a_message_says_when_its_job_was_enqueued(headers: Any, instant: int) -> None:
    assert enqueued_ms_of(headers) == instant


# The arguments and headers of a message that a job sends, and whether it gets the instant.
@pytest.mark.parametrize(
    ("kwargs", "headers", "is_written"),
    [
        ({"dedupe_key": "x"}, {}, True),
        ({"dedupe_key": "x"}, {"eta": None}, True),
        ({"dedupe_key": "x"}, {"eta": "2026-11-29T11:00:00+00:00"}, False),  # it is to run later
        ({"dedupe_key": None}, {}, False),
        ({}, {}, False),
    ],
)
def test_a_job_with_a_dedupe_key_says_when_another_job_enqueued_it(
    kwargs: dict[str, Any], headers: dict[str, Any], *, is_written: bool
) -> None:
    before_ms = round(time.time() * 1000)
    note_enqueued(body=((), kwargs, {}), headers=headers)
    assert (enqueued_ms_of(headers) >= before_ms) == is_written
    note_enqueued(body=((), kwargs, {}), headers=(given := {"enqueued_ms": 7}))
    assert given == {"enqueued_ms": 7}


def test_the_handler_in_the_docs_writes_the_same_header() -> None:
    [shown] = [
        block for block in blocks(ROOT / "docs/arguments.md", "python") if "enqueued_ms" in block
    ]
    names: dict[str, Any] = {}
    exec(shown, names)  # noqa: S102 - it is our own page
    assert before_task_publish.disconnect(names["note_enqueued"])
    for kwargs, given in (({"dedupe_key": "x"}, {}), ({}, {}), ({"dedupe_key": "x"}, {"eta": "x"})):
        ours, theirs = dict(given), dict(given)
        note_enqueued(body=((), kwargs, {}), headers=ours)
        names["note_enqueued"](body=((), kwargs, {}), headers=theirs)
        assert ours.keys() == theirs.keys()
