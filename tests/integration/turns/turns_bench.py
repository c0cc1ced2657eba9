"""A task of a real Celery app, and a rotation whose outcomes the test sets."""

import json
from datetime import UTC, datetime
from typing import Any

import redis
from celery import Celery

from config.settings import Settings
from worker.jobs.execution import run_job
from worker.jobs.history import HEADER
from worker.jobs.outages import NO_OUTAGES, Outages
from worker.keypool import LeaseRequest
from worker.rotation.served import Served

CANARY = "canary-prompt-5f1c"


class ScriptedRotation:
    """Ends the turn as the test scripts it, and keeps the lease requests."""

    def __init__(self, outcome: Served | Exception) -> None:
        self.outcome = outcome
        self.lease_request: LeaseRequest | None = None
        self.longest_s: float | None = None

    async def serve(
        self,
        lease_request: LeaseRequest,
        build: Any,  # noqa: ARG002
        *,
        longest_s: float | None = None,
    ) -> Served:
        self.lease_request, self.longest_s = lease_request, longest_s
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Bench:
    """A task of a real Celery app, called with a request as a worker makes it."""

    def __init__(self, url: str, *, transport: str = "redis") -> None:
        self.app = Celery("bench", broker=url, backend=None, set_as_current=False)
        self.app.conf.broker_transport = transport
        self.app.conf.broker_transport_options = {"delayed_queues": ["ai.deferred"]}
        self.app.conf.task_routes = {"bench.*": {"queue": "bench"}}
        self.client = redis.Redis.from_url(url)

        @self.app.task(bind=True, name="bench.job", shared=False)
        def job(self: Any, **kwargs: Any) -> None:
            """A job of which only the request is used."""

        self.task = job

    async def turn(
        self,
        outcome: Served | Exception,
        *,
        header: Any = None,
        retries: int = 0,
        direct: bool = False,
        own_deadline_s: float | None = None,
        emails: int = 0,
        queue: str = "bench",
        priority: int = 0,
        expires: str | None = None,
        outages: Outages = NO_OUTAGES,
        **settings: Any,
    ) -> Any:
        self.rotation = ScriptedRotation(outcome)
        headers = {"trace": "kept", "tenant": "acme"} | (
            {HEADER: header} if header is not None else {}
        )
        self.task.push_request(
            id="job-1",
            task="bench.job",
            args=(),
            kwargs={"prompt": CANARY},
            retries=retries,
            headers=headers,
            called_directly=direct,
            is_eager=False,
            delivery_info=None  # as in Celery for a call without a message
            if direct
            else {"exchange": "", "routing_key": queue, "priority": priority},
            correlation_id="job-1",
            expires=expires,
        )
        try:
            return await run_job(
                self.task,
                self.rotation,
                LeaseRequest(model="m", emails=emails),
                lambda key: key,
                settings=Settings(**settings),  # type: ignore[arg-type]
                deadline_s=own_deadline_s,
                outages=outages,
            )
        finally:
            self.waits = getattr(self.task.request, "waits", None)
            self.task.pop_request()

    def sent(self, queue: str = "bench") -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.client.lrange(queue, 0, -1)]

    def close(self) -> None:
        self.client.close()
        self.app.close()


def history_of(message: dict[str, Any]) -> dict[str, Any]:
    history: dict[str, Any] = message["headers"][HEADER]
    return history


def eta_s(message: dict[str, Any]) -> float:
    eta = datetime.fromisoformat(message["headers"]["eta"])
    return (eta - datetime.now(UTC)).total_seconds()
