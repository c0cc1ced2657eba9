"""What our Celery app sets on a worker before it starts, and what is checked once it has."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals

from config.celery import WORKER_PRODUCERS
from worker import application as app_module
from worker.aio.backend import RedisBackend
from worker.hooks.publishing import note_enqueued, pass_on_tenant
from worker.logs import redactor
from worker.startup import worker_name


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
        heard = [receiver() for _, receiver in signals.before_task_publish.receivers]
        assert {pass_on_tenant, note_enqueued} <= set(heard)
    finally:
        signals.before_task_publish.disconnect(pass_on_tenant)
        signals.before_task_publish.disconnect(note_enqueued)
    assert instance.app.conf.broker_pool_limit == WORKER_PRODUCERS
    assert not instance.queue_choice.by_keys, "the command line names the queues"
    assert instance.emit_banner is not before
    assert RedisBackend.redact == redactor.redact
    assert instance.quiet is False, "its logs are text"


def test_the_file_of_a_schedule_is_checked_where_a_worker_keeps_it(
    instance: Any, tmp_path: Path
) -> None:
    options = {"schedule_filename": str(tmp_path / "gone" / "schedule")}
    with pytest.raises(SystemExit) as ended:
        app_module._prepare(instance, options | {"beat": True})
    assert "The file of --schedule-filename cannot be written: check its folder." in str(
        ended.value
    )


@pytest.mark.parametrize("option", ["pidfile", "statedb"])
@pytest.mark.parametrize("place", ["gone/file", "."])
def test_a_file_that_cannot_be_written_ends_the_start_with_a_sentence(
    instance: Any, option: str, place: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        app_module._prepare(instance, {option: str(tmp_path / place)})
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
def test_a_module_of_tasks_that_is_missing_is_told_from_what_it_imports(
    module: str, missing: str, sentence: str
) -> None:
    assert app_module._missing(module, missing).startswith(f"KEYWHEEL_TASKS {sentence}")


def test_a_name_that_cannot_be_checked_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> None:
        raise ConnectionRefusedError("no broker")

    caplog.set_level(logging.DEBUG, "worker.startup.worker_name")
    worker_name._check(SimpleNamespace(connection_for_write=gone), "w1@here")
    assert caplog.messages == [
        "cannot check whether another worker has the name w1@here (ConnectionRefusedError)"
    ]


@pytest.mark.parametrize(
    ("most", "jobs"),
    [
        (None, 500),  # by -c, or by the setting
        (400, 400),  # by --autoscale
    ],
)
def test_a_worker_is_checked_for_as_many_jobs_as_it_may_run(most: int | None, jobs: int) -> None:
    instance = SimpleNamespace(concurrency=500, max_concurrency=most)
    assert app_module._most_jobs(instance) == jobs
