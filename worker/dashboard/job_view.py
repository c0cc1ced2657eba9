"""Looks up one job: where it is, what it waits for, and its calls, but never its content.

The functions block on the network: call them from a thread.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from celery import Celery, states

from config.celery import DELAYED_QUEUES
from worker.aio.transport import delayed
from worker.dashboard.deferred_jobs import ms_of
from worker.deadletters.capture import reason_of
from worker.foreign_json import as_object, as_text, member
from worker.foreign_results import meta_of
from worker.jobs.history import History

_EVENTS = ("sent", "received", "started", "retried", "succeeded", "failed", "revoked", "rejected")


@dataclass(frozen=True, slots=True)
class Waits:
    """The reason and the end of a job's wait.

    Attributes:
        kind: `key` if no key can serve the job, `failure` if a call failed.
        code: The reason, as stored with the job's result.
        next_try_ms: When the job comes back, in milliseconds since 1970; None if not known.
        expected_end_ms: When the wait is expected to end, in milliseconds since 1970; None if not
            known.
    """

    kind: str = ""
    code: str = ""
    next_try_ms: int | None = None
    expected_end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """One job, as its page shows it.

    Attributes:
        job: The job's id.
        state: Celery's state.
        where: `queue` (or unknown), `deferred` in the broker, `worker` (fetched, but not begun),
            `running`, or `ended`.
        task: The task's name; empty if not known.
        worker: The worker that had the job last; empty if not known.
        waits: What the job waits for; None if it does not wait, or the reason is not known.
        calls: The job's latest calls to the provider, as in its dead letter.
        attempts: How many calls the job has made in all; None if not known.
        events: The job's events that Flower received, each with `at_ms` and `event`.
        error: Why the job failed, in one sentence; empty if it did not fail.
        key: The label of the key that served the job; empty if no key did.
    """

    job: str
    state: str
    where: str
    task: str = ""
    worker: str = ""
    waits: Waits | None = None
    calls: tuple[dict[str, Any], ...] = ()
    attempts: int | None = None
    events: tuple[dict[str, Any], ...] = ()
    error: str = ""
    key: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types."""
        return asdict(self)


def look_up(app: Celery, job: str, seen: Any) -> JobView:
    """Look up a job in the broker, in the result store and in Flower's events.

    Args:
        app: The Celery app, for its broker and result store.
        job: The job's id.
        seen: The job in Flower's events (a task of `celery.events.state`); None if it is not there.

    Raises:
        redis.exceptions.RedisError: The broker, or the result store, cannot be reached.
    """
    meta = meta_of(app, job)
    result, (due_ms, headers) = meta.get("result"), _deferred(app, job)
    state = _state_of(meta, seen, deferred=due_ms is not None)
    value = result if state == states.SUCCESS else None
    error = result if state == states.FAILURE else None
    return JobView(
        job=job,
        state=state,
        where=_where(state, deferred=due_ms is not None),
        task=str(getattr(seen, "name", None) or headers.get("task") or ""),
        worker=str(getattr(getattr(seen, "worker", None), "hostname", None) or ""),
        waits=None if state in states.READY_STATES else _waits(meta.get("waits"), due_ms),
        calls=tuple(call.as_json() for call in History.of(headers).trail),
        attempts=_attempts_in(value),
        events=tuple(_events(seen)),
        error=reason_of(error) if isinstance(error, BaseException) else "",
        key=_key_in(value),
    )


def _state_of(meta: Mapping[str, Any], seen: Any, *, deferred: bool) -> str:
    """Return the stored state; for a job that a worker holds, the state in Flower's events."""
    stored = str(meta.get("status"))
    is_known = stored in states.READY_STATES or deferred or seen is None
    return stored if is_known else str(seen.state)


def _waits(stored: Any, due_ms: int | None) -> Waits | None:
    waits = as_object(stored)
    if not waits and due_ms is None:
        return None
    return Waits(
        kind=str(waits.get("kind", "")),
        code=str(waits.get("code", "")),
        next_try_ms=due_ms if due_ms is not None else ms_of(waits.get("next_try")),
        expected_end_ms=ms_of(waits.get("expected_end")),
    )


def _where(state: str, *, deferred: bool) -> str:
    if state in states.READY_STATES:
        return "ended"
    if deferred or state == states.RETRY:
        return "deferred"
    return {states.STARTED: "running", states.RECEIVED: "worker"}.get(state, "queue")


def _events(seen: Any) -> Iterable[dict[str, Any]]:
    found = ((name, getattr(seen, name, None)) for name in _EVENTS)
    pairs = sorted((round(at_s * 1000), name) for name, at_s in found if at_s)
    return ({"at_ms": at_ms, "event": name} for at_ms, name in pairs)


def _key_in(result: Any) -> str:
    key = as_text(member(result, "key"))
    return key if key.endswith("...") else ""


def _attempts_in(result: Any) -> int | None:
    attempts = member(result, "attempts")
    return attempts if type(attempts) is int and attempts >= 0 else None


def _deferred(app: Celery, job: str) -> tuple[int | None, dict[str, Any]]:
    """Return when a deferred job is due (milliseconds since 1970), and its message's headers."""
    with app.connection_for_read() as connection:
        channel = connection.channel()
        if connection.transport.driver_type == "amqp":  # RabbitMQ does not show deferred messages
            return None, {}
        with channel.client.pipeline(transaction=False) as pipe:
            sets = [name for queue in DELAYED_QUEUES for name in delayed.due_sets_of(queue)]
            for name in sets:
                pipe.zscore(name, job)
            for queue in DELAYED_QUEUES:
                pipe.hget(delayed.texts_of(queue), job)
            replies = pipe.execute()
    due_us, text = _first_of(replies[: len(sets)]), _first_of(replies[len(sets) :])
    if due_us is None or text is None:
        return None, {}
    return round(max(due_us, 0) / 1000), _headers_in(text)


def _first_of(answers: Iterable[Any]) -> Any:
    return next((answer for answer in answers if answer is not None), None)


def _headers_in(text: Any) -> dict[str, Any]:
    try:
        return as_object(member(json.loads(text), "headers"))
    except (ValueError, TypeError):
        return {}
