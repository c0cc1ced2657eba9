"""Makes `celery -A worker flower` ours wherever it is started: our page, our address, our login.

Flower reads a configuration file of the working directory. Where it finds none it shows its own
page to the whole network.
"""

import sys
from typing import Any

from config.settings import Settings

_MOST_TASKS = 10_000


def install(settings: Settings) -> None:
    """Set Flower's options by our settings, and have its command build our application.

    Only where Celery's command line runs, which has loaded Flower's command then; no worker loads
    our dashboard for it. What stands on the command line, or in a `flowerconfig.py`, comes later
    and wins.

    Args:
        settings: Address, port and login.
    """
    command: Any = sys.modules.get("flower.command")
    if command is None:
        return
    command.Flower = _our_flower
    options = command.options
    options.address = settings.flower_address
    options.port = settings.flower_port
    options.max_tasks = _MOST_TASKS
    if settings.flower_basic_auth is not None:
        pairs = settings.flower_basic_auth.get_secret_value().split(",")
        options.basic_auth = [pair.strip() for pair in pairs]


def _our_flower(**options: Any) -> Any:
    from worker.dashboard import KeysFlower  # noqa: PLC0415 - see above

    return KeysFlower(**options)
