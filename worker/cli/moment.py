"""Reads an instant on a command line, in each form in which our own output shows instants."""

import re
from datetime import UTC, datetime
from typing import Any, Final

import click

_MILLISECONDS_RE: Final = re.compile(r"[0-9]{12,14}")


class Moment(click.ParamType):  # type: ignore[type-arg]
    """An instant, converted to milliseconds since 1970.

    It is given as a date, as a date with a time, or as milliseconds since 1970. A time without an
    offset is in UTC.
    """

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Take the instant, or end the command with a sentence."""
        text = str(value).strip()
        if _MILLISECONDS_RE.fullmatch(text):
            return int(text)
        try:
            at = datetime.fromisoformat(text.removesuffix(" UTC"))
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(
                "give a date such as 2026-01-31, perhaps with a time, or milliseconds since 1970",
                param,
                ctx,
            )
