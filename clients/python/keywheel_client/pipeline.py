"""Enqueues several jobs together."""

from itertools import groupby
from typing import Any, TypeVar, Unpack

from keywheel_client.arguments import CompletionArguments, EmailArguments
from keywheel_client.job_id import JobId
from keywheel_client.messages import Message, message_of
from keywheel_client.results import CompletionResult, EmailResult

_MOST_A_COMMAND = 500

ResultT = TypeVar("ResultT")


class Pipeline:
    """Collects jobs; when the block ends without an error, enqueues them together, all or none.

    Args:
        track_started: Whether the workers store that a job runs.
    """

    def __init__(self, *, track_started: bool) -> None:
        self._track_started = track_started
        self._messages: list[Message] = []

    def complete(
        self,
        prompt: str | None = None,
        /,
        *,
        job_id: str | None = None,
        priority: int | None = None,
        expires_s: float | None = None,
        tenant: str | None = None,
        **arguments: Unpack[CompletionArguments],
    ) -> JobId[CompletionResult]:
        """Add a completion; the arguments are those of `Keywheel.complete`."""
        given: dict[str, Any] = {**arguments} | ({} if prompt is None else {"prompt": prompt})
        return self._add(
            "tasks.ai.complete",
            given,
            job_id=job_id,
            priority=priority,
            expires_s=expires_s,
            tenant=tenant,
        )

    def send_email(
        self,
        *,
        job_id: str | None = None,
        priority: int | None = None,
        expires_s: float | None = None,
        tenant: str | None = None,
        **arguments: Unpack[EmailArguments],
    ) -> JobId[EmailResult]:
        """Add an email; the arguments are those of `Keywheel.send_email`."""
        given = {"from" if name == "from_" else name: value for name, value in arguments.items()}
        return self._add(
            "tasks.email.send",
            given,
            job_id=job_id,
            priority=priority,
            expires_s=expires_s,
            tenant=tenant,
        )

    def ask(self, task: str, arguments: dict[str, Any]) -> JobId[Any]:
        """Add a job of an administrator's task; arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}
        return self._add(task, given)

    @property
    def needs_time(self) -> bool:
        """Whether a message must say when its job is enqueued, because the job has a dedupe key."""
        return any(message.has_dedupe_key for message in self._messages)

    def pushes(self, time: tuple[int, int] = (0, 0)) -> list[tuple[str, ...]]:
        """Return the arguments of the LPUSH commands that enqueue the jobs in their order.

        Args:
            time: Redis' reply to TIME, if a job needs it.

        Returns:
            For each command, the name of a list and the texts to push.
        """
        seconds, microseconds = time
        now_ms = seconds * 1000 + microseconds // 1000
        commands: list[tuple[str, ...]] = []
        for name, group in groupby(self._messages, key=lambda message: message.list_name):
            texts = [message.text(now_ms) for message in group]
            commands += [
                (name, *texts[first : first + _MOST_A_COMMAND])
                for first in range(0, len(texts), _MOST_A_COMMAND)
            ]
        return commands

    def _add(self, task: str, arguments: dict[str, Any], **options: Any) -> JobId[Any]:
        message = message_of(task, arguments, track_started=self._track_started, **options)
        self._messages.append(message)
        return JobId(message.job)
