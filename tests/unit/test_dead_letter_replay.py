"""Which dead letters may be replayed, the sent messages, and the reasons of refusals."""

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, call

import pytest
from celery import Celery
from kombu.exceptions import LimitExceeded, OperationalError

from worker.deadletters.dead_letter import DeadLetter, Message
from worker.deadletters.replay import Replayed, objection, replay

module = sys.modules["worker.deadletters.replay"]

NOW_MS = 1_790_000_000_000
GUARDED_MS = 22 * 3_600_000
RISKY = (
    "it is not known whether this email was sent, and it may be too late to find out: a replay "
    "may send it twice, so it requires force"
)


def letter(number: int = 1, **changes: Any) -> DeadLetter:
    about: dict[str, Any] = {"task": "tasks.ai.complete", "queue": "ai", "service": "groq"}
    about |= {"kind": "failed", "reason": "no", "at_ms": 7, "size": 9}
    return DeadLetter(f"job-{number}", **about | changes)


def email(doubt_ms: int) -> DeadLetter:
    return letter(task="tasks.email.send", queue="email", service="resend", doubt_ms=doubt_ms)


# A dead letter, why it cannot be replayed, and why not even if a person accepts a second email.
@pytest.mark.parametrize(
    ("dead_letter", "why", "forced"),
    [
        (letter(), None, None),
        (letter(note="too large"), "too large", "too large"),
        (letter(size=0), "its arguments are not kept", "its arguments are not kept"),
        (letter(doubt_ms=1), None, None),  # another answer does no harm
        (letter(service="other", doubt_ms=1), None, None),
        (email(0), None, None),
        (email(NOW_MS - GUARDED_MS), None, None),
        (email(NOW_MS - GUARDED_MS - 1), RISKY, None),
    ],
)
def test_a_dead_letter_is_replayed_if_its_message_is_kept_and_that_is_safe(
    dead_letter: DeadLetter, why: str | None, forced: str | None
) -> None:
    assert objection(dead_letter, now_ms=NOW_MS, force=False) == why
    assert objection(dead_letter, now_ms=NOW_MS, force=True) == forced


# --- many of them


class Store:
    """A store that has all dead letters; it keeps what is deleted, claimed and released."""

    def __init__(self) -> None:
        self.messages: dict[str, Any] = {}
        self.claim = AsyncMock(return_value=True)
        self.unclaim, self.uncancel, self.delete = AsyncMock(), AsyncMock(), AsyncMock()
        self.there: dict[str, DeadLetter] = {}

    async def get(self, job: str) -> tuple[DeadLetter, Message | None]:
        return self.there[job], self.messages.get(job, Message())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Mock:
    publish = Mock(return_value=None)
    monkeypatch.setattr(module, "_publish", publish)
    return publish


def app_with(state: str = "FAILURE") -> Any:
    backend = Mock(get_task_meta=Mock(return_value={"status": state}))
    return SimpleNamespace(conf={}, backend=backend, pool="the connections")


async def replay_letters(store: Any, letters: list[DeadLetter], **options: Any) -> Replayed:
    store.there = store.there or {each.id: each for each in letters}
    given = {"app": app_with(), "by": "ada", "now_ms": NOW_MS} | options
    return await replay(store, letters, **given)


async def test_dead_letters_are_deleted_once_they_are_sent_part_by_part(published: Mock) -> None:
    store, done = Store(), list[int]()
    letters = [letter(number, size=0 if number % 100 == 7 else 9) for number in range(450)]
    replayed = await replay_letters(store, letters, progress=done.append)
    assert done == [200, 400, 450]
    ids = {each.id for each in letters if each.size}
    assert set(replayed.sent) == ids
    assert set(replayed.refused) == {
        (each.id, "its arguments are not kept") for each in letters if not each.size
    }
    assert [delete.kwargs for delete in store.delete.await_args_list] == [
        {"by": "ada", "event": "replayed"}
    ] * 3
    deleted = [[each.id for each in delete.args[0]] for delete in store.delete.await_args_list]
    assert [len(part) for part in deleted] == [198, 198, 50 - 1]
    assert set().union(*deleted) == ids
    assert published.call_count == len(ids)
    assert replayed.as_json()["replayed"] == list(replayed.sent)
    assert replayed.as_json()["refused"][0] == {
        "id": replayed.refused[0][0], "reason": "its arguments are not kept"
    }  # fmt: skip


