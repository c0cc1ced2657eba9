"""The format in which a job's end is stored, and which of two ends stays."""

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, states
from celery.exceptions import BackendStoreError
from kombu.exceptions import EncodeError

from worker.aio import fast_json
from worker.aio.backend import RedisBackend
from worker.aio.result_encoding import _redacted


@pytest.fixture
def backend() -> RedisBackend:
    fast_json.install()
    app = Celery("shop", backend="redis://", set_as_current=False)
    app.conf.update(result_expires=60, timezone="Europe/Berlin")
    return RedisBackend(app=app, url="redis://")


def entry(backend: Any, result: Any, state: str, traceback: Any = None, **request: Any) -> Any:
    context = SimpleNamespace(**{"children": [], "group": None, "parent_id": None} | request)
    key, value, expires_s = backend._entry("job-1", result, state, traceback, context)
    return key, json.loads(value), expires_s


def test_an_end_is_stored_in_celerys_form(backend: Any) -> None:
    key, meta, expires_s = entry(backend, {"a": 1}, states.SUCCESS, group="g", parent_id="p")
    assert (key, expires_s) == (b"celery-task-meta-job-1", 60)
    assert meta.pop("date_done").endswith(("+01:00", "+02:00"))
    assert meta == {
        "status": "SUCCESS", "result": {"a": 1}, "traceback": None, "children": [],
        "task_id": "job-1", "group_id": "g", "parent_id": "p",
    }  # fmt: skip
    waits = {"for": "key"}
    assert entry(backend, None, states.RETRY, waits=waits)[1]["waits"] == waits
    assert "waits" not in entry(backend, None, states.STARTED, waits=waits)[1]
    running = entry(backend, None, states.STARTED)[1]
    assert (running["date_done"], "group_id" in running) == (None, False)


def test_a_failure_may_be_kept_for_another_time(backend: Any) -> None:
    backend.failure_expires = 7
    assert entry(backend, {}, states.FAILURE)[2] == 7
    assert entry(backend, {}, states.SUCCESS)[2] == 60
    backend.expires = None
    assert entry(backend, {}, states.SUCCESS)[2] == 0


def test_only_the_words_of_an_error_are_redacted(backend: Any) -> None:
    backend.redact = lambda text: text.replace("canary", "…")
    failure = {"exc_type": "ValueError", "exc_message": ["a canary", 5, ("canary",)]}
    for state in (states.FAILURE, states.RETRY, states.REVOKED):
        _, meta, _ = entry(backend, failure, state, "at canary")
        assert meta["result"]["exc_message"] == ["a …", 5, ["…"]]
        assert meta["traceback"] == "at …"
    assert entry(backend, "a canary", states.SUCCESS)[1]["result"] == "a canary"
    assert _redacted(None, backend.redact) is None


# The stored end, the new state, whether an end may be replaced; whether the old one is replaced.
@pytest.mark.parametrize(
    ("stored", "state", "over_ends", "gives_way"),
    [
        ('{"status": "STARTED"}', states.RETRY, True, True),
        ('{"status": "STARTED"}', states.REVOKED, False, True),
        ('{"status": "FAILURE"}', states.REVOKED, True, True),
        ('{"status": "FAILURE"}', states.REVOKED, False, False),
        ('{"status": "FAILURE"}', states.RETRY, True, False),
        ('{"status": "SUCCESS"}', states.FAILURE, True, False),
        ("of another program", states.SUCCESS, True, True),
        ("of another program", states.SUCCESS, False, False),
        ("{}", states.SUCCESS, True, True),
        ("5", states.SUCCESS, False, False),
    ],
)
def test_which_end_gives_way_to_which(
    backend: Any, stored: str, state: str, *, over_ends: bool, gives_way: bool
) -> None:
    assert backend._is_replaceable(stored, state, over_ends=over_ends) is gives_way
    if over_ends:
        assert backend._is_replaceable(stored, state) is gives_way


def test_a_serializer_of_another_kind_is_kombus(backend: Any) -> None:
    backend.serializer = "pickle"
    assert pickle.loads(backend.encode({"a": 1})) == {"a": 1}  # noqa: S301 - ours


def test_a_result_of_a_wrong_kind_or_size_is_refused(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EncodeError):
        entry(backend, object(), states.SUCCESS)
    monkeypatch.setattr(backend, "_MAX_STR_VALUE_SIZE", 3)
    backend._check_size("123")
    backend._check_size(b"1234")
    for store in (lambda: backend._check_size("1234"), lambda: entry(backend, 1, states.SUCCESS)):
        with pytest.raises(BackendStoreError, match="value too large"):
            store()
