"""`celery -A worker dead …`: list, show, replay and drop dead letters."""

import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from config.current import get_settings
from worker.cli import dead_listing
from worker.cli.moment import Moment
from worker.cli.output import OutputGroup
from worker.cli.plain_text import utc
from worker.cli.session import current_user, run
from worker.deadletters.dead_letter import KINDS, OWNERS, DeadLetter, Message
from worker.deadletters.replay import Replayed, objection, replay
from worker.deadletters.store import DeadLetters, Filter

ResultT = TypeVar("ResultT")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_MAX_FOUND = 1_000_000
_CHUNK = 500
_REFUSALS_SHOWN = 10


@click.group(name="dead", cls=OutputGroup)
def dead() -> None:
    """Show, replay and drop dead letters: jobs that ended for good without success.

    A dead letter says why a job failed, which keys were tried and what the provider answered, and
    holds the arguments for a replay. Its kind is one of: failed, expired (too late), unknown (an
    email that may have been sent), timeout, poison (a message that cannot be run, or a job that
    killed workers).
    """


def _filters(command: CommandT) -> CommandT:
    for option in (
        click.option(
            "--before", type=Moment(), help="Only jobs that ended before this moment (UTC)."
        ),
        click.option(
            "--search", help="Only dead letters with this text in their id, task, reason or calls."
        ),
        click.option("--kind", type=click.Choice(KINDS), help="Only dead letters of this kind."),
        click.option("--task", help="Only dead letters of this task, such as tasks.email.send."),
        click.option(
            "--service", type=click.Choice(OWNERS), help="Only dead letters of this service."
        ),
    ):
        command = option(command)
    return command


@dead.command(name="list")
@_filters
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many to list at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(*, limit: int, as_json: bool, **which: Any) -> None:
    """List dead letters, the latest first, without their arguments."""

    async def read(store: DeadLetters) -> tuple[list[DeadLetter], dict[str, Any]]:
        return await store.find(_filter(**which), limit=limit), (await store.counts()).as_json()

    letters, counts = _run(read)
    if as_json:
        click.echo(
            json.dumps(
                counts | {"dead_letters": [letter.as_json() for letter in letters]}, indent=2
            )
        )
        return
    if letters:
        Console(markup=False, emoji=False, highlight=False).print(dead_listing.listing(letters))
    total = counts["total"]
    click.echo(
        f"{len(letters)} shown of {total} dead letter{'s' * (total != 1)}, "
        f"{counts['bytes'] / 1e6:.1f} MB"
    )


@dead.command()
@click.argument("job")
@click.option(
    "--arguments", is_flag=True, help="Show the arguments too: prompts, addresses, mail bodies."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def show(*, job: str, arguments: bool, as_json: bool) -> None:
    """Show one dead letter.

    JOB is the id of the job. The dead letter has the job's latest calls.
    """
    letter, message = _run(lambda store: store.get(job))
    content = _content(message)
    if as_json:
        click.echo(
            json.dumps(letter.as_json() | ({"arguments": content} if arguments else {}), indent=2)
        )
        return
    for name, value in _facts_of(letter).items():
        click.echo(f"{name:<8}{value}")
    if letter.attempts:
        _print(_calls_of(letter))
    if arguments:
        # JSON may hold lone surrogates, which a terminal cannot show.
        click.echo(
            json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "replace").decode()
        )
    elif letter.size:
        click.echo(f"{letter.size:,} bytes of arguments are kept; --arguments shows them")


def _facts_of(letter: DeadLetter) -> dict[str, str]:
    return {
        "job": letter.id,
        "task": f"{letter.task} (queue {letter.queue or 'unknown'})",
        "ended": f"{utc(letter.at_ms)} UTC, {letter.kind}",
        "reason": letter.reason,
        "began": f"{utc(letter.since_ms)} UTC" if letter.since_ms else "never",
        "tries": f"{letter.calls} calls, {letter.faults} failures of the provider, "
        f"{letter.deferrals} deferrals",
        "worker": letter.worker or "unknown",
        "replay": objection(letter, now_ms=_now_ms(), force=False) or "possible",
    }


def _calls_of(letter: DeadLetter) -> Table:
    table = Table("when (UTC)", "key", "answer", "may have been carried out")
    for call in letter.attempts:
        table.add_row(
            utc(call["at_ms"]),
            call["key"],
            call["code"],
            "yes" if call.get("in_doubt") else "",
        )
    return table


