"""The client for programs with an event loop of asyncio."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from keywheel_client.arguments import CompletionArguments, EmailArguments
from keywheel_client.checks import job_of, timeout_s_of
from keywheel_client.connection import CANCEL_KEPT_S, OPTIONS, Addresses, Names, redis_errors
from keywheel_client.endings import Endings
from keywheel_client.errors import ResultTimeout, UnreadableRecord
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


class AsyncKeywheel:
    """Enqueues, follows and cancels jobs. A client belongs to the event loop that first uses it.

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
        self._endings = Endings(self._results)
        self._track_started = track_started

    async def complete(
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
        async with self.pipeline() as pipe:
            return pipe.complete(
                prompt,
                job_id=job_id,
                priority=priority,
                expires_s=expires_s,
                tenant=tenant,
                **arguments,
            )

    async def send_email(
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
        async with self.pipeline() as pipe:
            return pipe.send_email(
                job_id=job_id, priority=priority, expires_s=expires_s, tenant=tenant, **arguments
            )

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Pipeline]:
        """Collect jobs, and enqueue them in one round trip when the block ends: all or none.

        If the block raises, nothing is enqueued.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        pipe = Pipeline(track_started=self._track_started)
        yield pipe
        with redis_errors():
            async with self._broker.pipeline(transaction=True) as commands:
                now: Any = await self._pool.time() if pipe.needs_time else (0, 0)
                for push in pipe.pushes(now):
                    commands.lpush(*push)
                await commands.execute()

    async def status(self, job: str, *, place: bool = False) -> Status:
        """Return the state of a job, and why it waits or how it ended.

        Args:
            job: The job's id.
            place: Also ask a worker which place a waiting job has, and when it may start.

        Raises:
            ResultTimeout: No worker answered in time.
            Unavailable: Redis cannot be reached.
        """
        with redis_errors():
            stored: Any = await self._results.get(self._names.result(job))
        status = status_of(stored)
        if not place or status.state != "waiting":
            return status
        answer = await self._ask("tasks.admin.place", {"id": job}, PLACE_TIMEOUT_S)
        return status.with_place(answer) if answer["place"] else await self.status(job)

    @overload
    async def result(self, job: JobId[ResultT], *, timeout_s: float | None = 60) -> ResultT: ...

    @overload
    async def result(self, job: str, *, timeout_s: float | None = 60) -> Any: ...

    async def result(self, job: str, *, timeout_s: float | None = 60) -> Any:
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
        try:
            async with asyncio.timeout(timeout_s_of(timeout_s)):
                status = await self._endings.wait(job_of(job))
        except TimeoutError:
            status = await self.status(job)
            if not status.is_ended:
                raise ResultTimeout(job, status, timeout_s or 0) from None
        return outcome_of(job, status)

    async def stream(
        self, job: str, *, after: str = "0", timeout_s: float | None = 60
    ) -> AsyncIterator[StreamEvent]:
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
                reply = await self._pool.xread(
                    {name: reader.after}, count=500, block=reader.block_ms
                )
            for event in reader.events(reply):
                yield event
            if reader.is_silent:
                reader.note(await self.status(job))

    async def cancel(self, job: str) -> bool:
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
            if (await self.status(job)).is_ended:
                return False
        with redis_errors():
            async with self._pool.pipeline(transaction=False) as commands:
                commands.set(self._names.cancel(job), "1", ex=CANCEL_KEPT_S)
                commands.publish(self._names.cancel_channel, job)
                await commands.execute()
        return True

    async def key_status(self, *, timeout_s: float = 30) -> dict[str, ServiceStatus]:
        """Ask a worker for the state of each API key.

        Args:
            timeout_s: How long to wait for a worker, in seconds.

        Returns:
            For each service, its keys and a summary of them.

        Raises:
            ResultTimeout: No worker answered in time.
            Unavailable: Redis cannot be reached.
        """
        statuses: dict[str, ServiceStatus] = await self._ask(
            "tasks.admin.key_status", {}, timeout_s
        )
        return statuses

    async def reset_keys(
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
        done: ResetDone = await self._ask("tasks.admin.reset_keys", arguments, timeout_s)
        return done

    async def quote(
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
        return Quote.of(await self._ask("tasks.admin.quote", question, timeout_s))

    async def _ask(self, task: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        async with self.pipeline() as pipe:
            job = pipe.ask(task, arguments)
        return await self.result(job, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        await self._endings.close()
        for client in self._clients:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
