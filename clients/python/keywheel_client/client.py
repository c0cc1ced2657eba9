"""The client for programs without an event loop."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, Self, TypeVar, Unpack, overload

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from keywheel_client.arguments import CompletionArguments, EmailArguments
from keywheel_client.checks import deadline_of
from keywheel_client.connection import CANCEL_KEPT_S, OPTIONS, Addresses, Names, redis_errors
from keywheel_client.errors import ResultTimeout, Unavailable, UnreadableRecord
from keywheel_client.events import StreamEvent
from keywheel_client.job_id import JobId
from keywheel_client.outcome import outcome_of
from keywheel_client.pipeline import Pipeline
from keywheel_client.quotes import Quote, QuoteArguments
from keywheel_client.results import CompletionResult, EmailResult, ResetDone, ServiceStatus
from keywheel_client.sentinels import open_client, with_sentinels
from keywheel_client.status import PLACE_TIMEOUT_S, Status, status_of
from keywheel_client.stream_reader import StreamReader

ResultT = TypeVar("ResultT")

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.25


class Keywheel:
    """Enqueues, follows and cancels jobs. Threads may share one client.

    Args:
        url: The Redis of the workers; None: `REDIS_URL` of the environment.
        results_url: The Redis of the results, if the workers have another one
            (`CELERY_RESULT_BACKEND`).
        pool_url: The Redis of cancels and streams, if the workers have another one
            (`KEYWHEEL_POOL_URL`).
        namespace: The namespace of the workers; None: `KEYWHEEL_NAMESPACE` of the environment.
        track_started: Whether the workers store that a job runs, for the state `running`. This
            costs Redis one write for each job.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        results_url: str | None = None,
        pool_url: str | None = None,
        namespace: str | None = None,
        track_started: bool = True,
    ) -> None:
        addresses = Addresses.of(url, results_url, pool_url)
        # No retries: a push that timed out may have arrived.
        clients = {
            address: open_client(
                address, plain=Redis, sentinel=Sentinel, retry=Retry(NoBackoff(), 0), **OPTIONS
            )
            for address in {addresses.broker, addresses.results, addresses.pool}
        }
        self._clients = [
            connected for client in clients.values() for connected in with_sentinels(client)
        ]
        self._broker = clients[addresses.broker]
        self._results = clients[addresses.results]
        self._pool = clients[addresses.pool]
        self._names = Names.of(namespace)
        self._track_started = track_started

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
        """Enqueue a completion.

        Args:
            prompt: One user message, instead of `messages`.
            job_id: The job's id; None: a new id.
            priority: 0 to 9, the most urgent first; from 6 on the job is bulk.
            expires_s: The time after which no run of the job begins, in seconds.
            tenant: The tenant for whom the job is: tenants are served in turn.
            **arguments: The arguments of Groq's API.

        Returns:
            The job's id.

        Raises:
            TypeError: An argument cannot be written as JSON.
            ValueError: A number is NaN or infinite, or `job_id`, `priority` or `tenant` is not
                allowed.
            Unavailable: Redis cannot be reached.
        """
        with self.pipeline() as pipe:
            return pipe.complete(
                prompt,
                job_id=job_id,
                priority=priority,
                expires_s=expires_s,
                tenant=tenant,
                **arguments,
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
        """Enqueue an email, which is sent once even if it is enqueued again with the same `job_id`.

        Args:
            job_id: The job's id; None: a new id.
            priority: 0 to 9, the most urgent first; from 6 on the job is bulk.
            expires_s: The time after which no run of the job begins, in seconds.
            tenant: The tenant for whom the job is: tenants are served in turn.
            **arguments: The fields of Resend's API, with `from_` for `from`.

        Returns:
            The job's id.

        Raises:
            TypeError: An argument cannot be written as JSON.
            ValueError: A number is NaN or infinite, or `job_id`, `priority` or `tenant` is not
                allowed.
            Unavailable: Redis cannot be reached.
        """
        with self.pipeline() as pipe:
            return pipe.send_email(
                job_id=job_id, priority=priority, expires_s=expires_s, tenant=tenant, **arguments
            )

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """Collect jobs, and enqueue them in one round trip when the block ends: all or none.

        If the block raises, nothing is enqueued.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        pipe = Pipeline(track_started=self._track_started)
        yield pipe
        with redis_errors(), self._broker.pipeline(transaction=True) as commands:
            now: Any = self._pool.time() if pipe.needs_time else (0, 0)
            for push in pipe.pushes(now):
                commands.lpush(*push)
            commands.execute()

    def status(self, job: str, *, place: bool = False) -> Status:
        """Return the state of a job, and why it waits or how it ended.

        Args:
            job: The job's id.
            place: Also ask a worker which place a waiting job has, and when it may start.

        Raises:
            ResultTimeout: No worker answered in time.
            Unavailable: Redis cannot be reached.
        """
        with redis_errors():
            stored: Any = self._results.get(self._names.result(job))
        status = status_of(stored)
        if not place or status.state != "waiting":
            return status
        answer = self._ask("tasks.admin.place", {"id": job}, PLACE_TIMEOUT_S)
        return status.with_place(answer) if answer["place"] else self.status(job)

    @overload
    def result(self, job: JobId[ResultT], *, timeout_s: float | None = 60) -> ResultT: ...

    @overload
    def result(self, job: str, *, timeout_s: float | None = 60) -> Any: ...

    def result(self, job: str, *, timeout_s: float | None = 60) -> Any:
        """Wait for a job's result, also while it is deferred. After a time-out the job goes on.

        Args:
            job: The job's id.
            timeout_s: How long to wait, in seconds; None: until the job ends.

        Returns:
            The result of the task; `keywheel_client.results` describes it.

        Raises:
            JobFailed: The job failed; `JobCancelled` if it was cancelled.
            ResultTimeout: The job has not ended in time.
            Unavailable: Redis could not be reached when the time was over.
        """
        deadline, pause_s = deadline_of(timeout_s), _FIRST_PAUSE_S
        while True:
            is_late = time.monotonic() >= deadline
            try:
                status = self.status(job)
            except Unavailable:
                if is_late:
                    raise
            else:
                if status.is_ended:
                    return outcome_of(job, status)
                if is_late:
                    raise ResultTimeout(job, status, timeout_s or 0)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def stream(
        self, job: str, *, after: str = "0", timeout_s: float | None = 60
    ) -> Iterator[StreamEvent]:
        """Yield the pieces of an answer as they arrive, until it is complete.

        The job needs `stream=True`. Without it, or after the stream has expired, the result comes
        as one piece.

        Args:
            job: The job's id.
            after: The id of the last event that was read; `0`: from the beginning.
            timeout_s: The longest time without an event, in seconds; None: no limit.

        Raises:
            JobFailed: The job failed; `JobCancelled` if it was cancelled.
            ResultTimeout: Nothing came for `timeout_s`.
            Unavailable: Redis cannot be reached.
        """
        reader, name = StreamReader(job, after, timeout_s), self._names.stream(job)
        while not reader.is_done:
            with redis_errors():
                reply = self._pool.xread({name: reader.after}, count=500, block=reader.block_ms)
            yield from reader.events(reply)
            if reader.is_silent:
                reader.note(self.status(job))

    def cancel(self, job: str) -> bool:
        """Cancel a job for good: no worker calls a provider for it any more.

        A call in flight is not interrupted, and the job then ends with its result.

        Args:
            job: The job's id.

        Returns:
            Whether the job was cancelled; false if it had already ended.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        with suppress(UnreadableRecord):  # the job may still run
            if self.status(job).is_ended:
                return False
        with redis_errors(), self._pool.pipeline(transaction=False) as commands:
            commands.set(self._names.cancel(job), "1", ex=CANCEL_KEPT_S)
            commands.publish(self._names.cancel_channel, job)
            commands.execute()
        return True

    def key_status(self, *, timeout_s: float = 30) -> dict[str, ServiceStatus]:
        """Ask a worker for the state of each API key.

        Args:
            timeout_s: How long to wait for a worker, in seconds.

        Returns:
            For each service, its keys and a summary of them.

        Raises:
            ResultTimeout: No worker answered in time.
            Unavailable: Redis cannot be reached.
        """
        statuses: dict[str, ServiceStatus] = self._ask("tasks.admin.key_status", {}, timeout_s)
        return statuses

    def reset_keys(
        self,
        *,
        service: str | None = None,
        key: str | None = None,
        include_disabled: bool = False,
        by: str | None = None,
        timeout_s: float = 30,
    ) -> ResetDone:
        """Bring back API keys that rest or were refused.

        Args:
            service: `groq` or `resend`; None: both.
            key: A key's id, with its service; None: all keys.
            include_disabled: Also bring back keys that a person disabled.
            by: The person who asks, for the audit trail.
            timeout_s: How long to wait for a worker, in seconds.

        Returns:
            By service: how many blocks were cleared, which ones, and which keys stay disabled.

        Raises:
            JobFailed: There is no such key.
            ResultTimeout: No worker answered in time.
            Unavailable: Redis cannot be reached.
        """
        arguments = {"service": service, "key": key, "include_disabled": include_disabled, "by": by}
        done: ResetDone = self._ask("tasks.admin.reset_keys", arguments, timeout_s)
        return done

    def quote(
        self,
        service: Literal["groq", "resend"] = "groq",
        *,
        timeout_s: float = 30,
        **arguments: Unpack[QuoteArguments],
    ) -> Quote:
        """Ask a worker when jobs would start and end if they were enqueued now.

        Args:
            service: The service of the jobs.
            timeout_s: How long to wait for a worker, in seconds.
            **arguments: `model` (default: the first model in the workers' settings), `jobs` (how
                many, default 1), `tokens` (of each job; default: the average of past calls).

        Raises:
            JobFailed: An argument is wrong.
            ResultTimeout: No worker answered in time.
            Unavailable: Redis cannot be reached.
        """
        question = {"service": service, **arguments}
        return Quote.of(self._ask("tasks.admin.quote", question, timeout_s))

    def _ask(self, task: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        with self.pipeline() as pipe:
            job = pipe.ask(task, arguments)
        return self.result(job, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the connections. A second call does nothing."""
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
