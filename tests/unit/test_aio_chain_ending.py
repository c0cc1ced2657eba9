"""The later jobs of a chain end with a job that fails or is revoked."""

from typing import Any

import pytest
from celery import Celery, states
from celery.app.task import Context

from worker.aio.backend import RedisBackend
from worker.aio.chain_ending import is_of_chord, jobs_behind


def ids(parts: Any) -> set[str]:
    return {context.id for context in jobs_behind(parts)}


@pytest.mark.parametrize(
    "parts", [None, 5, "text", {}, [5], [{"task": "a"}], [{"options": 5}], [{"options": {}}]]
)
def test_a_value_that_is_not_a_chain_has_no_jobs_behind(parts: Any) -> None:
    assert ids(parts) == set()


def test_the_parts_of_any_depth_are_found_and_no_argument_of_the_users() -> None:
    def part(name: str, kind: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"options": {"task_id": name}, "subtask_type": kind, "kwargs": kwargs}

    members = [part("m1"), part("m2", "chain", tasks=[part("m3"), {"options": {}}])]
    ids_found = ids(
        [
            part("last", tasks=[part("an argument")], body=part("another")),
            part("group", "group", tasks=members),
            part("c", "chord", header=part("h", "group", tasks=[part("h1")]), body=part("b")),
        ]
    )
    assert ids_found == {"last", "group", "m1", "m2", "m3", "c", "h", "h1", "b"}
    assert ids(part("alone")) == ids((part("alone"),)) == {"alone"}
    assert ids([{**part("of no form", "group"), "kwargs": 5}]) == {"of no form"}
    assert ids([part("unknown", "map", tasks=[part("an item")])]) == {"unknown"}


def test_a_job_behind_is_described_as_a_result_store_needs_it() -> None:
    options = {"task_id": "a", "group_id": "g", "ignore_result": True}
    [context] = jobs_behind([{"task": "shop.x", "args": [1], "options": options}])
    described = (context.id, context.group, context.task, context.args, context.ignore_result)
    assert described == ("a", "g", "shop.x", [1], True)


def test_a_part_that_a_chord_counts_is_known_by_its_options() -> None:
    [counted] = jobs_behind([{"options": {"task_id": "a", "chord": {"task": "b"}}}])
    [other] = jobs_behind([{"options": {"task_id": "a"}}])
    assert is_of_chord(counted)
    assert not is_of_chord(other)


class Store:
    """A result store that notes what it stores and which parts it reports to chords."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = Celery("shop", set_as_current=False)
        self.backend = RedisBackend(app=app, url="redis://")
        self.chord_parts, self.stored = list[Any](), list[Any]()
        for name, value in (
            ("get_state", lambda _: states.PENDING),
            ("on_chord_part_return", self._note_chord_part),
            ("store_result", self._store),
        ):
            monkeypatch.setattr(self.backend, name, value)

    def _note_chord_part(self, part: Any, state: str, error: Any) -> None:
        self.chord_parts.append((part.id, state, str(error)))

    def _store(self, job: str, error: Any, state: str, traceback: Any, request: Any) -> None:
        of = request and (request.id or "the first's")
        self.stored.append((job, state, str(error), traceback, of))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


LAST = {"task": "x", "options": {"task_id": "last", "chord": {"task": "y"}}}


def test_a_chord_is_notified_of_a_part_whose_chain_was_revoked(store: Store) -> None:
    store.backend.mark_as_revoked("first", "expired", request=Context(chain=[LAST]))
    assert store.chord_parts == [("last", states.REVOKED, "expired")]
    assert store.stored == [
        ("first", states.REVOKED, "expired", None, "the first's"),
        ("last", states.REVOKED, "expired", None, "last"),
    ]


def test_a_chord_is_notified_even_if_nothing_is_stored(store: Store) -> None:
    request = Context(chain=[LAST])
    store.backend.mark_as_revoked("first", "expired", request=request, store_result=False)
    assert store.chord_parts == [("last", states.REVOKED, "expired")]
    store.backend.mark_as_revoked("first", "expired", store_result=False)
    assert len(store.chord_parts) == 1
    store.backend.end_chain(request, ValueError("no"), states.FAILURE, store_result=False)
    assert store.chord_parts[1:] == [("last", states.FAILURE, "no")]
    store.backend.end_chain(object(), ValueError("no"), states.FAILURE)  # it has no chain
    assert store.stored == []


@pytest.mark.parametrize(
    ("state", "is_stored"), [(states.FAILURE, True), (states.REVOKED, True), (states.RETRY, False)]
)
def test_the_jobs_behind_have_the_error_and_state_of_the_one_that_failed(
    store: Store, state: str, *, is_stored: bool
) -> None:
    store.backend._fail_chain([5, LAST], ValueError("no"), "its traceback", state=state)
    stored = [("last", state, "no", "its traceback", "last")]
    assert store.stored == (stored if is_stored else [])
    store.backend.end_chain(Context(chain=[LAST]), ValueError("no"), state)
    assert [job for job, *_ in store.stored] == ["last", "last"] * is_stored


def test_a_failure_is_that_of_the_chain_by_default(store: Store) -> None:
    store.backend._fail_chain([LAST], ValueError("no"))
    assert store.stored == [("last", states.FAILURE, "no", None, "last")]
