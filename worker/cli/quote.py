"""`celery -A worker quote SERVICE`: when jobs would start and end if they were enqueued now."""

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from celery import Celery
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.current import get_settings
from config.services import SERVICES
from worker.aio.redis_retry import safe_message
from worker.arguments.admin import MOST_QUOTED
from worker.cli.output import OutputCommand
from worker.cli.session import run
from worker.key_pools import pools_for_tools
from worker.keypool.forecast import NO_KEY, PAUSED
from worker.keypool.published_keys import published_keys
from worker.keypool.published_margins import published_margins

if TYPE_CHECKING:
    from worker.quotes.quote import Quote

_COUNT = click.IntRange(1, MOST_QUOTED)


@click.command(name="quote", cls=OutputCommand)
@click.argument("service", type=click.Choice(list(SERVICES)))
@click.option("--jobs", type=_COUNT, default=1, show_default=True, help="How many jobs.")
@click.option("--model", help="The model of the jobs; default: the first one in the settings.")
@click.option(
    "--tokens",
    type=_COUNT,
    help="Tokens of each job, prompt and answer together; default: the average of past calls.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the quote as JSON.")
@click.pass_context
def quote(
    ctx: click.Context,
    service: str,
    jobs: int,
    model: str | None,
    tokens: int | None,
    *,
    as_json: bool,
) -> None:
    """Say when jobs of SERVICE would start and end if they were enqueued now.

    Nothing is enqueued or reserved. While no worker runs, the quote says when the keys would allow
    the jobs. If this environment has no keys, the quote uses the keys of the workers.
    """
    wanted = {"model": model or None, "jobs": jobs, "tokens": tokens}
    made, workers = run(lambda redis: _make(ctx.obj.app, redis, service, wanted), missing="{}")
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        click.echo(sentences_of(made, workers=workers))


async def _make(
    app: Celery, redis: Redis, service: str, wanted: dict[str, Any]
) -> "tuple[Quote, int]":
    """Make a quote, and count the workers that answer."""
    # The other commands do not need these modules.
    from worker.dashboard.queues import QueueWatch  # noqa: PLC0415
    from worker.quotes.quote import QuoteRequest, quote_of  # noqa: PLC0415

    queue = SERVICES[service].queue
    try:
        queues = await asyncio.to_thread(QueueWatch(app, (queue,)).poll)
    except (RedisError, OSError) as exc:  # from the broker, which may not be the pool's Redis
        raise OperationalError(safe_message(exc)) from exc
    pool = pools_for_tools(redis, [service])[service]
    if not pool.keys:
        pool.replace_keys(await published_keys(redis, pool.names))
    made = quote_of(
        QuoteRequest(service, **wanted),
        await pool.snapshot(),
        waiting=queues[queue].waiting,
        models=get_settings().models.get(service, ()),
        margins=await published_margins(redis, pool.names),
    )
    return made, queues[queue].workers


def sentences_of(made: "Quote", *, workers: int) -> str:
    """Write a quote as sentences for people.

    Args:
        made: The quote.
        workers: How many workers answer.
    """
    jobs = f"{made.jobs:,} job{'s' if made.jobs > 1 else ''} of {made.service}"
    with_model = f" with {made.model}, {made.tokens:,} tokens each" if made.model else ""
    before = f"{made.waiting:,} wait{'s' if made.waiting == 1 else ''} before"
    lines = [f"{jobs}{with_model}; {before}"]
    if made.limited_by == NO_KEY:
        lines.append("no key can serve these jobs until a person brings a key back")
    elif made.limited_by == PAUSED and made.expected_start is None:
        lines.append(
            f"{made.service} is paused: the jobs start when a person resumes it "
            f"(`keys resume {made.service}`)"
        )
    else:
        start, start_by, end_by = map(_time, (made.expected_start, made.start_by, made.end_by))
        lines.append(f"the first starts {start}; in nine of ten cases {start_by}")
        lines.append(f"the last ends in nine of ten cases {end_by}")
        lines += [f"limited by {made.limited_by}"] if made.limited_by else []
    lines.append(
        f"the margin was learned from {made.learned_from:,} outcomes"
        if made.learned_from
        else "the margin is assumed, not learned"
    )
    if not workers:
        lines.append("no worker answers: no job starts before a worker runs")
    return "\n".join(lines)


def _time(instant: str | None) -> str:
    if instant is None:
        return "in more than a week"
    return datetime.fromisoformat(instant).astimezone(UTC).strftime("by %Y-%m-%d %H:%M:%S UTC")
