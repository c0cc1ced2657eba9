"""Serves the JSON endpoints for single jobs; `docs/openapi.yaml` describes them."""

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from config.current import get_settings
from worker.attempts import Attempt
from worker.cancellations import Cancellations, cancel_jobs
from worker.dashboard.errors import ApiError, BadRequest, RedisUnreachable
from worker.dashboard.handlers import AdminHandler, ChangeHandler
from worker.dashboard.job_start import JobStart, start_of
from worker.dashboard.job_view import JobView, look_up
from worker.dashboard.poller import Pools
from worker.dashboard.request_body import RequestBody
from worker.deadletters import DeadLetter, DeadLetters
from worker.foreign_results import STORE_ERRORS
from worker.jobs.task_service import service_of
from worker.quotes.place import Place, find_place

_JOB_RE = re.compile(r"[!-~]{1,200}")


def check_job_id(job: str) -> None:
    """Reject an id that no job can have.

    Raises:
        ApiError: 404.
    """
    if not _JOB_RE.fullmatch(job):
        raise ApiError(
            404,
            "unknown_job",
            "The id of a job must have 1 to 200 visible ASCII characters.",
        )


class Job(AdminHandler):
    """`GET /api/admin/jobs/ID`: where a job is, what it waits for, and its calls."""

    async def get(self, job: str) -> None:
        """Send what is known of the job.

        An unknown id is not an error: it may belong to a job that no worker has had yet.
        """
        check_job_id(job)
        seen = self.application.events.state.tasks.get(job)
        try:
            view = await asyncio.to_thread(look_up, self.application.capp, job, seen)
        except STORE_ERRORS as exc:
            raise RedisUnreachable(f"Redis does not answer ({type(exc).__name__})") from exc

        letter = await self._find_letter(job)
        place = await self._find_place(job) if _may_be_in_queue(view) else None
        if letter is not None:
            view = replace(
                view,
                task=view.task or letter.task,
                worker=view.worker or letter.worker,
                error=letter.reason,
                calls=tuple(dict(call) for call in letter.attempts),
            )
        elif place is not None:
            calls = tuple(call.as_json() for call in place.trail)
            view = replace(view, where="queue", task=place.task, calls=calls)
        elif view.where in {"running", "ended"}:
            view = replace(view, calls=await self.with_pools(lambda pools: _calls_in(pools, job)))
        start = await self._start_of(view, place)
        dead_letter = letter.kind if letter else None
        now = {"now_ms": round(time.time() * 1000)}
        self.send_json(view.as_json() | start.as_json() | now | {"dead_letter": dead_letter})

    async def _find_letter(self, job: str) -> DeadLetter | None:
        async def find(store: DeadLetters) -> DeadLetter | None:
            try:
                return (await store.get(job))[0]
            except KeyError:
                return None

        return await self.poller.with_dead_letters(find)

    async def _find_place(self, job: str) -> Place | None:
        async def find(broker: Redis) -> Place | None:
            return await find_place(self.application.capp, job, broker)

        return await self.poller.with_broker(find)

    async def _start_of(self, view: JobView, place: Place | None) -> JobStart:
        """Forecast when a job that waits in its queue or in a worker will be served."""
        service = service_of(view.task, self.application.capp)
        state = self.poller.state
        number, model = (place.number, place.model) if place else (None, "")
        if service is None or state is None or view.where not in {"queue", "worker"}:
            return JobStart(number)
        models = get_settings().models.get(service.name, ())

        async def quote(_: Pools) -> JobStart:  # on the thread that owns the margins
            return start_of(
                state.services[service.name],
                self.poller.margins.of(service.name),
                place=number,
                model=model or next(iter(models), ""),
                is_fetched=view.where == "worker",
            )

        return await self.with_pools(quote)


def _may_be_in_queue(view: JobView) -> bool:
    """Return whether to look for a job in its queue; a deferred job may be back when it is due."""
    due_ms = view.waits.next_try_ms if view.waits else None
    is_due = due_ms is not None and due_ms <= time.time() * 1000
    return view.where == "queue" or (view.where == "deferred" and is_due)


async def _calls_in(pools: Pools, job: str) -> tuple[dict[str, Any], ...]:
    """Return the calls of a job that are among the latest calls of their keys."""
    found = [pair for pool in pools.values() for pair in await pool.calls_of_job(job)]
    return tuple(Attempt(call.at_ms, key.label, call.code).as_json() for key, call in found)


class Cancel(ChangeHandler):
    """`POST /api/admin/jobs/ID/cancel`: cancel one job for good."""

    async def post(self, job: str) -> None:
        """Cancel the job, and report whether it is running or has already ended."""
        if self.body() != RequestBody():
            raise BadRequest("The body must be empty: the address already names the job.")
        check_job_id(job)
        capp, namespace = self.application.capp, get_settings().namespace
        by = f"flower {self.admin}"
        outcomes = await self.poller.with_redis(
            lambda redis: cancel_jobs(capp, Cancellations(redis, namespace=namespace), [job], by=by)
        )
        self.send_json({"job": job, "outcome": outcomes[job], "by": self.admin})
