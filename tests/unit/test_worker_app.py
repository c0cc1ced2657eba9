"""Our Celery app's changes to a worker before its start, and its import of the users' tasks."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from weakref import ref

import celery.apps.worker
import pytest
from celery import Celery, signals

from config.celery import WORKER_PRODUCERS
from config.errors import SettingsError
from config.settings import Settings, settings_from
from worker import application as app_module
from worker.aio.backend import RedisBackend
from worker.hooks.backpressure import QueuePauser
from worker.hooks.cancel import Cancelling
from worker.hooks.health import PoolHealth
from worker.hooks.notifications import NotificationBound
from worker.hooks.publishing import note_enqueued, pass_on_tenant
from worker.logs import redactor, say_json
from worker.startup import files


@pytest.fixture
def instance() -> Any:
    app = Celery(set_as_current=False)
    return SimpleNamespace(app=app, emit_banner=lambda: None, quiet=False)


def test_a_worker_publishes_by_few_connections_with_what_a_message_needs(
    instance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisBackend, "redact", None)
    before = instance.emit_banner
    try:
        app_module._prepare(instance, {"queues": "ai,email"})
        receivers = [
            receiver() if isinstance(receiver, ref) else receiver
            for _, receiver in signals.before_task_publish.receivers
        ]
        assert {pass_on_tenant, note_enqueued} <= set(receivers)
    finally:
        signals.before_task_publish.disconnect(pass_on_tenant)
        signals.before_task_publish.disconnect(note_enqueued)
    assert instance.app.conf.broker_pool_limit == WORKER_PRODUCERS
    assert not instance.queue_choice.by_keys, "the command line names the queues"
    assert instance.emit_banner is not before
    assert RedisBackend.redact == redactor.redact
    assert instance.quiet is False, "the log lines are text"


def test_the_file_of_a_schedule_is_checked_if_a_worker_keeps_it(
    instance: Any, tmp_path: Path
) -> None:
    options = {"schedule_filename": str(tmp_path / "gone" / "schedule")}
    files.check_worker_files(options)  # another process keeps the file
    with pytest.raises(SystemExit) as ended:
        app_module._prepare(instance, options | {"beat": True})
    assert "The file of --schedule-filename cannot be written: check its folder." in str(
        ended.value
    )


@pytest.mark.parametrize("option", ["pidfile", "statedb"])
@pytest.mark.parametrize("path", ["gone/file", "."])
def test_a_file_that_cannot_be_written_ends_the_start_with_a_sentence(
    instance: Any, option: str, path: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        app_module._prepare(instance, {option: str(tmp_path / path)})
    assert f"The file of --{option} cannot be written: check its folder." in str(ended.value)


def test_a_state_that_cannot_be_read_ends_the_start_with_a_sentence(
    instance: Any, tmp_path: Path
) -> None:
    file = tmp_path / "worker.state"
    file.write_text("cut off by a crash")
    with pytest.raises(SystemExit) as ended:
        app_module._prepare(instance, {"statedb": str(file)})
    assert "The file of --statedb cannot be used (db type could not be determined)" in str(
        ended.value
    )


@pytest.mark.parametrize(
    ("module", "missing", "sentence"),
    [
        (
            "jobs.all",
            "jobs",
            (
                "names jobs.all, which cannot be found: start the worker in the folder of your "
                "project, or add that to PYTHONPATH."
            ),
        ),
        ("jobs.all", "jobs.all", "names jobs.all, which cannot be found"),
        (
            "jobs",
            "numpy",
            (
                "names jobs, which imports numpy, and that is missing: install it where the worker "
                "runs."
            ),
        ),
        ("job", "jobs", "names job, which imports jobs, and that is missing"),
    ],
)
def test_the_sentence_says_whether_a_module_of_tasks_or_its_import_is_missing(
    module: str, missing: str, sentence: str
) -> None:
    assert app_module._missing(module, missing).startswith(f"KEYWHEEL_TASKS {sentence}")


def test_the_logs_are_set_up_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    settings = settings_from({"KEYWHEEL_LOG_LEVEL": "WARNING", "KEYWHEEL_LOG_FORMAT": "json"})
    monkeypatch.setattr(app_module, "get_settings", lambda: settings)
    monkeypatch.setattr(redactor, "learn", seen.append)
    monkeypatch.setattr(
        app_module, "setup_logging", lambda *args, **options: seen.append((args, options))
    )
    app_module._set_up_logging()
    app_module._set_up_logging("worker.log")
    as_json = {"log_format": "json"}
    assert seen == [
        settings.secrets, (("WARNING",), as_json | {"path": ""}),
        settings.secrets, (("WARNING",), as_json | {"path": "worker.log"}),
    ]  # fmt: skip

    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(app_module, "setup_logging", fail)
    with pytest.raises(SystemExit) as ended:
        app_module._set_up_logging("/root/worker.log")
    assert ended.value.code == 1 or "--logfile cannot be opened: Permission denied." in str(
        ended.value.code
    )


def test_logs_go_to_the_file_that_is_named_and_json_needs_no_banner(
    instance: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files: list[Any] = []
    checked: list[Any] = []
    settings = settings_from({"KEYWHEEL_LOG_FORMAT": "json"})
    monkeypatch.setattr(app_module, "get_settings", lambda: settings)
    monkeypatch.setattr(app_module, "_set_up_logging", lambda *file: files.append(file))
    monkeypatch.setattr(app_module.command, "check_options", lambda *given: checked.append(given))
    monkeypatch.setattr(celery.apps.worker, "safe_say", None)
    monkeypatch.setattr(RedisBackend, "redact", None)
    instance.hostname = "w1@here"
    state, pid = tmp_path / "state", tmp_path / "pid"
    options = {"logfile": "%n.log", "statedb": str(state), "pidfile": str(pid)}
    try:
        app_module._prepare(instance, options)
    finally:
        signals.before_task_publish.disconnect(pass_on_tenant)
        signals.before_task_publish.disconnect(note_enqueued)
    assert files == [("w1.log",), ()]
    assert checked == [(options, instance.app.conf)]
    assert instance.quiet is True
    assert celery.apps.worker.safe_say is say_json
    assert instance.queue_choice.by_keys


def test_a_worker_that_shuts_down_sends_the_jobs_that_wait_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = Mock()
    monkeypatch.setattr(app_module, "stop_waiting", stopped)
    signals.worker_shutting_down.send("a test", sig="TERM", how="Warm", exitcode=0)
    stopped.assert_called_once_with()


def test_a_worker_turns_telemetry_on_as_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = Mock()
    monkeypatch.setattr(app_module.telemetry, "install", installed)
    app_module._install_telemetry()
    installed.assert_called_once_with()


def test_a_module_of_tasks_that_cannot_be_found_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_from({"KEYWHEEL_TASKS": "json, not_there_at_all"})
    monkeypatch.setattr(app_module, "get_settings", lambda: settings)
    with pytest.raises(SystemExit, match="KEYWHEEL_TASKS names not_there_at_all, which cannot be"):
        app_module._import_task_modules()


@pytest.mark.parametrize("as_json", [True, False])
def test_warnings_about_the_settings_have_the_form_of_the_logs(
    monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    set_up = Mock()

    def wrong() -> None:
        raise SettingsError(["GROQ_MODEL is wrong."])

    monkeypatch.setattr(app_module, "logs_json", lambda: as_json)
    monkeypatch.setattr(app_module, "setup_logging", set_up)
    monkeypatch.setattr(app_module, "get_settings", wrong)
    with pytest.raises(SettingsError):
        app_module.create_app()
    assert [(call.args, call.kwargs) for call in set_up.call_args_list] == (
        [(("INFO",), {"log_format": "json"})] * as_json
    )


def test_the_app_has_our_settings_and_the_steps_of_our_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claimed, installed, settings = Mock(), Mock(), Settings(worker_concurrency=3, show_content=True)
    monkeypatch.setattr(app_module, "get_settings", lambda: settings)
    monkeypatch.setattr(app_module, "claim_result_backend", claimed)
    monkeypatch.setattr(app_module.flower, "install", installed)
    monkeypatch.setattr(app_module, "Celery", partial(Celery, set_as_current=False))
    made = app_module.create_app()
    claimed.assert_called_once_with(settings)
    installed.assert_called_once_with(settings)
    assert (made.conf.worker_concurrency, made.Task.show_content) == (3, True)
    assert PoolHealth in made.steps["worker"]
    assert {QueuePauser, Cancelling, NotificationBound} <= set(made.steps["consumer"])
    made.close()


@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        ("worker.clients", "in an installed Keywheel it is keywheel.worker."),
        ("clients.worker", "install it where the worker runs."),
    ],
)
def test_a_module_of_ours_has_another_name_in_an_installed_wheel(
    monkeypatch: pytest.MonkeyPatch, missing: str, advice: str
) -> None:
    monkeypatch.setattr(app_module, "__name__", "keywheel.worker.application")
    assert app_module._missing("jobs", missing).endswith(f"and that is missing: {advice}")
