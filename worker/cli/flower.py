"""Gives `celery -A worker flower` our page, our address and our login, in any folder.

Flower reads a configuration file in the working directory. Without one, it would listen on all
addresses, without a login and without our page.
"""

import sys
from typing import Any

from config.settings import Settings

_MAX_TASKS = 10_000


def install(settings: Settings) -> None:
    """Set Flower's options from our settings, and have its command build our application.

    This has an effect only in Celery's command line, which has loaded Flower's command by then; a
    worker does not load our dashboard. Options on the command line, or in a `flowerconfig.py`, come
    later and take precedence.

    Args:
        settings: The settings, with address, port and login.
    """
    command: Any = sys.modules.get("flower.command")
    if command is None:
        return
    command.Flower = _our_flower
    options = command.options
    options.address = settings.flower_address
    options.port = settings.flower_port
    options.max_tasks = _MAX_TASKS
    if settings.flower_basic_auth is not None:
        pairs = settings.flower_basic_auth.get_secret_value().split(",")
        options.basic_auth = [pair.strip() for pair in pairs]


def _our_flower(**options: Any) -> Any:
    from worker.dashboard import KeysFlower  # noqa: PLC0415 - see above

    return KeysFlower(**options)