@dead.command(name="replay")
@click.argument("jobs", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option(
    "--force",
    is_flag=True,
    help="Replay emails that may have been sent long ago, too: they may arrive twice.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.pass_context
def replay_(
    ctx: click.Context,
    /,
    *,
    jobs: tuple[str, ...],
    everything: bool,
    force: bool,
    yes: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Run the jobs of dead letters again.

    JOBS are ids of jobs; without any, the options select the dead letters. With JOBS and --before,
    nothing is replayed if one of the jobs has a newer dead letter, which you may not have seen.

    A job keeps its id, so its caller can still read the result. An email keeps its idempotency key,
    so it is not sent twice. The job's deadline and retries start again.
    """
    letters = _chosen(jobs, everything=everything, **which)
    if not jobs:
        _confirm(f"Run {_count(letters)} again?", letters, yes=yes)

    async def work(store: DeadLetters, progress: Callable[[int], None]) -> Replayed:
        return await replay(
            store,
            letters,
            app=ctx.obj.app,
            by=f"cli {current_user()}",
            now_ms=_now_ms(),
            force=force,
            progress=progress,
        )

    done = _with_progress("replaying", letters, work)
    if as_json:
        click.echo(json.dumps(done.as_json(), indent=2))
    else:
        click.echo(f"{len(done.sent)} of {_count(letters)} sent again")
        for job, reason in done.refused[:_REFUSALS_SHOWN]:
            click.echo(f"{job} is not sent again: {reason}", err=True)
        if len(done.refused) > _REFUSALS_SHOWN:
            click.echo(
                f"… and {len(done.refused) - _REFUSALS_SHOWN} more (--json lists them)", err=True
            )
    if done.refused and not done.sent:
        raise SystemExit(1)


@dead.command()
@click.argument("jobs", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(*, jobs: tuple[str, ...], everything: bool, yes: bool, **which: Any) -> None:
    """Delete dead letters for good.

    JOBS are ids of jobs; without any, the options select the dead letters. With JOBS and --before,
    nothing is deleted if one of the jobs has a newer dead letter, which you may not have seen.
    """
    letters = _chosen(jobs, everything=everything, **which)
    if not jobs:
        _confirm(f"Delete {_count(letters)} for good?", letters, yes=yes)

    async def work(store: DeadLetters, progress: Callable[[int], None]) -> int:
        gone = 0
        for first in range(0, len(letters), _CHUNK):
            gone += await store.delete(letters[first : first + _CHUNK], by=f"cli {current_user()}")
            progress(min(first + _CHUNK, len(letters)))
        return gone

    click.echo(f"{_with_progress('dropping', letters, work)} dropped")


def _chosen(jobs: Sequence[str], *, everything: bool, **which: Any) -> list[DeadLetter]:
    """Find the dead letters that a command line selects.

    Raises:
        click.UsageError: The command line selects nothing, or selects in two ways at once.
        click.ClickException: A job has a dead letter from after the moment of `--before`.
    """
    before_ms = which.pop("before") if jobs else None
    named = any(value is not None for value in which.values())
    if bool(jobs) + named + everything != 1:
        raise click.UsageError("name the jobs: by ids, by options such as --kind, or by --all")

    async def find(store: DeadLetters) -> list[DeadLetter]:
        if jobs:
            letters = [(await store.get(job))[0] for job in dict.fromkeys(jobs)]
            _refuse_newer(letters, before_ms)
            return letters
        return await store.find(_filter(**which), limit=_MAX_FOUND)

    return _run(find)


def _refuse_newer(letters: Sequence[DeadLetter], before_ms: int | None) -> None:
    for letter in letters:
        if before_ms is not None and letter.at_ms >= before_ms:
            raise click.ClickException(
                f"the job {letter.id} ended at {utc(letter.at_ms)} UTC, not before "
                f"{utc(before_ms)} UTC: it has died again, so look at `dead show` first"
            )


def _filter(
    service: str | None = None,
    task: str | None = None,
    kind: str | None = None,
    before: int | None = None,
    search: str | None = None,
) -> Filter:
    return Filter(service=service, task=task, kind=kind, before_ms=before, search=search)


def _confirm(question: str, letters: Sequence[DeadLetter], *, yes: bool) -> None:
    if not letters:
        click.echo("there is no such dead letter")
        raise SystemExit(0)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} This is not a terminal, so add --yes")
    click.confirm(question, abort=True)


def _with_progress(
    verb: str,
    letters: Sequence[DeadLetter],
    work: Callable[[DeadLetters, Callable[[int], None]], Awaitable[ResultT]],
) -> ResultT:
    unseen = not sys.stderr.isatty()
    with click.progressbar(length=len(letters), label=verb, file=sys.stderr, hidden=unseen) as bar:
        return _run(lambda store: work(store, lambda done: bar.update(done - bar.pos)))


def _run(command: Callable[[DeadLetters], Awaitable[ResultT]]) -> ResultT:
    return run(
        lambda redis: command(DeadLetters.of(redis, get_settings())),
        missing="the job {} has no dead letter; `dead list` lists them",
    )


def _content(message: Message | None) -> Any:
    if message is None:
        return None
    if message.raw is not None:
        return {"raw": message.raw}
    return {"args": message.args, "kwargs": message.kwargs, "options": message.options}


def _count(letters: Sequence[DeadLetter]) -> str:
    return f"{len(letters)} job{'s' * (len(letters) != 1)}"


def _print(table: Table) -> None:
    # Strangers may have written the texts in the table, so none of them is read as markup.
    Console(markup=False, emoji=False, highlight=False).print(table)


def _now_ms() -> int:
    return round(time.time() * 1000)
