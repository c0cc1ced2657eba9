"""`celery -A worker cancel ID…`: cancel jobs, also while no worker runs."""

import click
from redis.asyncio import Redis

from config.current import get_settings
from worker.cancellations import Cancellations, cancel_jobs
from worker.cli.output import OutputCommand
from worker.cli.plain_text import JobId
from worker.cli.session import current_user, run

_WORDS = {
    "cancelled": "cancelled",
    "running": (
        "cancelled while it runs: a call in flight is not interrupted, and no further call is made"
    ),
    "perhaps_running": (
        "cancelled; the broker does not answer, so it is not known whether a worker runs it now: "
        "a call in flight is not interrupted, and no further call is made"
    ),
}


@click.command(name="cancel", cls=OutputCommand)
@click.argument("ids", nargs=-1, required=True, type=JobId())
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[str, ...]) -> None:
    """Cancel the jobs with these IDS for good: no worker calls a provider for them any more."""

    async def cancel_all(redis: Redis) -> dict[str, str]:
        cancellations = Cancellations(redis, namespace=get_settings().namespace)
        by = f"cli {current_user()}"
        return await cancel_jobs(ctx.obj.app, cancellations, list(dict.fromkeys(ids)), by=by)

    for task_id, outcome in run(cancel_all, missing="{}").items():
        click.echo(f"{task_id}: {_WORDS.get(outcome, f'had ended as {outcome}')}")
