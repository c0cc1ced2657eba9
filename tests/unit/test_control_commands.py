"""The remote-control commands that cancel jobs, reload keys and resize the pool."""

import asyncio
import resource
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import control as celery_control
from redis.exceptions import ConnectionError as LostError

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
def test_a_command_cancels_for_good_and_ends_a_running_job_if_it_says_so(
    monkeypatch: pytest.MonkeyPatch, command: Any, answer: dict[str, str], signals: list[int]
) -> None:
    sent, cancelled, pool = list[int](), list[list[str]](), object()

    def terminate(its_pool: object, *, signal: int) -> None:
        assert its_pool is pool
        sent.append(signal)

    running = {"here": SimpleNamespace(id="here", terminate=terminate)}
    monkeypatch.setattr(
        celery_control, "_find_requests_by_id", lambda ids: [running[task_id] for task_id in ids]
    )
    cancelling = SimpleNamespace(cancel=cancelled.append)
    state = SimpleNamespace(consumer=SimpleNamespace(cancelling=cancelling, pool=pool))
    assert (command(state), sent, cancelled) == (answer, signals, [["here"]])


def test_a_command_for_a_job_that_does_not_run_here_cancels_it_anyway(
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
    revokes, cancelled, stamps = list[Any](), list[Any](), {"team": "a", "run": "1=2"}

    def revoke(state: Any, headers: Any, **options: Any) -> str:
        revokes.append((state, headers, options))
        return "answer"

    monkeypatch.setattr(celery_control, "revoke_by_stamped_headers", revoke)
    state = SimpleNamespace(
        consumer=SimpleNamespace(cancelling=SimpleNamespace(cancel_stamped=cancelled.append))
    )
    assert control.revoke_by_stamped_headers(state, headers, terminate=True) == "answer"
    assert (revokes, cancelled) == ([(state, stamps, {"terminate": True})], [stamps])


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
        call_soon=lambda *function_and_arguments: called.append(function_and_arguments),
    )
    answer = control.keys_reload(SimpleNamespace(consumer=consumer))
    assert answer == ({"error": str(error)} if error else {"ok": "3 groq, 0 resend"})
    assert called == ([] if error else [(choice.follow, consumer, keys)])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TimeoutError(), "Redis has not answered for 10 s: reload the keys again once it does"),
        (
            LostError("it is gone"),
            "Redis has not answered (it is gone): reload the keys again once it ",
        ),
    ],
)
def test_a_reload_while_redis_is_down_answers_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    async def reload_keys() -> None:
        pass

    def submit(work: Any) -> Any:
        def result(**_: Any) -> None:
            work.close()
            raise error

        return SimpleNamespace(result=result)

    runtime = SimpleNamespace(reload_keys=reload_keys)
    monkeypatch.setattr(control.Runtime, "current", lambda: runtime)
    monkeypatch.setattr(control, "lifespan", SimpleNamespace(submit=submit))
    assert control.keys_reload(SimpleNamespace())["error"].startswith(sentence)


class _Pool:
    limit = 100

    def grow(self, n: int) -> None:
        self.limit += n

    def shrink(self, n: int) -> None:
        self.limit -= n


class _Scaler:
    max_concurrency, min_concurrency = 100, 10

    def update(self, most: int | None, least: int | None) -> tuple[int, int]:
        self.max_concurrency = most or self.max_concurrency
        self.min_concurrency = self.min_concurrency if least is None else least
        return self.max_concurrency, self.min_concurrency


def _worker(scaler: Any = None) -> Any:
    controller = SimpleNamespace(autoscaler=scaler)
    return SimpleNamespace(
        consumer=SimpleNamespace(
            pool=_Pool(), controller=controller, _update_prefetch_count=lambda _: None
        )
    )


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report a limit of 264 open files, which is enough for 200 jobs."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (264, 264))


def test_a_pool_grows_as_far_as_files_may_be_opened(files: None) -> None:
    state = _worker()
    assert control.pool_grow(state, 100) == {"ok": "pool will grow"}
    assert control.pool_grow(state, 1) == {
        "error": "The concurrency (201) needs about 265 open files, and this process may have 264: "
        "lower the number of jobs to 200, or raise the limit (ulimit -n 265)."
    }
    assert control.pool_shrink(state, 50) == {"ok": "pool will shrink"}
    assert state.consumer.pool.limit == 150
    control.pool_grow(state)
    assert state.consumer.pool.limit == 151
    control.pool_shrink(state)
    assert state.consumer.pool.limit == 150


@pytest.mark.parametrize("count", [0, -5, "3", 1.5, True, None])
def test_a_count_that_is_not_a_positive_whole_number_changes_nothing(
    files: None, count: Any
) -> None:
    state = _worker()
    for command in (control.pool_grow, control.pool_shrink):
        assert command(state, count) == {"error": "N must be a whole number, at least 1"}
    assert state.consumer.pool.limit == 100


def test_autoscale_moves_its_bounds_as_far_as_files_may_be_opened(files: None) -> None:
    state = _worker(_Scaler())
    assert control.autoscale(state, 200, 20) == {"ok": "autoscale now max=200 min=20"}
    for most, least, words in (
        (201, None, "The max of autoscale (201) needs about 265 open files"),
        (None, 201, "min (201) must not be above max (200)"),
        (5, None, "min (20) must not be above max (5)"),
        (-1, None, "max must be a whole number, at least 1"),
        (None, "x", "min must be a whole number, at least 0"),
    ):
        assert words in control.autoscale(state, most, least)["error"]
    assert control.autoscale(state, None, 5) == {"ok": "autoscale now max=200 min=5"}
    assert control.autoscale(state, None, 0) == {"ok": "autoscale now max=200 min=0"}


def test_autoscale_that_is_off_stays_refused_in_celerys_words(files: None) -> None:
    with pytest.raises(ValueError, match="Autoscale not enabled"):
        control.autoscale(_worker(), 5, 1)
