"""Makes the running workers reload their keys, and logs in the audit trail who requested it."""

from collections.abc import Iterable, Mapping
from typing import Any

from celery import Celery

from worker.keypool import KeyPool

Answers = Mapping[str, Mapping[str, Any]]
"""Each worker's answer, by its name: `ok` with its keys, or `error` if it kept its former keys."""


def ask_workers(app: Celery, *, timeout_s: float) -> Answers:
    """Make every running worker reload its keys.

    Args:
        app: The Celery app.
        timeout_s: How long to wait for the answers, in seconds.

    Returns:
        The answers of the workers that answered in time.

    Raises:
        kombu.exceptions.OperationalError: The broker does not answer.
    """
    replies = app.control.broadcast("keys_reload", reply=True, timeout=timeout_s)
    return {name: answer for reply in replies or () for name, answer in reply.items()}


def sentence_of(answer: Mapping[str, Any]) -> str:
    """Return one worker's answer: its new keys, or why it kept the former ones."""
    return str(answer.get("ok") or answer.get("error"))


async def note_reload(pools: Iterable[KeyPool], answers: Answers, *, by: str) -> None:
    """Log a reload in the audit stream of each service.

    Args:
        pools: The pools of all services, because a worker reloads the keys of each.
        answers: The answers of the workers.
        by: The actor for the audit stream, such as `cli ann`.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    for pool in pools:
        await pool.note_reload(_outcome(answers), by=by)


def _outcome(answers: Answers) -> str:
    if not answers:
        return "no worker answered"
    kept = sum("ok" not in answer for answer in answers.values())
    workers = f"{len(answers)} worker{'s' if len(answers) > 1 else ''} answered"
    return f"{workers}, {kept} of them kept the former keys" if kept else workers
