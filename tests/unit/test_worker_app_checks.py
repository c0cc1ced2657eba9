"""A worker's checks at its start, and the queues that it consumes."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from config.keys import Discovery
from config.services import SERVICES
from config.settings import settings_from
from worker import application as app_module


@pytest.mark.parametrize(
    ("most", "jobs"),
    [
        (None, 500),  # by -c, or by the setting
        (400, 400),  # by --autoscale
    ],
)
def test_a_worker_is_checked_for_as_many_jobs_as_it_may_run(most: int | None, jobs: int) -> None:
    instance = SimpleNamespace(concurrency=500, max_concurrency=most)
    assert app_module._max_jobs(instance) == jobs


class _Queues(dict[str, Any]):
    """The app's queues, of which a worker consumes some."""

    consume_from = ("ai", "ai.deferred", "email")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start a worker with some keys; return the checks in order."""

    def begin(
        *, by_keys: bool, groq: int = 0, resend: int = 0, tasks: str = "", fails: Any = None
    ) -> Any:
        keys = dict.fromkeys(SERVICES, 0) | {"groq": groq, "resend": resend}
        settings = settings_from({"KEYWHEEL_TASKS": tasks, "GROQ_BASE_URL": "http://groq.example"})
        checked: list[Any] = []
        discoveries = {name: Discovery((Mock(),) * count, ()) for name, count in keys.items()}

        def checks(name: str) -> Callable[..., None]:
            return lambda *args, **options: checked.append((name, args, options))

        monkeypatch.setattr(app_module, "get_settings", lambda: settings)
        monkeypatch.setattr(app_module, "load_keys", fails or discoveries.__getitem__)
        for name in ("refuse_wrong_values", "proxy_for", "check_machine", "check_redis"):
            monkeypatch.setattr(app_module, name, checks(name))
        monkeypatch.setattr(app_module, "check_rabbitmq", checks("check_rabbitmq"))
        monkeypatch.setattr(app_module, "no_dotenv", lambda: None)
        choice = Mock(by_keys=by_keys)
        choice.unknown.return_value = ["no queue is called ia"]
        worker = Mock(queue_choice=choice, max_concurrency=None, concurrency=7)
        worker.app.amqp.queues = _Queues()
        app_module._check_and_choose_queues(worker)
        return SimpleNamespace(
            checked=checked, choice=choice, settings=settings, discoveries=discoveries
        )

    return begin


def test_a_start_checks_the_machine_and_each_server_and_takes_the_queues_that_have_keys(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    done = start(by_keys=True, groq=2)
    [values, *checked] = done.checked
    assert (values[0], list(values[1][0])) == (
        "refuse_wrong_values",
        list(done.discoveries.values()),
    )
    assert checked == [
        ("proxy_for", ("http://groq.example",), {}),  # none for a service without keys
        ("check_machine", (done.settings, done.discoveries), {"jobs": 7}),
        ("check_redis", (done.settings,), {}),
        ("check_rabbitmq", (done.settings,), {}),
    ]
    done.choice.select.assert_called_once_with(_Queues(), dict.fromkeys(SERVICES, 0) | {"groq": 2})
    done.choice.unknown.assert_called_once_with(has_custom_tasks=False)
    counts = [f"{2 if name == 'groq' else 0} {name}" for name in SERVICES]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "no queue is called ia"),
        ("INFO", f"keys: {', '.join(counts)}; queues: ai, email"),
    ]


def test_a_worker_of_tasks_of_the_users_own_may_have_queues_of_other_names(start: Any) -> None:
    done = start(by_keys=True, resend=1, tasks="jobs")
    done.choice.unknown.assert_called_once_with(has_custom_tasks=True)


def test_a_start_without_any_key_ends_with_a_sentence_unless_the_queues_are_named(
    start: Any,
) -> None:
    start(by_keys=False)
    with pytest.raises(SystemExit, match="cannot start"):
        start(by_keys=True)


@pytest.mark.parametrize("missing", [None, "/srv/app has no .env"])
def test_a_folder_without_settings_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str | None
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(app_module, "no_dotenv", lambda: missing)
    app_module._log_keys_and_queues({}, [])
    warnings = [f"{missing}: the settings come from the environment alone"] * bool(missing)
    assert caplog.messages == [*warnings, "keys: ; queues: "]


def test_a_bug_in_a_check_keeps_its_traceback(start: Any) -> None:
    def fail(_: str) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        start(by_keys=False, fails=fail)
