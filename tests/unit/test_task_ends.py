"""The base class of our tasks: its work before a job begins, and after the job has ended."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery import Celery, states
from celery.exceptions import Ignore

from worker.aio.transport.headers import DEATHS
from worker.errors import InvalidArguments, JobError, Poisoned, RequestRejected
from worker.hooks import task as task_module
from worker.hooks.task import ServiceTask
from worker.jobs.history import DOUBT, HEADER

CAME_AGAIN = {"redelivered": True}
FAILED = {"status": states.FAILURE, "result": RequestRejected("no such model")}
SUCCEEDED = {"status": states.SUCCESS, "result": {"id": "email-1"}}
ANOTHER_EMAIL = InvalidArguments("idempotency_key: was used for another email")
ANOTHER_EMAIL.another_email = True


def _nothing() -> None:
    pass


class Ends:
    """A job's task, with doubles of its records, result store and notifications."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorder = Mock(
            earlier_failure=AsyncMock(return_value=None), record_job=AsyncMock(), remove=AsyncMock()
        )
        self.announce = AsyncMock()
        monkeypatch.setattr(task_module, "recorder", self.recorder)
        monkeypatch.setattr(task_module, "announce", self.announce)
        monkeypatch.setattr(task_module, "get_settings", lambda: SimpleNamespace(max_deliveries=5))

    def task(
        self, *, service: str = "groq", stored: dict[str, Any] | None = None, **request: Any
    ) -> Any:
        name = {"groq": "tasks.ai.complete", "resend": "tasks.email.send"}[service]
        app = Celery(set_as_current=False)
        made: Any = app.task(_nothing, name=name, base=ServiceTask, service=service, shared=False)
        meta = stored or {"status": states.PENDING}

        def get_task_meta(task_id: str, *, cache: bool) -> dict[str, Any]:
            # This worker's memory lacks what another worker has stored meanwhile.
            return {"status": states.PENDING} if cache else meta

        made.backend = Mock(get_task_meta=get_task_meta)
        if stored == {}:
            made.backend.get_task_meta = Mock(side_effect=ConnectionError)
        context = {"headers": {}, "delivery_info": {}, "kwargs": {}, "is_eager": False}
        made.push_request(id="job-1", **context | request)
        return made


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    return Ends(monkeypatch)


async def before(task: Any) -> None:
    if (awaitable := task.before_start("job-1", (), {})) is not None:
        await awaitable


async def after(task: Any, error: Exception | None = None) -> None:
    if error is not None:
        awaitable = task.on_failure(error, "job-1", (), {}, None)
    else:
        awaitable = task.on_success({"text": "hello"}, "job-1", (), {})
    if awaitable is not None:
        await awaitable


# The dead letter and the result of a job whose message has come again, and the exception that is
# raised before the job begins.
@pytest.mark.parametrize(
    ("dead_letter", "stored", "raised", "message"),
    [
        (None, None, None, None),
        (None, SUCCEEDED, None, None),  # Celery finds it
        ("RequestRejected: no such model", FAILED, Ignore, None),
        (None, FAILED, RequestRejected, r"^no such model$"),
        ("RequestRejected: no such model", None, RequestRejected, "no such model"),
        ("RequestRejected: no such model", {}, RequestRejected, "no such model"),
        (None, {}, None, None),  # the store is down
    ],
)
async def test_a_job_that_came_again_ends_as_it_had_ended(
    ends: Ends,
    caplog: pytest.LogCaptureFixture,
    *,
    dead_letter: str | None,
    stored: dict[str, Any] | None,
    raised: type[Exception] | None,
    message: str | None,
) -> None:
    caplog.set_level("INFO", "worker.hooks.task")
    ends.recorder.earlier_failure.return_value = dead_letter
    task = ends.task(stored=stored, delivery_info=CAME_AGAIN)
    if raised is None:
        await before(task)
        return
    with pytest.raises(raised, match=message):
        await before(task)
    dropped = (
        "job-1 has failed already: its worker died before it acknowledged; this copy is dropped"
    )
    assert caplog.messages == [dropped] * (raised is Ignore)


@pytest.mark.parametrize("delivery", [{}, CAME_AGAIN])
@pytest.mark.parametrize(("service", "in_doubt"), [("groq", False), ("resend", True)])
async def test_a_job_that_five_workers_died_of_is_refused(
    ends: Ends, delivery: dict[str, Any], service: str, *, in_doubt: bool
) -> None:
    await before(ends.task(service=service, delivery_info=delivery, headers={DEATHS: 4}))
    with pytest.raises(Poisoned, match=r"^5 workers died while they held this job") as caught:
        await before(ends.task(service=service, delivery_info=delivery, headers={DEATHS: 5}))
    assert ("the email may have been sent" in str(caught.value)) is in_doubt


async def test_a_first_delivery_is_not_looked_up(ends: Ends) -> None:
    await before(ends.task())
    await before(ends.task(delivery_info=CAME_AGAIN, is_eager=True))
    ends.recorder.earlier_failure.assert_not_called()