async def test_after_an_error_of_the_broker_nothing_more_is_sent_and_the_sent_letters_are_deleted(
    published: Mock,
) -> None:
    store = Store()
    letters = [letter(number) for number in range(300)]

    def publish(*given: Any, own_key: bool) -> None:
        assert not own_key
        if published.call_count >= 5:
            raise OperationalError("away")

    published.side_effect = publish
    done: list[int] = []
    with pytest.raises(OperationalError, match="away"):
        await replay_letters(store, letters, progress=done.append)
    assert published.call_count < 5 + 8, "only messages that were being sent are sent"
    [deleted] = store.delete.await_args_list
    assert len(deleted.args[0]) == 4
    unclaimed = {unclaim.args[0].id for unclaim in store.unclaim.await_args_list}
    assert not unclaimed & {each.id for each in deleted.args[0]}
    assert len(unclaimed) == published.call_count - 4, "another process may replay them at once"
    assert done == []


# The change, the message, the state, why it is not sent, whether its claim is released.
@pytest.mark.parametrize(
    ("changes", "message", "state", "why", "given_back"),
    [
        ({"at_ms": 8}, Message(), "FAILURE", "it has changed meanwhile", False),
        ({}, None, "FAILURE", "it has changed meanwhile", False),
        ({}, Message(), "SUCCESS", "it has succeeded: a copy of its message was served", True),
        ({}, Message(raw="odd"), "FAILURE",
         "its message cannot be sent (ValueError): another program wrote it", True),
    ],
)  # fmt: skip
async def test_a_dead_letter_that_cannot_be_sent_is_refused_with_its_reason(
    published: Mock,
    *,
    changes: dict[str, Any],
    message: Message | None,
    state: str,
    why: str,
    given_back: bool,
) -> None:
    store = Store()
    store.there, store.messages = {"job-1": letter(**changes)}, {"job-1": message}
    replayed = await replay_letters(store, [letter()], app=app_with(state))
    assert replayed == Replayed((), (("job-1", why),))
    assert store.unclaim.await_args_list == [call(letter())] * given_back
    published.assert_not_called()
    store.uncancel.assert_not_awaited()


async def test_a_dead_letter_that_another_replay_has_or_that_was_deleted_is_refused(
    published: Mock,
) -> None:
    store = Store()
    store.there = {"job-1": letter()}
    deleted_meanwhile = await replay_letters(store, [letter(2)])
    assert deleted_meanwhile.refused == (("job-2", "it has been deleted meanwhile"),)
    store.claim.return_value = False
    claimed_elsewhere = await replay_letters(store, [letter()])
    assert claimed_elsewhere.refused == (("job-1", "another replay has claimed it"),)
    published.assert_not_called()


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError, KeyError, IndexError])
async def test_a_message_that_another_program_wrote_keeps_no_other_from_being_sent(
    published: Mock, error: type[Exception]
) -> None:
    store = Store()
    published.side_effect = [error("odd"), None]
    replayed = await replay_letters(store, [letter(1), letter(2)])
    why = f"its message cannot be sent ({error.__name__}): another program wrote it"
    assert [reason for _, reason in replayed.refused] == [why]
    assert len(replayed.sent) == 1
    assert store.unclaim.await_count == 1


async def test_a_job_whose_result_nobody_can_read_is_replayed(published: Mock) -> None:
    app = app_with()
    app.backend.get_task_meta.side_effect = ConnectionError("away")
    store = Store()
    replayed = await replay_letters(store, [email(NOW_MS - GUARDED_MS - 1)], app=app, force=True)
    assert replayed.sent == ("job-1",)
    assert app.backend.get_task_meta.call_args == call("job-1", cache=False)
    store.uncancel.assert_awaited_once()
    assert published.call_args.kwargs == {"own_key": True}
    assert published.call_args.args[2] == "the connections"


