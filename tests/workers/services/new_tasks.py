"""The tasks of a third service, as a newcomer would write them. The test copies this file."""

from typing import Any

from worker.celery import app
from worker.jobs.execution import run_job
from worker.keypool import LeaseRequest
from worker.runtime import Runtime

SERVICE = __name__.rpartition(".")[2]


@app.task(bind=True, name=f"tasks.{SERVICE}.say", service=SERVICE)
async def say(self: Any, *, text: str) -> dict[str, Any]:
    """Make the service echo a text, with any free key."""
    runtime = Runtime.current()
    served, _ = await run_job(
        self,
        runtime.senders[self.service],
        LeaseRequest(),
        lambda _: text,
        settings=runtime.settings,
        ownership=runtime.ownership,
        outages=runtime.outages,
    )
    return served.value | {"key": served.key, "attempts": served.attempts}
