"""Checks texts of a command line, and makes texts of strangers safe to show on a terminal."""

import re
from datetime import UTC, datetime
from typing import Any, Final

import click

_LONGEST: Final = 200
_JOB_ID: Final = re.compile(r"[!-~]{1,200}")


class PlainText(click.ParamType):  # type: ignore[type-arg]
    """A line of text without control characters, which could steer the terminal of a reader."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Take the text, or end the command with a sentence."""
        text = str(value)
        if not text.isprintable() or not 1 <= len(text) <= _LONGEST:
            self.fail(f"give one line of plain text, of 1 to {_LONGEST} characters", param, ctx)
        return text


class JobId(click.ParamType):  # type: ignore[type-arg]
    """The id of a job."""

    name = "id"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Take the id, or end the command with a sentence."""
        if not _JOB_ID.fullmatch(str(value)):
            self.fail("an id has 1 to 200 visible characters of ASCII", param, ctx)
        return str(value)


def utc(at_ms: int) -> str:
    """Write an instant, in milliseconds since 1970, as a UTC time without fractions of a second.

    An instant that has no date is written as its number.
    """
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"


def plain(text: str) -> str:
    """Make a text that a stranger may have written safe to show: one line of printable text."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
