"""Runs the jobs of dead letters again.

A job keeps its id and its arguments, so an email keeps its idempotency key.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery import Celery, states
from kombu.exceptions import LimitExceeded, OperationalError

from config.services import SERVICES
from worker.deadletters.dead_letter import UNREADABLE, DeadLetter, Message
from worker.deadletters.store import DeadLetters
from worker.foreign_json import as_object
from worker.jobs.history import DOUBT

_CHUNK = 200
_CONCURRENCY = 8
# The provider keeps idempotency keys for 24 hours, and we use a stored request for 23 hours.
_GUARDED_MS = 22 * 3_600_000
_BROKER_TIMEOUT_S = 10
_HIDDEN = "<hidden>"


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of a replay.

    Attributes:
        sent: The ids of the jobs that run again.
        refused: The ids of the other jobs, each with the reason.
    """

    sent: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the outcome in JSON types."""
        return {
            "replayed": list(self.sent),
            "refused": [{"id": job_id, "reason": reason} for job_id, reason in self.refused],
        }


def objection(letter: DeadLetter, *, now_ms: int, force: bool) -> str | None:
    """Say why a dead letter cannot be replayed; None if it can.

    Args:
        letter: The dead letter.
        now_ms: Now, in milliseconds since 1970.
        force: Whether a person accepts that an email may be sent twice.
    """
    if letter.note:
        return letter.note
    if not letter.size:
        return "its arguments are not kept"
    return None if force else _risk(letter, now_ms)


def _risk(letter: DeadLetter, now_ms: int) -> str | None:
    """Say why a replay may send an email twice; None if it cannot.

    While the idempotency key of an email in doubt is valid, a replay is safe. Account and content
    stay the same, so the provider returns the first email's answer, or the job ends as unknown
    again.
    """
    service = SERVICES.get(letter.service)
    sends_once = service is not None and service.sends_once
    if not sends_once or not letter.in_doubt or now_ms - letter.doubt_ms <= _GUARDED_MS:
        return None
    return (
        "it is not known whether this email was sent, and it may be too late to find out: a "
        "replay may send it twice, so it requires force"
    )


async def replay(
    store: DeadLetters,
    letters: Sequence[DeadLetter],
    *,
    app: Celery,
    by: str,
    now_ms: int,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Send jobs again and delete their dead letters.

    A dead letter is deleted after its message was sent, so a crash between these steps leaves both
    and loses nothing. If the same dead letter is replayed twice at the same time, one of the
    replays is refused.

    Args:
        store: The store of the dead letters.
        letters: The dead letters to replay.
        app: The Celery app, for the broker.
        by: The actor for the audit stream, such as `cli ann`.
        now_ms: Now, in milliseconds since 1970.
        force: Whether to replay emails that may have been sent, too. They get a new idempotency
            key, so they may arrive twice.
        progress: Called repeatedly with the number of dead letters that are done.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached. Some jobs may have been sent.
        kombu.exceptions.OperationalError: The broker cannot be reached, or all connections to it
            are in use for ten seconds.
    """
    sent: list[DeadLetter] = []
    refused: list[tuple[str, str]] = []
    errors: list[Exception] = []
    slots = asyncio.Semaphore(_CONCURRENCY)
    publisher, connections = _publisher(app), app.pool

    async def replay_one(letter: DeadLetter) -> None:
        async with slots:
            if errors:
                return
            try:
                own_key = _risk(letter, now_ms) is not None
                reason = objection(letter, now_ms=now_ms, force=force) or await _send(
                    store, letter, app, publisher, connections, own_key=own_key
                )
            except Exception as exc:  # noqa: BLE001 - raised below, after the sent ones are deleted
                errors.append(exc)
                return
        if reason is None:
            sent.append(letter)
        else:
            refused.append((letter.id, reason))

    for first in range(0, len(letters), _CHUNK):
        chunk, before = letters[first : first + _CHUNK], len(sent)
        try:
            await asyncio.gather(*(replay_one(letter) for letter in chunk))
        finally:
            await store.delete(sent[before:], by=by, event="replayed")
        if errors:
            raise errors[0]
        if progress is not None:
            progress(first + len(chunk))
    return Replayed(tuple(letter.id for letter in sent), tuple(refused))