# The history of a job that reports no result, and whether its end is stored.
@pytest.mark.parametrize(
    ("request_", "is_stored"),
    [
        ({"headers": {HEADER: {}}}, True),  # it was deferred
        ({"retries": 1}, True),
        ({}, False),  # its first run: no state is stored
        ({"headers": None}, False),
        ({"retries": 1, "is_eager": True}, False),
        ({"retries": 1, "ignore_result": False}, False),  # Celery stores it
    ],
)
async def test_no_retry_remains_of_a_job_that_reports_no_result(
    ends: Ends, request_: dict[str, Any], *, is_stored: bool
) -> None:
    task = ends.task(**{"ignore_result": True} | request_)
    await after(task)
    stored = task.backend.store_result.call_args_list
    expected = [call("job-1", None, states.SUCCESS, request=task.request)]
    assert stored == (expected if is_stored else [])


# A failure, the record in the result store, and whether it leaves a dead letter.
@pytest.mark.parametrize(
    ("service", "error", "stored", "request_", "is_recorded"),
    [
        ("groq", RequestRejected("no"), None, {}, True),
        ("groq", RequestRejected("no"), None, {"is_eager": True}, False),
        ("resend", RequestRejected("no"), None, {}, True),
        ("resend", RequestRejected("no"), SUCCEEDED, {}, False),  # sent by a copy of the message
        ("resend", ANOTHER_EMAIL, SUCCEEDED, {}, True),
        ("resend", RequestRejected("no"), {}, {}, True),  # the store is down
        ("groq", RequestRejected("no"), SUCCEEDED, {}, True),
    ],
)
async def test_a_failure_leaves_a_dead_letter_unless_a_copy_of_the_email_was_sent(
    ends: Ends,
    service: str,
    error: Exception,
    stored: dict[str, Any] | None,
    request_: dict[str, Any],
    *,
    is_recorded: bool,
) -> None:
    await after(ends.task(service=service, stored=stored, **request_), error)
    assert ends.recorder.record_job.await_count == is_recorded
    assert ends.announce.await_count == is_recorded


# A possible source of a dead letter before a success, and whether one is looked for.
@pytest.mark.parametrize(
    ("service", "request_", "is_removed"),
    [
        ("groq", {}, False),
        ("groq", {"delivery_info": CAME_AGAIN}, True),
        ("groq", {"headers": {DOUBT: 0}}, True),  # replayed
        ("groq", {"delivery_info": CAME_AGAIN, "is_eager": True}, False),
        ("resend", {}, True),
        ("resend", {"is_eager": True}, False),
    ],
)
async def test_a_success_deletes_the_dead_letter_that_an_earlier_run_may_have_left(
    ends: Ends, service: str, request_: dict[str, Any], *, is_removed: bool
) -> None:
    await after(ends.task(service=service, **request_))
    assert ends.recorder.remove.await_count == is_removed


@pytest.mark.parametrize(("streams", "closed"), [(None, 0), (True, 1)])
async def test_a_refused_job_closes_its_stream_if_its_task_has_any(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, *, streams: bool | None, closed: int
) -> None:
    close = Mock()
    monkeypatch.setattr(task_module, "close_stream", close)
    task = ends.task()
    if streams is not None:
        task.streams = streams
    await after(task, error := Poisoned.after(5, in_doubt=False))
    assert close.mock_calls == [
        call(task.request, error="Poisoned", reason=str(error)) for _ in range(closed)
    ]
    await after(task, RequestRejected("no"))  # its stream was closed when it was raised
    assert close.call_count == closed


# The options of a signature, and the queue that they name.
@pytest.mark.parametrize(
    ("service", "options", "queue"),
    [
        ("groq", {}, "ai"),
        ("resend", {}, "email"),
        ("groq", {"queue": "mine"}, "mine"),
        ("groq", {"exchange": "mine"}, None),
        ("groq", {"routing_key": "mine"}, None),
    ],
)
def test_a_signature_names_the_queue_of_its_task_unless_it_names_a_place(
    ends: Ends, service: str, options: dict[str, str], queue: str | None
) -> None:
    made = ends.task(service=service).signature((), {}, **options)
    assert made.options.get("queue") == queue


def test_a_signature_of_a_users_own_task_names_no_queue() -> None:
    app = Celery(set_as_current=False)
    made: Any = app.task(_nothing, name="letter", base=ServiceTask, shared=False)
    assert "queue" not in made.signature().options


def test_a_task_of_an_unknown_service_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no service 'grok'"):
        type("Typo", (ServiceTask,), {"name": "t", "service": "grok"})


def test_celery_shows_the_end_of_a_job_and_no_content() -> None:
    assert (ServiceTask.throws, ServiceTask.light_retry) == ((JobError,), True)
    assert (ServiceTask.show_content, ServiceTask.resultrepr_maxsize) == (False, 1)
    assert ServiceTask.retry_on_worker_lost
    shows: Any = type("Shows", (ServiceTask,), {"name": "t", "show_content": True})
    assert shows.resultrepr_maxsize == 1024


def test_a_task_of_ours_runs_eagerly_too() -> None:
    async def answer() -> int:
        return 7

    app = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
    task: Any = app.task(answer, name="tasks.admin.answer", base=ServiceTask, shared=False)
    assert task.apply().get() == 7
    app.close()
