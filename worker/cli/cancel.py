"""`celery -A worker cancel ID…`: cancel jobs, whether a worker runs or not."""

import click
from redis.asyncio import Redis

from config.settings import get_settings
from worker.cancellations import Cancellations, cancel_jobs
from worker.cli.session import run

_WORDS = {
    "cancelled": "cancelled",
    "running": (
        "cancelled while it runs: a call that is under way is not cut, and no other one follows"
    ),
}


@click.command(name="cancel")
@click.argument("ids", nargs=-1, required=True)
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[str, ...]) -> None:
    """Cancel the jobs with these IDS, for good: no worker calls a provider for them any more."""

    async def ask(redis: Redis) -> dict[str, str]:
        cancellations = Cancellations(redis, namespace=get_settings().namespace)
        return await cancel_jobs(ctx.obj.app, cancellations, list(dict.fromkeys(ids)))

    for task_id, outcome in run(ask, missing="{}").items():
        click.echo(f"{task_id}: {_WORDS.get(outcome, f'had ended as {outcome}')}")
