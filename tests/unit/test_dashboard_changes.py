"""Endpoints that change something: their calls to the pools and their responses; no server."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from config.services import SERVICES
from tests.unit.sample_keys import GROQ
from worker.dashboard import dead_letters, jobs, key_changes, keys, page
from worker.dashboard.auth import Visitor
from worker.dashboard.errors import ApiError

DONE = SimpleNamespace(as_json=lambda: {"newly": True, "left_ms": None})
KEY = {"service": "groq", "key": "k"}


@pytest.fixture
def pools() -> dict[str, Any]:
    return {
        name: SimpleNamespace(
            disable=AsyncMock(return_value=DONE),
            enable=AsyncMock(return_value=True),
            note=AsyncMock(),
            reset=AsyncMock(return_value=f"reset of {name}"),
        )
        for name in SERVICES
    }


async def post(kind: type[Any], pools: Any, *given: str, body: Any = None) -> Any:
    """Return the endpoint's response to ann; the endpoint must poll after a change."""
    handler = kind.__new__(kind)

    async def with_pools(work: Any) -> Any:
        return await work(pools)

    async def with_redis(work: Any) -> Any:
        return await work("redis")

    poller = SimpleNamespace(with_redis=with_redis, reload_keys_soon=Mock())
    handler.application = SimpleNamespace(poller=poller, capp="the app")
    handler.visitor = Visitor("ann")
    handler._body = bytearray(b"" if body is None else json.dumps(body).encode())
    handler.with_pools, handler.poll_change = with_pools, AsyncMock()
    handler.send_json = Mock()
    await handler.post(*given)
    if kind not in {jobs.Cancel, keys.Reload}:
        handler.poll_change.assert_awaited_once_with()
    [answer] = handler.send_json.call_args.args
    return answer | ({"reloads": poller.reload_keys_soon.call_count} if kind is keys.Reload else {})


@pytest.mark.parametrize(
    ("given", "reason", "for_ms"),
    [
        ({}, "by hand", None),
        ({"reason": f"leaked {GROQ}"}, "leaked gsk_abc123...", None),
        ({"for_s": 60}, "by hand", 60_000),
    ],
)
async def test_a_key_is_disabled_and_a_service_paused_with_a_reason(
    pools: dict[str, Any], given: dict[str, Any], reason: str, for_ms: int | None
) -> None:
    options = {"by": "flower ann", "reason": reason, "for_ms": for_ms}
    answer = await post(key_changes.Disable, pools, body=KEY | given)
    assert answer == {"disabled": "k", "newly": True, "left_ms": None, "by": "ann"}
    pools["groq"].disable.assert_awaited_once_with("k", **options)
    answer = await post(key_changes.Pause, pools, body={"service": "resend"} | given)
    assert answer == {"paused": "resend", "newly": True, "left_ms": None, "by": "ann"}
    pools["resend"].disable.assert_awaited_once_with(None, **options)


async def test_a_key_is_enabled_and_a_service_resumed(pools: dict[str, Any]) -> None:
    answer = await post(key_changes.Enable, pools, body=KEY)
    assert answer == {"enabled": "k", "newly": True, "by": "ann"}
    pools["groq"].enable.assert_awaited_once_with("k", by="flower ann")
    pools["resend"].enable.return_value = False
    answer = await post(key_changes.Resume, pools, body={"service": "resend"})
    assert answer == {"resumed": "resend", "newly": False, "by": "ann"}
    pools["resend"].enable.assert_awaited_once_with(None, by="flower ann")


@pytest.mark.parametrize(
    ("given", "note"),
    [({}, ""), ({"note": f"  of {GROQ} "}, "of gsk_abc123..."), ({"note": "x" * 200}, "x" * 200)],
)
async def test_a_note_is_kept_without_its_secrets(
    pools: dict[str, Any], given: dict[str, Any], note: str
) -> None:
    answer = await post(key_changes.Note, pools, body=KEY | given)
    assert answer == {"key": "k", "note": note, "by": "ann"}
    pools["groq"].note.assert_awaited_once_with("k", note, by="flower ann")


