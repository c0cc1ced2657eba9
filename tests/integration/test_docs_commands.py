"""Our command line accepts the command lines of the README and the docs."""

import re
import subprocess
import sys
from pathlib import Path

from tests.pages import INLINE_RE, PAGES, blocks, prose


def commands() -> list[str]:
    """Return every `celery -A worker …` of the pages, once each."""
    given = []
    for page in PAGES:
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
        for line in lines + INLINE_RE.findall(prose(page)):
            command = re.split(r"\s+#|\s*\|", line.strip())[0]
            if command.startswith("celery -A worker") and "…" not in command:
                given.append(command)
    return list(dict.fromkeys(given))


_PARSE = """
import sys, shlex, click
from celery.bin.base import CLIContext
from celery.bin.celery import celery
from worker.celery import app
for line in sys.stdin:
    arguments = shlex.split(line)[3:]
    made = CLIContext(app=app, no_color=True, workdir=None)
    context = click.Context(celery, info_name="celery", obj=made)
    command = celery
    try:
        while isinstance(command, click.Group):
            name = arguments.pop(0)
            command, group = command.get_command(context, name), command
            assert command is not None, f"no command {name}"
            if isinstance(command, click.Group):
                context = click.Context(command, info_name=name, parent=context)
        if "--help" not in arguments:
            command.make_context(name, arguments, parent=context)
        assert command.get_help(click.Context(command, info_name=name, parent=context))
    except (click.ClickException, AssertionError, IndexError) as exc:
        print(f"{line.strip()}: {getattr(exc, 'message', exc)}")
"""


def test_every_command_line_of_the_pages_parses_and_no_other(tmp_path: Path) -> None:
    valid = commands()
    assert len(valid) > 10
    wrong = [
        "celery -A worker keys polish",
        "celery -A worker keys status --loud",
        "celery -A worker wrkr",
    ]
    # In a separate process, because Flower's import and click's registry would affect other tests.
    parsed = subprocess.run(
        [sys.executable, "-c", _PARSE],
        input="\n".join(valid + wrong),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert parsed.returncode == 0, parsed.stderr
    assert [line.partition(":")[0] for line in parsed.stdout.splitlines()] == wrong, parsed.stdout
