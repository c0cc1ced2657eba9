"""`celery -A worker job ID…`: what became of jobs, and why one waits and until when."""

import asyncio
import json
from typing import Any

import click
from celery import states
from redis.asyncio import Redis

from worker.cli.session import run

_SHOWN = ("kind", "code", "next_try")


@click.command(name="job")
@click.argument("ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, by id.")
@click.pass_context
def job(ctx: click.Context, ids: tuple[str, ...], *, as_json: bool) -> None:
    """Show the state of the jobs with these IDS.

    Of one that waits why and until when, of one that failed its error.

    Shows no result, prompt or email.
    """

    async def ask(_: Redis) -> dict[str, dict[str, Any]]:
        backend = ctx.obj.app.backend
        return await asyncio.to_thread(
            lambda: {one: _told(backend.get_task_meta(one)) for one in ids}
        )

    found = run(ask, missing="{}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for task_id, told in found.items():
        click.echo(f"{task_id}: {_sentence(told)}")


def _told(meta: dict[str, Any]) -> dict[str, Any]:
    state = str(meta.get("status"))
    waits, why = meta.get("waits"), meta.get("result")
    told: dict[str, Any] = {"state": state}
    if state == states.RETRY and isinstance(waits, dict):
        told |= {"waits": {name: str(waits.get(name, "")) for name in _SHOWN}}
    if state != states.SUCCESS and isinstance(why, BaseException):
        told |= {"error": type(why).__name__, "reason": str(why)}
    return told


def _sentence(told: dict[str, Any]) -> str:
    waits = told.get("waits")
    if waits:
        what = "waits for a key" if waits["kind"] == "key" else "waits for another try"
        return f"{told['state']}, {what} ({waits['code']}); next try at {waits['next_try']}"
    if told["state"] == states.PENDING:
        return "PENDING: it waits in its queue, or nobody knows it"
    return (
        f"{told['state']}, {told['error']}: {told['reason']}"
        if "error" in told
        else str(told["state"])
    )