@pytest.mark.parametrize(
    ("body", "services", "key", "include"),
    [
        (None, [*SERVICES], None, False),
        ({}, [*SERVICES], None, False),
        ({"include_disabled": ["a"]}, [*SERVICES], None, ["a"]),
        ({"service": "resend"}, ["resend"], None, False),
        (KEY | {"include_disabled": True}, ["groq"], "k", True),
    ],
)
async def test_a_reset_concerns_a_key_a_service_or_everything(
    pools: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    body: Any,
    services: list[str],
    key: str | None,
    include: Any,
) -> None:
    monkeypatch.setattr(keys.resets, "as_json", lambda done: {"done": done})
    answer = await post(keys.Reset, pools, body=body)
    assert answer == {"done": {name: f"reset of {name}" for name in services}, "by": "ann"}
    for name, pool in pools.items():
        resets = [call.kwargs for call in pool.reset.await_args_list]
        about = {"by": "flower ann", "key_id": key, "include_disabled": include}
        assert resets == [about] * (name in services)


async def test_a_reload_asks_the_workers_and_is_noted(
    pools: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = AsyncMock()
    monkeypatch.setattr(keys, "ask_workers", lambda app, *, timeout_s: {"w1": (app, timeout_s > 1)})
    monkeypatch.setattr(keys, "sentence_of", lambda answer: f"it is {answer}")
    monkeypatch.setattr(keys, "note_reload", note)
    answer = await post(keys.Reload, pools)
    assert answer == {"workers": {"w1": "it is ('the app', True)"}, "by": "ann", "reloads": 1}
    [(noted, answers)] = [call.args for call in note.await_args_list]
    assert [*noted] == [*pools.values()]
    assert answers == {"w1": ("the app", True)}
    assert note.await_args is not None
    assert note.await_args.kwargs == {"by": "flower ann"}


async def test_a_job_is_cancelled_by_its_id_alone(
    pools: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = AsyncMock(return_value={"job-1": "cancelled"})
    monkeypatch.setattr(jobs, "cancel_jobs", cancel)
    monkeypatch.setattr(jobs, "Cancellations", lambda redis, *, namespace: (redis, namespace))
    monkeypatch.setattr(jobs, "get_settings", lambda: SimpleNamespace(namespace="ns"))
    answer = await post(jobs.Cancel, pools, "job-1")
    assert answer == {"job": "job-1", "outcome": "cancelled", "by": "ann"}
    cancel.assert_awaited_once_with("the app", ("redis", "ns"), ["job-1"], by="flower ann")
    for job, body in (("two words", None), ("job-1", KEY)):
        with pytest.raises(ApiError):
            await post(jobs.Cancel, pools, job, body=body)
    assert cancel.await_count == 1


# Whether logins exist, whether this user may change something, and whether Flower is read-only.
@pytest.mark.parametrize(
    ("has_login", "may_change", "read_only", "shows_buttons"),
    [
        (True, True, False, True),
        (True, False, False, False),
        (True, True, True, False),
        (False, True, False, False),
    ],
)
def test_a_page_has_buttons_for_those_who_may_press_them(
    *, has_login: bool, may_change: bool, read_only: bool, shows_buttons: bool
) -> None:
    handler: Any = page.JobPage.__new__(page.JobPage)
    handler.request = "the request"
    handler.application = SimpleNamespace(
        auth_config=SimpleNamespace(allows_people=has_login),
        options=SimpleNamespace(read_only=read_only),
        visitor=lambda _: Visitor("ann", may_change=may_change),
    )
    handler.render, handler.set_status, headers = Mock(), Mock(), dict[str, str]()
    handler.set_header = headers.__setitem__
    handler.show("job.html", job="job-1")
    handler.render.assert_called_once_with(
        "job.html",
        has_login=has_login,
        read_only=not shows_buttons,
        may_change=has_login and may_change,
        version=page.version(),
        job="job-1",
    )
    assert [call.args for call in handler.set_status.call_args_list] == [(403,)] * (not has_login)
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_the_version_of_the_static_files_is_that_of_their_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page, "STATIC", tmp_path)
    (tmp_path / "a.js").write_text("1")
    before = page.version.__wrapped__()
    assert page.version.__wrapped__() == before
    (tmp_path / "a.js").write_text("2")
    assert page.version.__wrapped__() != before
    assert len(before) == 10


async def test_up_to_five_hundred_dead_letters_are_listed_at_once() -> None:
    handler: Any = dead_letters.DeadLetterList.__new__(dead_letters.DeadLetterList)
    read = AsyncMock(return_value={})
    handler.application = SimpleNamespace(poller=SimpleNamespace(with_dead_letters=read))
    handler.send_json = Mock()
    handler.query_values = lambda: {"limit": "500"}
    await handler.get()
    handler.send_json.assert_called_once_with({})
    handler.query_values = lambda: {"limit": "501"}
    with pytest.raises(ApiError):
        await handler.get()
