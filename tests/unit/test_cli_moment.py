"""Instants on a command line."""

import click
import pytest

from worker.cli.moment import Moment

NOON_MS = 1_769_860_800_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00Z",  # as in `keys usage --csv`
        "2026-01-31T12:00:00.000000+00:00",  # as in `job --json`
        "2026-01-31T13:00:00+01:00",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00",  # as in the tables
        "2026-01-31 12:00:00 UTC",  # as in `dead show` and `keys audit`
        "1769860800000",  # as in `dead list --json`
    ],
)
def test_each_form_in_which_our_output_has_an_instant_is_taken(text: str) -> None:
    assert Moment().convert(text, None, None) == NOON_MS


def test_a_date_is_its_first_instant() -> None:
    assert Moment().convert("2026-01-31", None, None) == NOON_MS - 12 * 3_600_000


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "1769860800", "-1", "2026-01"])
def test_another_form_of_an_instant_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 2026-01-31"):
        Moment().convert(text, None, None)
