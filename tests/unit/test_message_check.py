"""The format that a message must have to be run, which Celery does not check."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from worker.hooks.message_check import problem_with

KNOWN = {"tasks.ai.complete"}
HEADERS: dict[str, Any] = {
    "task": "tasks.ai.complete",
    "id": "job-1",
    "timelimit": [None, None],
    "retries": 0,
}
BODY: list[Any] = [[], {"prompt": "x"}, {"callbacks": None, "chain": None, "chord": None}]
JOB = {"task": "tasks.ai.complete", "args": [], "kwargs": {}}


class Unreadable:
    headers = HEADERS

    @property
    def payload(self) -> Any:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text")


def defect(headers: Any, body: Any = None) -> str:
    return problem_with(
        SimpleNamespace(headers=headers, payload=BODY if body is None else body), known=KNOWN
    )


# Valid headers that might look invalid.
@pytest.mark.parametrize(
    "headers",
    [
        HEADERS,  # the fewest headers
        HEADERS | {"task": "os.system", "eta": [7]},  # Celery handles unknown tasks itself
        HEADERS | {"timelimit": None, "retries": None},  # as other languages write it
        HEADERS | {"timelimit": [300, 270.5]},  # hard and soft
        HEADERS | {"eta": "2026-11-24T00:00:00.123456+00:00", "expires": "2026-11-24T01:00:00Z"},
        HEADERS | {"root_id": "a", "parent_id": None, "group": "g", "shadow": "another name"},
        HEADERS | {"argsrepr": [7], "origin": {}, "x": object()},  # no program reads these
    ],
)
def test_a_message_that_can_be_run_has_no_defect(headers: dict[str, Any]) -> None:
    assert defect(headers) == ""


# Headers, and the message about them.
@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        (None, "its headers are not an object"),
        ([HEADERS], "its headers are not an object"),
        (HEADERS | {"task": ["a"]}, "its headers task and id must be short texts"),
        (
            HEADERS | {"id": None},
            "its headers task and id must be short texts",
        ),  # no caller could get its result
        (HEADERS | {"id": ""}, "its headers task and id must be short texts"),
        (
            HEADERS | {"id": "a\nb"},
            "its headers task and id must be short texts",
        ),  # would add a line to the log
        (HEADERS | {"id": "x" * 1_001}, "its headers task and id must be short texts"),
        (
            HEADERS | {"eta": "tomorrow"},
            "its header eta is malformed",
        ),  # a text that an error would quote
        (HEADERS | {"eta": "1" * 1_001}, "its header eta is malformed"),
        (HEADERS | {"expires": 60}, "its header expires is malformed"),
        (HEADERS | {"retries": -1}, "its header retries is malformed"),
        # A boolean is not a number.
        (HEADERS | {"retries": True}, "its header retries is malformed"),
        (HEADERS | {"retries": 10**7}, "its header retries is malformed"),
        (HEADERS | {"timelimit": 5}, "its header timelimit is malformed"),
        (HEADERS | {"timelimit": [5]}, "its header timelimit is malformed"),
        (
            HEADERS | {"timelimit": [0, None]},
            "its header timelimit is malformed",
        ),  # it ends before it begins
        (HEADERS | {"timelimit": [float("nan"), None]}, "its header timelimit is malformed"),
        (HEADERS | {"timelimit": [None, float("inf")]}, "its header timelimit is malformed"),
        (HEADERS | {"shadow": ["a"]}, "its header shadow is malformed"),
        (HEADERS | {"group": 7}, "its header group is malformed"),
    ],
)
def test_a_header_of_the_wrong_form_is_named_and_not_quoted(headers: Any, sentence: str) -> None:
    assert defect(headers) == sentence


# Bodies, and the message about each; an empty message means that the body is valid.
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([[], {}, None], ""),  # without options
        (
            [[], {}, {"callbacks": [JOB], "errbacks": [JOB], "chain": [JOB], "chord": JOB}],
            "",
        ),  # with all options
        ({}, "its body is not a list of arguments, keyword arguments and options"),
        ([[], {}], "its body is not a list of arguments, keyword arguments and options"),
        (["a", {}, {}], "its arguments must be a list, its keyword arguments an object"),
        ([[], None, {}], "its arguments must be a list, its keyword arguments an object"),
        ([[], {}, [1]], "its options must be an object"),
        ([[], {}, {"callbacks": ["a"]}], "its callbacks, chain or chord are malformed"),
        (
            [[], {}, {"errbacks": JOB}],
            "its callbacks, chain or chord are malformed",
        ),  # one signature that is not in a list
        ([[], {}, {"chain": 3}], "its callbacks, chain or chord are malformed"),
        ([[], {}, {"chord": {"task": 7}}], "its callbacks, chain or chord are malformed"),
    ],
)
def test_a_body_of_the_wrong_form_is_named(body: Any, sentence: str) -> None:
    assert defect(HEADERS, body) == sentence


def test_a_message_that_cannot_be_decoded_is_left_to_celery() -> None:
    assert problem_with(Unreadable(), known=KNOWN) == ""


# Bodies of the former protocol, which contain the headers.
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"task": "tasks.ai.complete", "id": "job-1", "args": [], "kwargs": {}}, ""),
        ({"task": "tasks.ai.complete", "id": 7}, "its headers task and id must be short texts"),
        (
            {"task": "tasks.ai.complete", "id": "job-1", "eta": "soon"},
            "its header eta is malformed",
        ),
        ({"version": 3}, ""),  # of an unknown protocol, which Celery reports itself
        (7, ""),
    ],
)
def test_a_message_of_protocol_1_is_checked_in_the_same_way(body: Any, sentence: str) -> None:
    assert defect({}, body) == sentence


def test_a_message_of_celery_itself_has_no_defect() -> None:
    app = Celery("producer", broker="memory://", set_as_current=False)
    options: dict[str, Any] = {
        "time_limit": 30,
        "soft_time_limit": 20.5,
        "shadow": "s",
        "root_id": "r",
        "parent_id": "p",
    }
    made = app.amqp.as_task_v2(
        "job-1", "tasks.ai.complete", kwargs={"prompt": "x"}, countdown=5, expires=60, **options
    )
    body = [list(made.body[0]), made.body[1], made.body[2]]
    assert defect(made.headers, body) == ""
    app.close()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    headers=st.dictionaries(
        st.sampled_from([*HEADERS, "eta", "expires", "shadow", "group"]), values
    )
    | values,
    body=values,
)
def test_any_message_is_judged_without_an_error(headers: Any, body: Any) -> None:
    assert isinstance(defect(headers, body), str)
