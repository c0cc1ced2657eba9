"""What stands behind a job in its chain ends with it."""

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
def test_what_is_no_chain_has_nothing_behind(parts: Any) -> None:
    assert ids(parts) == set()


def test_the_parts_of_any_depth_are_found_and_no_argument_of_the_users() -> None:
    def one(name: str, kind: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"options": {"task_id": name}, "subtask_type": kind, "kwargs": kwargs}

    members = [one("m1"), one("m2", "chain", tasks=[one("m3"), {"options": {}}])]
    found = ids(
        [
            one("last", tasks=[one("an argument")], body=one("another")),
            one("group", "group", tasks=members),
            one("c", "chord", header=one("h", "group", tasks=[one("h1")]), body=one("b")),
        ]
    )
    assert found == {"last", "group", "m1", "m2", "m3", "c", "h", "h1", "b"}


def test_what_a_chord_counts_is_told_apart() -> None:
    [counted] = jobs_behind([{"options": {"task_id": "a", "chord": {"task": "b"}}}])
    [other] = jobs_behind([{"options": {"task_id": "a"}}])
    assert is_of_chord(counted)
    assert not is_of_chord(other)


def test_a_chord_learns_of_a_part_whose_chain_was_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("shop", set_as_current=False)
    backend, told, stored = RedisBackend(app=app, url="redis://"), list[Any](), list[Any]()
    monkeypatch.setattr(backend, "get_state", lambda _: states.PENDING)
    monkeypatch.setattr(
        backend, "on_chord_part_return", lambda part, state, _: told.append((part.id, state))
    )
    monkeypatch.setattr(
        backend, "store_result", lambda job, _, state, **__: stored.append((job, state))
    )
    last = {"task": "x", "options": {"task_id": "last", "chord": {"task": "y"}}}
    backend.mark_as_revoked("first", "revoked", request=Context(chain=[last]))
    assert told == [("last", states.REVOKED)]
    assert stored == [("first", states.REVOKED), ("last", states.REVOKED)]
