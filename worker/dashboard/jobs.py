"""The JSON endpoints for single jobs; `docs/openapi.yaml` describes them."""

import asyncio
import re
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.current import get_settings
from worker.cancellations import Cancellations, cancel_jobs
from worker.dashboard.errors import ApiError
from worker.dashboard.handlers import AdminHandler, ChangeHandler, redis_unreachable
from worker.dashboard.job_view import JobView, look_up
from worker.dashboard.poller import RedisUnreachable
from worker.dashboard.request_body import RequestBody
from worker.deadletters import DeadLetter, DeadLetters
from worker.jobs.services import service_of

_JOB_RE = re.compile(r"[!-~]{1,200}")


def check_job_id(job: str) -> None:
    """Refuse an address that names no job.

    Raises:
        ApiError: 404.
    """
    if not _JOB_RE.fullmatch(job):
        raise ApiError(404, "unknown_job", "No job has such an id.")


class Job(AdminHandler):
    """`GET /api/admin/jobs/ID`: where a job is, what it waits for, and its calls."""

    async def get(self, job: str) -> None:
        """Send what is known of the job; nobody knows whether one exists that no worker has had."""
        check_job_id(job)
        seen = self.application.events.state.tasks.get(job)
        try:
            view = await asyncio.to_thread(look_up, self.application.capp, job, seen)
        except (RedisError, OperationalError, OSError) as exc:
            reason = f"Redis does not answer ({type(exc).__name__})"
            raise redis_unreachable(RedisUnreachable(reason)) from exc

        async def find(store: DeadLetters) -> DeadLetter | None:
            try:
                return (await store.get(job))[0]
            except KeyError:
                return None

        letter = await self.with_dead_letters(find)
        told = view.as_json()
        if letter is not None:
            told |= {
                "task": told["task"] or letter.task,
                "worker": told["worker"] or letter.worker,
                "error": letter.reason,
                "calls": [dict(call) for call in letter.attempts],
            }
        self.send_json(
            told
            | {
                "dead_letter": letter.kind if letter else None,
                "queue_empty_in_s": self._queue_empty_in_s(view),
            }
        )

    def _queue_empty_in_s(self, view: JobView) -> float | None:
        """How long the jobs before one that waits in its queue take, as far as that is known."""
        state, service = self.poller.state, service_of(view.task, self.application.capp)
        if view.where not in {"queue", "worker"} or state is None or service is None:
            return None
        drain_s: Any = state.services[service.name].drain_s
        return None if drain_s is None else round(drain_s, 1)


class Cancel(ChangeHandler):
    """`POST /api/admin/jobs/ID/cancel`: cancel one job for good."""

    async def post(self, job: str) -> None:
        """Cancel the job, and say whether it is running or has already ended."""
        if self.body() != RequestBody():
            raise ApiError(400, "bad_request", "The address names the job; send an empty body.")
        check_job_id(job)
        capp, namespace = self.application.capp, get_settings().namespace
        try:
            outcomes = await self.poller.with_redis(
                lambda redis: cancel_jobs(capp, Cancellations(redis, namespace=namespace), [job])
            )
        except RedisUnreachable as exc:
            raise redis_unreachable(exc) from exc
        self.send_json({"job": job, "outcome": outcomes[job], "by": self.admin})
