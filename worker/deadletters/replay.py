"""Sends dead letters' jobs again.

Same id, same arguments, so an email keeps its idempotency key.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import Celery, states

from worker.deadletters.dead_letter import DeadLetter, Message
from worker.deadletters.store import DeadLetters
from worker.jobs.history import DOUBT

ONCE_ONLY: Final = frozenset({"tasks.email.send"})
"""Tasks that must not be carried out twice."""

_CHUNK = 200
_AT_ONCE = 8
_GUARDED_MS = (
    22 * 3_600_000
)  # the provider keeps idempotency keys for 24 hours, an envelope is used for 23
_PATIENCE_S = 10
_HIDDEN = "<hidden>"

_senders: "WeakKeyDictionary[Celery, Celery]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of letters that were to be replayed.

    Attributes:
        sent: The ids of the jobs that run again.
        refused: The others, with the reason.
    """

    sent: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        return {
            "replayed": list(self.sent),
            "refused": [{"id": letter_id, "reason": reason} for letter_id, reason in self.refused],
        }


def objection(letter: DeadLetter, *, now_ms: int, force: bool) -> str | None:
    """Why a letter may not be replayed; None where it may.

    Args:
        letter: Which.
        now_ms: Now, in milliseconds since 1970.
        force: Somebody accepts that an email may go out twice.
    """
    if letter.note:
        return letter.note
    if not letter.size:
        return "its arguments are not kept"
    return None if force else _risk(letter, now_ms)


def _risk(letter: DeadLetter, now_ms: int) -> str | None:
    """Why a replay may carry something out twice.

    As long as the idempotency key of an email in doubt counts, a replay is safe: the email stays
    with its account and its content, and the provider answers with the first one; or the job ends
    as unknown once more.
    """
    if (
        letter.task not in ONCE_ONLY
        or not letter.in_doubt
        or now_ms - letter.doubt_ms <= _GUARDED_MS
    ):
        return None
    return (
        "nobody knows whether this email was sent, and it may be too long ago to find out: a "
        "replay may send it twice,"
        " which needs force"
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
    """Send jobs again and forget their letters.

    A letter is forgotten after its message was sent: a crash in between leaves both, never neither.
    Whoever replays a letter at the same time as somebody else is refused.

    Args:
        store: Where the letters are.
        letters: Which.
        app: For the broker.
        by: Who asks, for the audit stream.
        now_ms: Now, in milliseconds since 1970.
        force: Also emails that may have been sent; they get an idempotency key of their own, so
            this may be a second email.
        progress: Told how many letters are through, again and again.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached; what was sent is sent.
        kombu.exceptions.OperationalError: The broker cannot be reached.
    """
    sent: list[DeadLetter] = []
    refused: list[tuple[str, str]] = []
    broken: list[Exception] = []
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(letter: DeadLetter) -> None:
        async with gate:
            if broken:
                return
            try:
                own_key = _risk(letter, now_ms) is not None
                why = objection(letter, now_ms=now_ms, force=force) or await _send(
                    store, letter, app, own_key=own_key
                )
            except Exception as exc:  # noqa: BLE001 - raised below, when the book-keeping is done
                broken.append(exc)
                return
        if why is None:
            sent.append(letter)
        else:
            refused.append((letter.id, why))

    for first in range(0, len(letters), _CHUNK):
        chunk, before = letters[first : first + _CHUNK], len(sent)
        try:
            await asyncio.gather(*(one(letter) for letter in chunk))
        finally:
            await store.forget(sent[before:], by=by, event="replayed")
        if broken:
            raise broken[0]
        if progress is not None:
            progress(first + len(chunk))
    return Replayed(tuple(letter.id for letter in sent), tuple(refused))


async def _send(
    store: DeadLetters, letter: DeadLetter, app: Celery, *, own_key: bool
) -> str | None:
    if not await store.claim(letter):
        return "somebody replays it at this moment"
    try:
        found, message = await store.get(letter.id)
    except KeyError:
        return "it is gone"
    if message is None or found.at_ms != letter.at_ms:
        return "it has changed meanwhile"
    try:
        if await asyncio.to_thread(_has_succeeded, app, letter):
            await store.unclaim(letter)
            return "it has succeeded: a copy of its message did not fail"
        await store.uncancel(letter)
        await asyncio.to_thread(_publish, app, letter, message, own_key=own_key)
    except Exception:  # who is stopped meanwhile keeps the right: its message may still get through
        await store.unclaim(letter)
        raise
    return None


def _has_succeeded(app: Celery, letter: DeadLetter) -> bool:
    try:
        return bool(app.backend.get_task_meta(letter.id, cache=False)["status"] == states.SUCCESS)
    except Exception:  # noqa: BLE001 - without a store nobody knows, and it was to be replayed
        return False


def _publish(app: Celery, letter: DeadLetter, message: Message, *, own_key: bool) -> None:
    kwargs, options = dict(message.kwargs), dict(message.options)
    if own_key:
        kwargs["idempotency_key"] = (
            f"{str(kwargs.get('idempotency_key') or letter.id)[:200]}/again-{letter.at_ms}"
        )
    options["headers"] = {
        **(options.get("headers") or {}),
        DOUBT: 0 if own_key else letter.doubt_ms,
    }
    with suppress(
        Exception
    ):  # who waits for the result must not read the old failure; without a store there is none
        app.backend.delete(app.backend.get_key_for_task(letter.id))
    sender = _sender_for(app)
    with sender.producer_pool.acquire(block=True, timeout=_PATIENCE_S) as producer:
        sender.send_task(
            letter.task,
            args=message.args,
            kwargs=kwargs,
            task_id=letter.id,
            queue=letter.queue or None,
            argsrepr=_HIDDEN,
            kwargsrepr=_HIDDEN,
            add_to_parent=False,
            producer=producer,
            **{"root_id": letter.id, **options},
        )


def _sender_for(app: Celery) -> Celery:
    """An app that only sends.

    With a result store, each send would subscribe to a result that nobody here reads.
    """
    found = _senders.get(app)
    if found is None:
        found = _senders[app] = Celery("replay", set_as_current=False)
        found.backend_cls = "disabled"
        names = (
            "broker_url", "broker_transport", "broker_transport_options",
            "task_publish_retry_policy",
            "task_queues", "task_routes", "task_default_queue",
        )  # fmt: skip
        found.conf.update(
            {name: app.conf[name] for name in names if app.conf.get(name) is not None}
        )
    return found
