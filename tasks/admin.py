"""What an operator can ask the workers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.arguments import Arguments, check
from worker.app import app
from worker.errors import InvalidArguments
from worker.logs import log_keys_reset
from worker.runtime import Runtime


class _Nothing(Arguments):
    """No argument."""


class _ResetArguments(Arguments):
    service: Literal["groq", "resend"] | None = None
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    by: Annotated[str, Field(min_length=1, max_length=100)] | None = None


@app.task(bind=True, name="tasks.admin.key_status")
async def key_status(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG001 - bound like the others
    """Tell each key's state, reason, time left and use, by service."""
    if args or kwargs:
        check(_Nothing, (), kwargs)
        raise InvalidArguments("this task takes no arguments")
    return {service: view.as_json() for service, view in (await Runtime.current().view()).items()}


@app.task(bind=True, name="tasks.admin.reset_keys")
async def reset_keys(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Bring resting and disabled keys back.

    Args:
        self: The task.
        *args: `service` may come without its name.
        **kwargs: `service` (`groq`, `resend`; default both), `key` (a key's id, of that service), `by` (who asks, for
            the audit trail).

    Returns:
        How many scopes had rested or been disabled, by service.

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
    """
    if len(args) == 1 and "service" not in kwargs:
        asked = check(_ResetArguments, (), kwargs | {"service": args[0]})
    else:
        asked = check(_ResetArguments, args, kwargs)
    if asked.key and not asked.service:
        raise InvalidArguments("service: is required with key")
    cleared = {}
    for service, pool in Runtime.current().pools.items():
        if asked.service not in {None, service}:
            continue
        try:
            cleared[service] = await pool.reset(by=asked.by or f"task {self.request.id}", key_id=asked.key)
        except KeyError:
            raise InvalidArguments(f"key: no {service} key has this id") from None
        log_keys_reset(service)
    return {"reset": cleared}
