"""`celery -A worker keys usage`: show what the keys were used for, and the cost."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import click
from redis.asyncio import Redis
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from config.current import get_settings
from config.errors import SettingsError
from config.prices import read_prices
from config.services import SERVICES
from worker.cli.chosen_key import NAMES, NO_KEY, key_of
from worker.cli.plain_text import plain
from worker.cli.session import run
from worker.key_pools import pools_for_tools
from worker.keypool import KeyPool
from worker.usage import GROUPS, OTHERS, RANGES, STEPS, Row, UsageQuery, UsageReport, UsageStore

_ID_RE: Final = re.compile(r"[0-9a-f]{12}")
_COLUMNS: Final = {
    "calls": "calls",
    "429": "refused",
    "faults": "faults",
    "rejected": "rejected",
    "deferrals": "deferrals",
    "prompt": "prompt_tokens",
    "cached": "cached_tokens",
    "output": "output_tokens",
    "emails": "emails",
}


@click.command()
@click.option(
    "--range", "span", type=click.Choice(list(RANGES)), default="day", show_default=True,
    help="How far back from now.",
)  # fmt: skip
@click.option(
    "--step", type=click.Choice(list(STEPS)), help="The length of a row of --csv and --json."
)
@click.option(
    "--by", default="key", show_default=True, metavar="GROUP[,GROUP]",
    help=f"Group the usage by: {', '.join(GROUPS)}.",
)  # fmt: skip
@click.option("--service", type=click.Choice(list(SERVICES)), help="Only this service.")
@click.option("--key", help=f"Only this key: {NAMES}.")
@click.option("--model", help="Only this model.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one row for each step and group.")
@click.option("--json", "as_json", is_flag=True, help="Print these rows as JSON, with the totals.")
def usage(*, span: str, as_csv: bool, as_json: bool, **given: str | None) -> None:
    """Show what the keys were used for: calls, tokens, emails, waits and cost.

    Usage is kept by the minute for a day and by the hour for 90 days. The cost comes from the
    prices in keywheel-prices.toml in this folder.
    """
    if as_csv and as_json:
        raise click.UsageError("choose one of --csv and --json")
    values = {"range": span} | {name: value for name, value in given.items() if value}
    try:
        UsageQuery.of(values)
        prices = read_prices()
    except (ValueError, SettingsError) as exc:
        raise click.ClickException(str(exc)) from exc

    async def read(redis: Redis) -> tuple[UsageReport, dict[str, str]]:
        pools = pools_for_tools(redis).values()
        if values.get("key", OTHERS) != OTHERS:
            values["key"] = _id_of(values["key"], pools)
        store = UsageStore(redis, namespace=get_settings().namespace)
        report = await UsageReport.make(store, UsageQuery.of(values), prices)
        return report, {key.id: key.label for pool in pools for key in pool.keys}

    report, labels = run(read, missing=NO_KEY)
    if as_csv:
        click.echo(report.as_csv(labels), nl=False)
    elif as_json:
        click.echo(json.dumps(report.as_json(labels), indent=2))
    elif not report.totals:
        click.echo("nothing was used in this time")
    else:
        Console().print(listing(report, labels))
        if report.unpriced:
            click.echo(f"without a price: {plain(', '.join(report.unpriced))}")


def _id_of(text: str, pools: Iterable[KeyPool]) -> str:
    """Return the id of the key that a person names, or an id whose key is no longer configured.

    Raises:
        click.ClickException: Several keys fit.
        KeyError: No key fits.
    """
    try:
        return key_of(text, pools).id
    except KeyError:
        if _ID_RE.fullmatch(text):
            return text
        raise


def listing(report: UsageReport, labels: Mapping[str, str]) -> Table:
    """Lay out the totals in a table without empty columns, so that it fits most terminals."""
    lines = [_numbers(row) for row in report.totals]
    shown = [name for name in lines[0] if any(line[name] for line in lines)]
    by = (Column(name, overflow="fold") for name in report.query.by)
    counts = (Column(name, justify="right", no_wrap=True) for name in shown)
    table = Table(*by, *counts, box=None, pad_edge=False, collapse_padding=True)
    for row, line in zip(report.totals, lines, strict=True):
        table.add_row(*_names(report, row, labels), *map(line.get, shown))
    return table


def _names(report: UsageReport, row: Row, labels: Mapping[str, str]) -> Iterator[str]:
    for by, value in zip(report.query.by, row.group, strict=True):
        # Without its dots a label still identifies its key, and usually stays on one line.
        shown = labels.get(value, value).rstrip(".") if by == "key" else value
        yield escape(plain(shown or "–"))


def _numbers(row: Row) -> dict[str, str]:
    wait_s = row["waited_ms"] / 1000 / row["accepted"] if row["accepted"] else 0.0
    counts = {title: f"{row[name]:,}" if row[name] else "" for title, name in _COLUMNS.items()}
    return counts | {
        "wait": f"{wait_s:.1f} s" if row["accepted"] else "",
        "USD": "" if row.cost_usd is None else f"{row.cost_usd:.4f}",
    }
