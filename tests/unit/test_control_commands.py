"""The remote-control commands that cancel jobs."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import control as celery_control

from config.errors import SettingsError
from worker.hooks import control

FLAGGED = {"ok": "tasks {'here'} flagged as revoked"}
ENDED = {"ok": "terminate: here"}


@pytest.mark.parametrize(
    ("command", "answer", "signals"),
    [
        (lambda state: control.revoke(state, "here"), FLAGGED, []),
        (lambda state: control.revoke(state, ["here"], signal="SIGKILL"), FLAGGED, []),
        (lambda state: control.revoke(state, "here", terminate=True), ENDED, [signal.SIGTERM]),
        (lambda state: control.terminate(state, "SIGKILL", "here"), ENDED, [signal.SIGKILL]),
        (lambda state: control.terminate(state, None, ["here"]), ENDED, [signal.SIGTERM]),
    ],
)
def test_a_command_cancels_for_good_and_ends_a_running_job_where_it_says_so(
    monkeypatch: pytest.MonkeyPatch, command: Any, answer: dict[str, str], signals: list[int]
) -> None:
    got, cancelled, pool = list[int](), list[list[str]](), object()

    def terminate(its_pool: object, *, signal: int) -> None:
        assert its_pool is pool
        got.append(signal)

    running = {"here": SimpleNamespace(id="here", terminate=terminate)}
    monkeypatch.setattr(
        celery_control, "_find_requests_by_id", lambda ids: [running[one] for one in ids]
    )
    cancelling = SimpleNamespace(cancel=cancelled.append)
    state = SimpleNamespace(consumer=SimpleNamespace(cancelling=cancelling, pool=pool))
    assert (command(state), got, cancelled) == (answer, signals, [["here"]])


def test_a_command_for_a_job_that_does_not_run_here_cancels_it_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled = list[list[str]]()
    monkeypatch.setattr(celery_control, "_find_requests_by_id", lambda _: [])
    cancelling = SimpleNamespace(cancel=cancelled.append)
    state = SimpleNamespace(consumer=SimpleNamespace(cancelling=cancelling, pool=None))
    assert control.terminate(state, None, ["elsewhere", 5]) == {"ok": "terminate: tasks unknown"}
    assert control.revoke(state, None) == {"ok": "tasks set() flagged as revoked"}
    assert cancelled == [["elsewhere", "5"], []]


@pytest.mark.parametrize("headers", [{"team": "a", "run": "1=2"}, ["team=a", "run=1=2"]])
def test_jobs_that_bear_a_stamp_are_cancelled_for_good(
    monkeypatch: pytest.MonkeyPatch, headers: Any
) -> None:
    asked, cancelled, stamps = list[Any](), list[Any](), {"team": "a", "run": "1=2"}

    def revoke(state: Any, headers: Any, **options: Any) -> str:
        asked.append((state, headers, options))
        return "answer"

    monkeypatch.setattr(celery_control, "revoke_by_stamped_headers", revoke)
    state = SimpleNamespace(
        consumer=SimpleNamespace(cancelling=SimpleNamespace(cancel_stamped=cancelled.append))
    )
    assert control.revoke_by_stamped_headers(state, headers, terminate=True) == "answer"
    assert (asked, cancelled) == ([(state, stamps, {"terminate": True})], [stamps])


@pytest.mark.parametrize("error", [None, SettingsError("GROQ_API_KEY: is too short")])
def test_reloaded_keys_are_counted_and_the_queues_follow_them(
    monkeypatch: pytest.MonkeyPatch, error: SettingsError | None
) -> None:
    keys, called = {"groq": 3, "resend": 0}, list[Any]()

    async def reload_keys() -> dict[str, int]:
        if error is not None:
            raise error
        return keys

    def submit(work: Any) -> Any:
        def result(*, timeout: float) -> Any:
            assert timeout == 10
            return asyncio.run(work)

        return SimpleNamespace(result=result)

    runtime = SimpleNamespace(reload_keys=reload_keys)
    monkeypatch.setattr(control.Runtime, "current", lambda: runtime)
    monkeypatch.setattr(control, "lifespan", SimpleNamespace(submit=submit))
    choice = SimpleNamespace(follow=object())
    consumer = SimpleNamespace(
        controller=SimpleNamespace(queue_choice=choice),
        call_soon=lambda *what: called.append(what),
    )
    answer = control.keys_reload(SimpleNamespace(consumer=consumer))
    assert answer == ({"error": str(error)} if error else {"ok": "3 groq, 0 resend"})
    assert called == ([] if error else [(choice.follow, consumer, keys)])