# --- one message


class _Publisher:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.amqp = SimpleNamespace(Producer=lambda connection: ("producer", connection))

    def send_task(self, task: str, **options: Any) -> None:
        self.sent.append((task, options))


@pytest.fixture
def publish() -> Any:
    """Replays a dead letter; `send` returns the task and its options."""
    publisher, connections = _Publisher(), Mock()
    connection = MagicMock()
    connections.acquire.return_value = connection
    backend = Mock(get_key_for_task=lambda job: f"meta-{job}")

    def send(dead_letter: DeadLetter, message: Message, *, own_key: bool = False) -> Any:
        app = SimpleNamespace(backend=backend)
        module._publish(app, publisher, connections, dead_letter, message, own_key=own_key)
        task, options = publisher.sent[-1]
        assert options.pop("producer") == ("producer", connection)
        return task, options

    return SimpleNamespace(send=send, backend=backend, connections=connections)


def test_a_job_is_sent_again_with_all_that_it_had(publish: Any) -> None:
    options = {"root_id": "r", "link": [1], "headers": {"mine": 1}}
    message = Message([1], {"prompt": "p"}, options)
    assert publish.send(letter(doubt_ms=5), message) == (
        "tasks.ai.complete",
        {
            "args": [1],
            "kwargs": {"prompt": "p"},
            "task_id": "job-1",
            "queue": "ai",
            "argsrepr": "<hidden>",
            "kwargsrepr": "<hidden>",
            "add_to_parent": False,
            "root_id": "r",
            "link": [1],
            "headers": {"mine": 1, "keywheel_doubt_ms": 5},
        },
    )
    assert (message.kwargs, message.options) == ({"prompt": "p"}, options), (
        "the message is unchanged"
    )
    publish.backend.delete.assert_called_once_with("meta-job-1")  # the old failure
    publish.connections.acquire.assert_called_once_with(block=True, timeout=10)


def test_a_job_without_a_root_or_a_queue_is_its_own_root(publish: Any) -> None:
    publish.backend.delete.side_effect = NotImplementedError  # without a result store
    _, options = publish.send(letter(queue=""), Message(options={"headers": "odd"}))
    assert (options["root_id"], options["queue"]) == ("job-1", None)
    assert options["headers"] == {"keywheel_doubt_ms": 0}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, "job-1/again-7"),
        ({"idempotency_key": "mine"}, "mine/again-7"),
        ({"idempotency_key": 5}, "5/again-7"),
        ({"idempotency_key": "x" * 201}, "x" * 200 + "/again-7"),
    ],
)
def test_an_email_that_may_go_out_twice_has_another_idempotency_key(
    publish: Any, given: dict[str, Any], key: str
) -> None:
    _, options = publish.send(letter(doubt_ms=5), Message(kwargs=given), own_key=True)
    assert options["kwargs"] == {"idempotency_key": key}
    assert options["headers"] == {"keywheel_doubt_ms": 0}
    _, options = publish.send(letter(doubt_ms=5), Message(kwargs=given))
    assert options["kwargs"] == given


def test_if_all_connections_are_in_use_the_broker_counts_as_down(publish: Any) -> None:
    publish.connections.acquire.side_effect = LimitExceeded
    with pytest.raises(OperationalError, match=r"^all connections to the broker are in use$"):
        publish.send(letter(), Message())


def test_the_app_that_sends_has_the_broker_and_the_routes_and_no_results() -> None:
    app = Celery("test", broker="redis://host/3", backend="redis://host/4", set_as_current=False)
    app.conf.task_routes = {"a.*": {"queue": "a"}}
    app.conf.task_default_queue = "mine"
    publisher = module._publisher(app)
    assert publisher.conf.broker_url == "redis://host/3"
    assert publisher.conf.task_routes == {"a.*": {"queue": "a"}}
    assert publisher.conf.task_default_queue == "mine"
    assert type(publisher.backend).__name__ == "DisabledBackend"
