"""What our commands share: whatever their output or Redis is, they end with a sentence."""

import errno
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, Final

import click
from celery import Celery

from worker.startup.patience import be_impatient

_NOT_TAKEN: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a full disk, a quota, a bound of a file and a terminal that is gone answer."""


class OutputCommand(click.Command):
    """A command that escapes what the encoding of its output lacks, and says when a disk is full.

    It does not wait long for a Redis that hangs.

    An encoding such as Latin-1 has no emoji, and what strangers wrote may hold half a character.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            click.ClickException: Its output could not be written.
        """
        if os.environ.get("COLUMNS", "").strip() == "0":
            del os.environ["COLUMNS"]  # a terminal of no size: rich would write nothing at all
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if isinstance(app := getattr(ctx.obj, "app", None), Celery):
            be_impatient(app)
        try:
            return super().invoke(ctx)
        except OSError as exc:
            if exc.errno not in _NOT_TAKEN:
                raise
            _drop_output()
            raise click.ClickException(
                f"the output cannot be written: {exc.strerror}. What the command does may be done"
            ) from exc


class OutputGroup(OutputCommand, click.Group):
    """A group of such commands."""


def _drop_output() -> None:
    """Throw away what is left in the buffer, which Python would try to write at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
