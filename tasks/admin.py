"""Tasks by which operators query and control the workers."""

import time
from typing import Any

from worker import deadletters
from worker.arguments.admin import (
    CancelArguments,
    ListArguments,
    NoArguments,
    PlaceArguments,
    QuoteArguments,
    ReplayArguments,
    ResetArguments,
)
from worker.arguments.base import check
from worker.cancellations import cancel_jobs
from worker.celery import app
from worker.errors import InvalidArguments
from worker.keypool import resets
from worker.keypool.published_margins import published_margins
from worker.logs import log_keys_reset
from worker.quotes.place import place_of
from worker.quotes.quote import QuoteRequest, quote_of
from worker.runtime import Runtime


@app.task(bind=True, name="tasks.admin.key_status")
async def key_status(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG001 - bound like the others
    """Return each key's state, reason, time left and use, by service."""
    if args or kwargs:
        check(NoArguments, (), kwargs)
        raise InvalidArguments("this task takes no arguments")
    return {service: view.as_json() for service, view in (await Runtime.current().view()).items()}


@app.task(bind=True, name="tasks.admin.reset_keys")
async def reset_keys(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Bring resting and refused keys back.

    Args:
        self: The task.
        *args: `service` may be passed without its name.
        **kwargs: `service` (`groq`, `resend`; default both), `key` (a key's id, of that service),
            `include_disabled` (whether to bring back keys that a person disabled, too; default
            False), `by` (a name, for the audit trail).

    Returns:
        By service: the number of cleared blocks (`reset`), these blocks (`brought_back`), and the
        keys that stay out because a person disabled them (`left_disabled`).

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
    """
    if len(args) == 1 and "service" not in kwargs:
        arguments = check(ResetArguments, (), kwargs | {"service": args[0]})
    else:
        arguments = check(ResetArguments, args, kwargs)
    if arguments.key and not arguments.service:
        raise InvalidArguments("service: is required with key")
    done = {}
    for service, pool in Runtime.current().pools.items():
        if arguments.service not in {None, service}:
            continue
        try:
            done[service] = await pool.reset(
                by=_by(self, arguments.by),
                key_id=arguments.key,
                include_disabled=arguments.include_disabled,
            )
        except KeyError:
            raise InvalidArguments(f"key: no {service} key has this id") from None
        log_keys_reset(service)
    return resets.as_json(done)


def _by(task: Any, given: str | None) -> str:
    """Return the actor for the audit trail.

    It always begins with the task, so that a job cannot pretend to be a person who logged in.
    """
    return f"task {task.request.id}" + (f" for {given}" if given else "")


@app.task(bind=True, name="tasks.admin.cancel")
async def cancel(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Cancel jobs for good: no worker makes another call for them.

    Args:
        self: The task.
        *args: `id` may be passed without its name.
        **kwargs: `id` (a job's id, or a list of up to 1,000), `by` (a name, for the audit trail).

    Returns:
        `jobs`, by id: `cancelled`; `running` (the call in flight is not interrupted, and no other
        call follows); `perhaps_running` (the broker does not answer); or the state of a job that
        had ended.

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
    """
    if len(args) == 1 and "id" not in kwargs:
        arguments = check(CancelArguments, (), kwargs | {"id": args[0]})
    else:
        arguments = check(CancelArguments, args, kwargs)
    ids = [arguments.id] if isinstance(arguments.id, str) else arguments.id
    done = await cancel_jobs(
        app,
        Runtime.current().cancellations,
        list(dict.fromkeys(ids)),
        by=_by(self, arguments.by),
    )
    return {"jobs": done}


@app.task(bind=True, name="tasks.admin.place")
async def place(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG001 - bound like the others
    """Return a job's place in its queue, and when it is expected to start.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `id`: the job's id.

    Returns:
        `place`, `waiting`, `expected_start`, `limited_by`; see `worker.quotes.place`.

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
    """
    return await place_of(app, check(PlaceArguments, args, kwargs).id)


@app.task(bind=True, name="tasks.admin.quote")
async def quote(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG001 - bound like the others
    """Estimate when jobs would start and end if they were enqueued now. Nothing is reserved.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `service` (`groq`, `resend`), `model` (default: the first model of the settings),
            `jobs` (their number, default 1), `tokens` (tokens of each job, of prompt and answer
            together; default: the average of earlier calls).

    Returns:
        The fields of `worker.quotes.quote.Quote`.

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
    """
    arguments = check(QuoteArguments, args, kwargs)
    runtime = Runtime.current()
    pool = runtime.pools[arguments.service]
    waiting = await runtime.count_waiting(arguments.service)
    margins = await published_margins(runtime.redis, pool.names)
    return quote_of(
        QuoteRequest(arguments.service, arguments.model, arguments.jobs, arguments.tokens),
        await pool.snapshot(),  # read last, because the instants count from it
        waiting=waiting,
        models=runtime.settings.models.get(arguments.service, ()),
        margins=margins,
    ).as_json()


@app.task(bind=True, name="tasks.admin.dead_letters")
async def dead_letters(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG001 - bound like the others
    """List the jobs that ended for good without success, the latest first, without arguments.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `service` (`groq`, `resend`, `other`), `task` (a task's name), `kind` (`failed`,
            `expired`, `unknown`, `timeout`, `poison`), `before` (milliseconds since 1970; for the
            next page, the `at_ms` of the last dead letter), `limit` (default 50).

    Returns:
        `dead_letters`, and the number of all dead letters (`total`, `by_service`).

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
    """
    arguments = check(ListArguments, args, kwargs)
    store = Runtime.current().dead_letters
    found = await store.find(arguments.filter(), limit=arguments.limit)
    return (await store.counts()).as_json() | {
        "dead_letters": [letter.as_json() for letter in found]
    }


@app.task(bind=True, name="tasks.admin.replay")
async def replay(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Run the jobs of dead letters again, with the same ids and arguments.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `id` (of one job; with `before`, only if the job ended before that instant), or
            the filter of `dead_letters` with `limit` (default 1000); `force` (also replay emails
            that may have been sent, which may then arrive twice), `by` (a name, for the audit
            trail).

    Returns:
        `replayed` (ids of the jobs), and `refused` (`id` and `reason` of the others).

    Raises:
        InvalidArguments: An argument is wrong, or there is no dead letter of this job, or only a
            newer one.
    """
    arguments = check(ReplayArguments, args, kwargs)
    store = Runtime.current().dead_letters
    if arguments.id is None:
        letters = await store.find(arguments.filter(), limit=arguments.limit)
    else:
        try:
            letters = [(await store.get(arguments.id))[0]]
        except KeyError:
            raise InvalidArguments("id: there is no dead letter of this job") from None
        if arguments.before is not None and letters[0].at_ms >= arguments.before:
            raise InvalidArguments(
                "before: the job has died again since, and has a newer dead letter: look at that "
                "one first"
            )
    done = await deadletters.replay(
        store,
        letters,
        app=app,
        by=_by(self, arguments.by),
        now_ms=round(time.time() * 1000),
        force=arguments.force,
    )
    return done.as_json()
