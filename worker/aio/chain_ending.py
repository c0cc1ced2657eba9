"""Ends the later jobs of a chain if one job of the chain has ended without success.

Celery stores a result for the later steps only if a step has failed. It stores none if the step was
revoked or had expired, and none for the members of a group. A program that waits for such a job
would wait for ever.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError

from worker.aio.end_storing import EndStoringBackend

_PARTS: Final = {"group": ("tasks",), "chain": ("tasks",), "chord": ("header", "body")}
"""The types of signatures that contain other signatures, each with the arguments that hold them."""


def jobs_behind(chain: Any) -> Iterator[Context]:
    """Find each job that a chain would still have run, with the members of groups and chords.

    Args:
        chain: The field `chain` of a job's request, with the later steps; it may be of any type.

    Yields:
        The request of each job, with the fields that a result store needs.
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
    """Whether a job that `jobs_behind` found is a member of a chord."""
    return "chord" in context.options


def _signatures(parts: Any) -> list[Mapping[str, Any]]:
    """Return the signatures in a value from a message, which may be of any type."""
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
    """A backend that stores the end of a job for the later jobs of its chain as well."""

    def mark_as_revoked(
        self,
        task_id: Any,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        state: str = states.REVOKED,
    ) -> None:
        """Store that a job was revoked, and with it the later jobs of its chain."""
        super().mark_as_revoked(task_id, reason, request, store_result=store_result, state=state)
        if request:
            self.end_chain(request, TaskRevokedError(reason), state, store_result=store_result)

    def end_chain(
        self, request: Any, exc: BaseException, state: str, *, store_result: bool = True
    ) -> None:
        """End the later jobs of a chain. A second call has no further effect.

        Args:
            request: Celery's context of the request of the job that has ended without success.
            exc: That job's error, which is stored for the later jobs.
            state: That job's state, which is stored for the later jobs.
            store_result: Whether to store results; chords of the later jobs are notified anyway.
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
        # Celery does not notify the chord of a job whose failure is stored already, so the results
        # are stored only afterwards.
        super()._fail_chain(_signatures(chain), exc, traceback, store_result=False, state=state)
        if store_result and state in states.PROPAGATE_STATES:
            for context in jobs_behind(chain):
                self.store_result(context.id, exc, state, traceback=traceback, request=context)
