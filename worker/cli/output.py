"""The base classes of our commands, which report a failure of their output in one sentence."""

import errno
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, Final

import click
from celery import Celery

from worker.startup.patience import shorten_waits

_NOT_TAKEN: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""The errors of a full disk, a used-up quota, a file at its size limit and a closed terminal."""


class OutputCommand(click.Command):
    """A command that ends with a sentence if its output cannot be written.

    It escapes characters that the encoding of its output lacks: Latin-1 has no emoji, and texts of
    other people may contain half a character. It does not wait long for a Redis that hangs.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            click.ClickException: Its output could not be written.
        """
        if os.environ.get("COLUMNS", "").strip() == "0":
            del os.environ["COLUMNS"]  # with a width of 0, rich would write nothing at all
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if isinstance(app := getattr(ctx.obj, "app", None), Celery):
            shorten_waits(app)
        try:
            return super().invoke(ctx)
        except OSError as exc:
            if exc.errno not in _NOT_TAKEN:
                raise
            _drop_output()
            raise click.ClickException(
                f"the output cannot be written: {exc.strerror}. The command itself may have worked"
            ) from exc


class OutputGroup(OutputCommand, click.Group):
    """A group of commands with the same behaviour."""


def _drop_output() -> None:
    """Throw away the rest of the buffer, which Python would try to write when it exits."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
