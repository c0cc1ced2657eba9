"""Remote-control commands that every worker answers."""

from typing import Any

from celery.worker.control import control_command

from config.errors import SettingsError
from worker import queues
from worker.aio import lifespan
from worker.runtime import Runtime

_TIMEOUT_S = 10


@control_command()
def keys_reload(state: Any) -> dict[str, Any]:
    """Find the API keys again, in the environment and `.env`."""

    async def reload() -> dict[str, int]:
        return Runtime.current().reload_keys()

    try:
        found = lifespan.submit(reload()).result(timeout=_TIMEOUT_S)
    except SettingsError as exc:
        return {"error": str(exc)}
    state.consumer.call_soon(queues.follow, state.consumer, found)
    return {"ok": ", ".join(f"{count} {service}" for service, count in found.items())}
