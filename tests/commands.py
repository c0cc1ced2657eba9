"""Our commands in this process, which saves the start of one."""

import contextlib
import subprocess
from pathlib import Path

from click.testing import CliRunner

from config.current import get_settings
from worker.cli.keys import keys


def run_keys(
    folder: Path, environ: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run `celery -A worker keys …` to its end; `reload` needs Celery's own command line."""
    get_settings.cache_clear()
    with contextlib.chdir(folder):
        shown = CliRunner(env={**environ, "COLUMNS": "220"}).invoke(keys, arguments)
    get_settings.cache_clear()
    if shown.exc_info and not isinstance(shown.exception, SystemExit | None):
        raise shown.exception
    return subprocess.CompletedProcess(arguments, shown.exit_code, shown.stdout, shown.stderr)
