"""Runs a worker with fixed values that no setting can change: `python -m tests.tuned worker …`."""

import json
import os
import runpy
import sys
from collections.abc import Mapping

from config import current
from config.settings import Settings, settings_from

VARIABLE = "TUNED"


def tuned(**fixed: float) -> dict[str, str]:
    """The environment of a worker with other fixed values, such as `max_wait_s=0.5`."""
    return {VARIABLE: json.dumps(fixed)}


def tuned_settings(environ: Mapping[str, str]) -> Settings:
    return settings_from(environ).model_copy(update=json.loads(os.environ[VARIABLE]))


if __name__ == "__main__":
    current.settings_from = tuned_settings
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
