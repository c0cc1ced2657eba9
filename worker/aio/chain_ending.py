"""Ends the jobs that stand behind a job in its chain, and will not run because of it.

Celery stores an end for the steps of a chain behind one that failed. It stores none if the step was
revoked or had expired, and none for the members of a group: a program would wait for them for ever.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError

from worker.aio.end_storing import EndStoringBackend

_PARTS: Final = {"group": ("tasks",), "chain": ("tasks",), "chord": ("header", "body")}
"""The kinds of signatures that hold others, and under which of their arguments."""


def jobs_behind(chain: Any) -> Iterator[Context]:
    """Find each job that a chain would still have run, the members of groups and chords as well.

    Args:
        chain: What the request of a job says of the steps behind it; of any type.

    Yields:
        As much of the request of each job as a result store needs.
    """
    waiting = _signatures(chain)
    while waiting:
        part = waiting.pop()
        context = _context_of(part)
        if context.id is not None:
            yield context
        arguments = part.get("kwargs")
        if isinstance(arguments, Mapping):
            for name in _PARTS.get(str(part.get("subtask_type")), ()):
                waiting += _signatures(arguments.get(name))


def is_of_chord(context: Context) -> bool:
    """Whether a chord counts the end of a job that `jobs_behind` found."""
    return "chord" in context.options


def _signatures(parts: Any) -> list[Mapping[str, Any]]:
    """The signatures among what a message holds, which may be of any type."""
    return [
        part
        for part in (parts if isinstance(parts, list | tuple) else [parts])
        if isinstance(part, Mapping) and isinstance(part.get("options"), Mapping)
    ]


def _context_of(part: Mapping[str, Any]) -> Context:
    context = Context(part)
    context.update(context.options)
    context.id, context.group = (context.options.get(name) for name in ("task_id", "group_id"))
    return context


class ChainEndingBackend(EndStoringBackend):
    """Stores the end of a job for the jobs behind it as well."""

    def mark_as_revoked(
        self,
        task_id: Any,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        state: str = states.REVOKED,
    ) -> None:
        """Store that a job was revoked, and the jobs behind it with it."""
        super().mark_as_revoked(task_id, reason, request, store_result=store_result, state=state)
        if request:
            self.end_chain(request, TaskRevokedError(reason), state, store_result=store_result)

    def end_chain(
        self, request: Any, exc: BaseException, state: str, *, store_result: bool = True
    ) -> None:
        """End the jobs behind one that has ended without success. A second call does nothing more.

        Args:
            request: Celery's context of the job's request.
            exc: The error of the job, which becomes theirs.
            state: Its state, which becomes theirs.
            store_result: Whether to store it; the chords that they are of learn of it anyway.
        """
        self._fail_chain(
            getattr(request, "chain", None), exc, store_result=store_result, state=state
        )

    def _fail_chain(
        self,
        chain: Any,
        exc: BaseException,
        traceback: Any = None,
        store_result: bool = True,  # noqa: FBT001, FBT002 - as above
        state: str = states.FAILURE,
    ) -> None:
        # Celery notifies the chords unless it stores a state, so this call comes first.
        super()._fail_chain(_signatures(chain), exc, traceback, store_result=False, state=state)
        if store_result and state in states.PROPAGATE_STATES:
            for context in jobs_behind(chain):
                self.store_result(context.id, exc, state, traceback=traceback, request=context)
