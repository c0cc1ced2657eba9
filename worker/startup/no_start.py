"""How a start ends that cannot go on: with a sentence, in the form of the logs."""

import logging
import os
from collections.abc import Mapping

from config.environment import read_environment
from config.errors import SettingsError
from worker.logs import say_json

_logger = logging.getLogger(__name__)


def logs_json() -> bool:
    """Whether the logs are to be JSON: known before the settings are, which may be wrong."""
    try:
        environ: Mapping[str, str] = read_environment()
    except SettingsError:  # .env cannot be read, which the settings report
        environ = os.environ
    return environ.get("KEYWHEEL_LOG_FORMAT", "").strip().lower() == "json"


def no_start(why: object) -> SystemExit:
    """End the start with a sentence, which is a line of JSON where the logs are.

    It goes into the file of the logs as well, if there is one: a worker in the background has
    nothing else.
    """
    text = f"keywheel cannot start.\n{why}"
    if any(isinstance(handler, logging.FileHandler) for handler in logging.getLogger().handlers):
        _logger.critical(text)
    if not logs_json():
        return SystemExit(text)
    say_json(text, level="CRITICAL", logger="worker.celery")
    return SystemExit(1)
