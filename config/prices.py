"""Computes the cost of calls from the prices in a file beside `.env`.

Prices change, and accounts have individual prices, so no prices are built in.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from config.environment import read_text_of
from config.errors import SettingsError
from config.services import SERVICES

FILE: Final = "keywheel-prices.toml"
"""The name of the file in the working directory."""

_MILLION = 1_000_000
_FIELDS = ("prompt", "cached", "output")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The prices of a model, in USD for a million tokens.

    Attributes:
        prompt: The price of tokens of the prompt that were not cached.
        cached: The price of tokens of the prompt that were cached.
        output: The price of tokens of the answer.
    """

    prompt: float
    cached: float
    output: float


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of the file.

    Attributes:
        models: The price of each model, by service and model.
        emails: The price of an email, by service, in USD for each recipient.
    """

    models: Mapping[tuple[str, str], ModelPrice] = field(default_factory=dict)
    emails: Mapping[str, float] = field(default_factory=dict)

    def cost_usd(
        self, service: str, model: str, *, prompt: int, cached: int, output: int, emails: int
    ) -> float | None:
        """Return the cost of tokens or emails, in USD; None if the file has no price for them.

        Args:
            service: The service's name.
            model: The model. A model with a service tier, such as `m (flex)`, has the price of `m`
                unless the file has a price for that tier.
            prompt: The number of tokens of prompts, including cached ones.
            cached: The number of tokens of prompts that were cached.
            output: The number of tokens of answers.
            emails: The number of recipients.
        """
        cost_usd = 0.0
        if prompt or output:
            price = self.models.get((service, model)) or self.models.get(
                (service, model.partition(" (")[0])
            )
            if price is None:
                return None
            cost_usd += price.prompt * (prompt - cached) + price.cached * cached
            cost_usd = (cost_usd + price.output * output) / _MILLION
        if emails:
            if service not in self.emails:
                return None
            cost_usd += self.emails[service] * emails
        return cost_usd


def read_prices(path: Path | None = None) -> Prices | None:
    """Read the file with the prices.

    Args:
        path: The file. Default: `FILE` in the working directory.

    Returns:
        The prices; None if there is no such file.

    Raises:
        SettingsError: The file cannot be read. The sentences say what to change.
    """
    path = path or Path(FILE)
    text = read_text_of(path)
    if text is None:
        return None
    tables = _tables_in(text, path.name)
    models: dict[tuple[str, str], ModelPrice] = {}
    emails: dict[str, float] = {}
    problems: list[str] = []
    for service, table in tables.items():
        if service not in SERVICES or not isinstance(table, dict):
            problems.append(
                f"{service}: is not a table of a service; name one of [{'], ['.join(SERVICES)}]."
            )
            continue
        if "email" in table:
            emails[service] = _usd(table.pop("email"), f"[{service}] email", problems)
        for name, value in table.items():
            models[service, name] = _model_price(value, f'[{service}."{name}"]', problems)
    if problems:
        raise SettingsError([f"{path.name}: {problem}" for problem in problems])
    return Prices(models, emails)


def _tables_in(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError([f"{name} cannot be read as TOML: {exc}."]) from None


def _model_price(value: Any, name: str, problems: list[str]) -> ModelPrice:
    if not isinstance(value, dict) or not {"prompt", "output"} <= value.keys() <= {*_FIELDS}:
        problems.append(
            f"{name} must have prompt and output, and may have cached: USD for a million tokens."
        )
        return ModelPrice(0.0, 0.0, 0.0)
    prices = {field: _usd(price, f"{name} {field}", problems) for field, price in value.items()}
    return ModelPrice(**({"cached": prices["prompt"]} | prices))


def _usd(value: Any, name: str, problems: list[str]) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= 0:
        return float(value)
    problems.append(f"{name} must be a number of USD, 0 or more.")
    return 0.0
