"""Runs our commands in this process, or several of Celery's in one other process.

The start of a process takes a second.
"""

import contextlib
import json
import subprocess
from pathlib import Path

from click.testing import CliRunner

from config.current import get_settings
from tests.processes import run_python
from worker.cli.keys import keys


def run_keys(
    folder: Path, environ: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run `celery -A worker keys …` to its end; `reload` needs Celery's own command line."""
    get_settings.cache_clear()
    with contextlib.chdir(folder):
        result = CliRunner(env={**environ, "COLUMNS": "220"}).invoke(keys, arguments)
    get_settings.cache_clear()
    if result.exc_info and not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


_LINES = """
import json, sys
from celery.bin.celery import celery
from click.testing import CliRunner
for line in json.loads(sys.argv[1]):
    done = CliRunner().invoke(celery, ["-A", "worker", *line.split()], auto_envvar_prefix="CELERY")
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    print(json.dumps([line, done.exit_code, done.stdout, done.stderr]))
"""


def run_lines(
    folder: Path, environ: dict[str, str], *lines: str
) -> "dict[str, subprocess.CompletedProcess[str]]":
    """Run `celery -A worker …` for each line in one process, one after the other."""
    result = run_python(folder, environ, "-c", _LINES, json.dumps(lines))
    assert result.returncode == 0, result.stderr
    results = [json.loads(line) for line in result.stdout.splitlines()]
    return {
        line: subprocess.CompletedProcess(line.split(), code, stdout, stderr + result.stderr)
        for line, code, stdout, stderr in results
    }
