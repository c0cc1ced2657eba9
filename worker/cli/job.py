"""`celery -A worker job ID…`: show the state of jobs, and why a job waits and until when."""

import asyncio
import json
from typing import Any

import click
from celery import states
from redis.asyncio import Redis

from worker.cli.output import OutputCommand
from worker.cli.plain_text import JobId, plain
from worker.cli.session import run
from worker.foreign_results import meta_of

_WAITS = ("kind", "code", "next_try", "expected_end")


@click.command(name="job", cls=OutputCommand)
@click.argument("ids", nargs=-1, required=True, type=JobId())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, by id.")
@click.pass_context
def job(ctx: click.Context, ids: tuple[str, ...], *, as_json: bool) -> None:
    """Show the state of the jobs with these IDS.

    For a job that waits, the command says why and until when; for one that failed, it names the
    error. It never shows a result, a prompt or an email.
    """

    async def look_up(_: Redis) -> dict[str, dict[str, Any]]:
        app = ctx.obj.app
        return await asyncio.to_thread(
            lambda: {task_id: _as_json(meta_of(app, task_id)) for task_id in ids}
        )

    jobs = run(look_up, missing="{}")
    if as_json:
        click.echo(json.dumps(jobs, indent=2))
        return
    for task_id, values in jobs.items():
        click.echo(f"{task_id}: {plain(_sentence(values))}")


def _as_json(meta: dict[str, Any]) -> dict[str, Any]:
    state = str(meta.get("status"))
    waits, result = meta.get("waits"), meta.get("result")
    values: dict[str, Any] = {"state": state}
    if state == states.RETRY and isinstance(waits, dict):
        values["waits"] = {
            name: None if waits.get(name) is None else str(waits[name]) for name in _WAITS
        }
    if meta.get("unreadable"):
        values["unreadable"] = True
    if state != states.SUCCESS and isinstance(result, BaseException):
        values |= {"error": type(result).__name__, "reason": str(result)}
    return values


def _sentence(values: dict[str, Any]) -> str:
    state, waits = values["state"], values.get("waits")
    if waits:
        wait = "waits for a key" if waits["kind"] == "key" else "waits for another try"
        ends = f"; expected to end at {waits['expected_end']}" if waits["expected_end"] else ""
        return f"{state}, {wait} ({waits['code']}); next try at {waits['next_try']}{ends}"
    if values.get("unreadable"):
        return (
            f"{state}: its record in the result store cannot be read, because another program or "
            "another serializer wrote it; the job replaces the record when it ends"
        )
    if state == states.PENDING:
        return "PENDING: the job waits in its queue, or no job has this id"
    return f"{state}, {values['error']}: {values['reason']}" if "error" in values else state