async def _send(
    store: DeadLetters,
    letter: DeadLetter,
    app: Celery,
    publisher: Celery,
    connections: Any,
    *,
    own_key: bool,
) -> str | None:
    """Send one job again; return the reason if it is refused, else None."""
    if not await store.claim(letter):
        return "another replay has claimed it"
    try:
        present, message = await store.get(letter.id)
    except KeyError:
        return "it has been deleted meanwhile"
    if message is None or present.at_ms != letter.at_ms:
        return "it has changed meanwhile"
    try:
        if message.raw is not None:
            raise ValueError(UNREADABLE)  # noqa: TRY301 - handled like other unusable messages
        if await asyncio.to_thread(_has_succeeded, app, letter):
            await store.unclaim(letter)
            return "it has succeeded: a copy of its message was served"
        await store.uncancel(letter)
        await asyncio.to_thread(
            _publish, app, publisher, connections, letter, message, own_key=own_key
        )
    except (TypeError, ValueError, AttributeError, LookupError) as exc:
        await store.unclaim(letter)  # the other jobs can still be sent
        return f"its message cannot be sent ({type(exc).__name__}): another program wrote it"
    except Exception:  # not on a cancel: the claim stays, because the message may still be sent
        await store.unclaim(letter)
        raise
    return None


def _has_succeeded(app: Celery, letter: DeadLetter) -> bool:
    try:
        return bool(app.backend.get_task_meta(letter.id, cache=False)["status"] == states.SUCCESS)
    except Exception:  # noqa: BLE001 - without a result store this is not known: replay it
        return False


def _publish(
    app: Celery,
    publisher: Celery,
    connections: Any,
    letter: DeadLetter,
    message: Message,
    *,
    own_key: bool,
) -> None:
    kwargs, options = dict(message.kwargs), dict(message.options)
    if own_key:
        kwargs["idempotency_key"] = (
            f"{str(kwargs.get('idempotency_key') or letter.id)[:200]}/again-{letter.at_ms}"
        )
    options["headers"] = {
        **as_object(options.get("headers")),
        DOUBT: 0 if own_key else letter.doubt_ms,
    }
    # A caller that waits for the result must not read the old failure.
    with suppress(Exception):  # there may be no result store
        app.backend.delete(app.backend.get_key_for_task(letter.id))
    try:
        connection = connections.acquire(block=True, timeout=_BROKER_TIMEOUT_S)
    except LimitExceeded as exc:
        raise OperationalError("all connections to the broker are in use") from exc
    with connection:
        publisher.send_task(
            letter.task,
            args=message.args,
            kwargs=kwargs,
            task_id=letter.id,
            queue=letter.queue or None,
            argsrepr=_HIDDEN,
            kwargsrepr=_HIDDEN,
            add_to_parent=False,
            producer=publisher.amqp.Producer(connection),
            **{"root_id": letter.id, **options},
        )


def _publisher(app: Celery) -> Celery:
    """Make an app that only sends messages, to the broker of `app`, through a connection of `app`.

    It has no result store, because each send would then subscribe to a result that is not read. It
    must not open connections of its own: kombu has one limit for all pools of a process, so the
    pool of `app` would be resized, which raises `RuntimeError` while a connection is in use.
    """
    publisher = Celery("replay", set_as_current=False)
    publisher.backend_cls = "disabled"
    names = (
        "broker_url", "broker_transport", "broker_transport_options", "broker_use_ssl",
        "task_publish_retry_policy", "task_queues", "task_routes", "task_default_queue",
        "task_create_missing_queue_type", "task_create_missing_queue_exchange_type",
    )  # fmt: skip
    publisher.conf.update(
        {name: app.conf[name] for name in names if app.conf.get(name) is not None}
    )
    return publisher
