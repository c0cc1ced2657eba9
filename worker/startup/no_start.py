"""How a start ends that cannot go on: with a sentence, in the form of the logs."""

import os
from collections.abc import Mapping

from config.environment import read_environment
from config.errors import SettingsError
from worker.logs import say_json


def logs_json() -> bool:
    """Whether the logs are to be JSON: known before the settings are, which may be wrong."""
    try:
        environ: Mapping[str, str] = read_environment()
    except SettingsError:  # .env cannot be read, which the settings report
        environ = os.environ
    return environ.get("KEYWHEEL_LOG_FORMAT", "").strip().lower() == "json"


def no_start(why: object) -> SystemExit:
    """End the start with a sentence, which is a line of JSON where the logs are."""
    text = f"keywheel cannot start.\n{why}"
    if not logs_json():
        return SystemExit(text)
    say_json(text, level="CRITICAL", logger="worker.celery")
    return SystemExit(1)
