"""Ends a start that cannot go on, with a sentence in the format of the logs."""

import logging
import os
from collections.abc import Mapping

from config.environment import read_environment
from config.errors import SettingsError
from worker.logs import say_json

_logger = logging.getLogger(__name__)


def logs_json() -> bool:
    """Whether the logs must be JSON. This also works if the settings cannot be read."""
    try:
        environ: Mapping[str, str] = read_environment()
    except SettingsError:  # .env cannot be read; `get_settings` reports it
        environ = os.environ
    return environ.get("KEYWHEEL_LOG_FORMAT", "").strip().lower() == "json"


def no_start(why: object) -> SystemExit:
    """Make the error that ends the start with a sentence; if the logs are JSON, also log it.

    The sentence also goes to the log file, if there is one: a worker in the background has no other
    output.
    """
    text = f"keywheel cannot start.\n{why}"
    if any(isinstance(handler, logging.FileHandler) for handler in logging.getLogger().handlers):
        _logger.critical(text)
    if not logs_json():
        return SystemExit(text)
    say_json(text, level="CRITICAL", logger="worker.celery")
    return SystemExit(1)
