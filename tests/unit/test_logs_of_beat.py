"""Celery beat's log line about a scheduled job that it could not send."""

import io

import pytest
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler
from kombu.exceptions import OperationalError
from redis.exceptions import TimeoutError as SilentError

from worker.logs import setup_logging


# The error of sending, and whether the log has a traceback.
@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (OperationalError("Error 111: Connection refused"), False),
        (SilentError("Timeout reading from socket"), False),
        (ConnectionResetError("Connection reset by peer"), False),
        (KeyError("a bug"), True),
    ],
)
def test_a_job_that_the_broker_does_not_take_is_logged_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *, traced: bool
) -> None:
    stream = io.StringIO()
    setup_logging("INFO", stream=stream)
    app = Celery(broker="memory://", set_as_current=False)

    def lose(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Scheduler, "send_task", lose)
    scheduler = Scheduler(app, lazy=True)
    scheduler.apply_entry(ScheduleEntry(name="nightly", task="shop.report", app=app))
    [line] = [written for written in stream.getvalue().splitlines() if "ERROR" in written]
    message = f"Couldn't apply scheduled task nightly: {error}"
    assert message in line
    assert ("Traceback" in line) is traced
    assert line.endswith(f"celery.beat {message}; this run of the task may be lost") is not traced
