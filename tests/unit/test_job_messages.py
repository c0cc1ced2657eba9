"""What a message states about its job: its priority, the time of enqueueing, its former list."""

from typing import Any

import pytest

from worker.jobs.message import enqueued_ms_of, is_bulk, list_of


@pytest.mark.parametrize(
    ("delivery", "bulk"),
    [
        ({"priority": 0}, False),
        ({"priority": 5}, False),
        ({"priority": 6}, True),
        ({"priority": 9}, True),
        ({"priority": "9"}, False),
        ({"priority": None}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_job_gives_way_by_the_priority_of_its_message(delivery: Any, *, bulk: bool) -> None:
    assert is_bulk(delivery) is bulk


@pytest.mark.parametrize(
    ("enqueued_ms", "at_ms"),
    [
        (1, 1),
        (2**53, 2**53),
        (2**53 + 1, 0),
        (0, 0),
        (-1, 0),
        (True, 0),
        (1.5, 0),
        ("1", 0),
        (None, 0),
    ],
)
def test_the_time_of_enqueueing_is_read_or_is_zero(enqueued_ms: Any, at_ms: int) -> None:
    assert enqueued_ms_of({"enqueued_ms": enqueued_ms}) == at_ms
    assert enqueued_ms_of(enqueued_ms) == 0


@pytest.mark.parametrize(
    ("delivery", "name"),
    [
        ({"routing_key": "ai", "priority": 0}, "ai"),
        ({"routing_key": "ai.deferred", "priority": 0}, "ai"),  # the list in which it was before
        ({"routing_key": "ai", "priority": 6}, "ai\x06\x166"),
        ({"routing_key": "ai", "priority": None}, "ai"),
        ({"routing_key": None}, ""),
        (None, ""),
    ],
)
def test_a_job_stood_in_the_list_of_its_priority(delivery: Any, name: str) -> None:
    assert list_of(delivery) == name
