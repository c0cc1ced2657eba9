"""Runs a job of a service: serves it, or sends it back to its queue with the right countdown."""

from typing import Protocol, TypeVar

from celery import Task
from celery.exceptions import SoftTimeLimitExceeded

from config.settings import Settings
from worker.cancellations import stamped
from worker.errors import Deferred, TransientError
from worker.jobs.history import History
from worker.jobs.job_run import JobRun
from worker.jobs.outages import NO_OUTAGES, Outages
from worker.jobs.ownership import Ownership
from worker.keypool import LeaseRequest
from worker.rotation.served import Served

OrderT = TypeVar("OrderT")
OrderT_contra = TypeVar("OrderT_contra", contravariant=True)


class Serving(Protocol[OrderT_contra]):
    """Serves jobs: the rotation of a service, or the email sender."""

    async def serve(
        self,
        lease_request: LeaseRequest,
        order: OrderT_contra,
        /,
        *,
        longest_s: float | None = None,
    ) -> Served:
        """Carry out the order, or raise the error that ends the run.

        Args:
            lease_request: The requirements of each call for a key.
            order: The request to carry out.
            longest_s: The longest wait for keys, in seconds.
        """
        ...


async def run_job(
    task: Task,
    rotation: Serving[OrderT],
    lease_request: LeaseRequest,
    order: OrderT,
    *,
    settings: Settings,
    deadline_s: float | None = None,
    ownership: Ownership | None = None,
    outages: Outages = NO_OUTAGES,
) -> tuple[Served, History]:
    """Serve a job now, or send it back to its queue to run again later.

    Args:
        task: The bound task, for its request.
        rotation: Serves the job: the rotation of the service, or the email sender.
        lease_request: The job's requirements for a key.
        order: A function that makes the request for the chosen key, or an email.
        settings: The settings for deadline, retries and waits.
        deadline_s: How long the job may take from its first run on, in seconds; None or 0: as
            long as the settings allow.
        ownership: Checks whether this worker still has the job; None: this is not checked.
        outages: Counts the jobs that wait for the end of an outage.

    Returns:
        The provider's answer, and the job's history with this run in it.

    Raises:
        celery.exceptions.Retry: The job was sent back to its queue.
        JobError: The job fails for good.
    """
    run = JobRun(
        task, settings=settings, deadline_s=deadline_s, ownership=ownership, outages=outages
    )
    run.end_if_too_late(may_be_done=lease_request.emails > 0)
    with stamped(task.request):
        try:
            served = await rotation.serve(
                run.of_this_job(lease_request), order, longest_s=run.longest_wait_s
            )
        except (Deferred, TransientError) as over:
            await run.reschedule(over)
        except SoftTimeLimitExceeded:
            late = TransientError("the run took longer than KEYWHEEL_TASK_TIME_LIMIT_S allows")
            late.in_doubt = lease_request.emails > 0  # the call may have been in flight
            await run.reschedule(late)
    return served, run.after(served)
