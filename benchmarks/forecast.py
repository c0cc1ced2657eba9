"""Measures how accurate forecasts and quotes are: `python -m benchmarks.forecast`.

It simulates days of work in seconds, without Redis or workers: accounts with limits, jobs of
random sizes in bursts, and keys that are lost and come back. It prints

- for a backlog: when it is forecast to be empty, when it is empty, and what limits it;
- the share of jobs that ended by the instant quoted for them;
- the same share if the margin is learned as Flower learns it: every five seconds, from a job that
  has just come.

It exits with 1 if a forecast is wrong by more than 10 %, or if fewer than 88 or more than 92 of 100
quotes are kept; the last table is not judged.
"""

import argparse
import heapq
import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.forecast_world import TICK_S, Account, World, chance_of, size_of
from worker.dashboard.quote_margins import QuoteMargins
from worker.dashboard.state import QueueView
from worker.keypool.forecast import WORKERS, CallCost, Forecast
from worker.keypool.margins import SHARE, QuoteBook

HOUR_S: Final = 3_600
RIGHT, KEPT = 0.1, 0.02
"""The allowed error of a forecast, and that of the share of kept quotes."""
LONG_S = 10.0
QUOTED = 0.02
"""The share of the jobs of a burst that get a quote."""


def backlog(
    world: World, jobs: int, *, tokens: float, workers_limit: bool, chance: random.Random
) -> tuple[float, float, str]:
    """Forecast when a backlog is empty, and simulate when it is.

    Returns:
        The forecast and the outcome, in seconds, and the limit that the forecast names.
    """
    world.waiting.extend(size_of(tokens, chance) for _ in range(jobs))
    forecast = Forecast(
        world.view(),
        CallCost("m", tokens=tokens),
        workers_per_s=world.workers_per_s if workers_limit else None,
    )
    estimate = forecast.call(jobs)
    began_s = world.now_s
    while world.waiting:
        world.tick(chance)
    return estimate.in_s or 0.0, world.now_s - began_s, estimate.limited_by


def empty(console: Console, seed: int) -> bool:
    """Print when backlogs are empty; returns whether all forecasts are right within 10 %."""
    table = Table("backlog", "forecast s", "outcome s", "error", "limited by")
    right = True
    rests = Account(300)
    rests.lost_until_s = 120.0
    for name, world, jobs, limit in (
        (
            "3 keys of 300 a minute, 5,000 jobs",
            World([Account(300) for _ in range(3)]),
            5_000,
            "rpm",
        ),
        ("unequal keys", World([Account(600), Account(150), Account(30)]), 5_000, "rpm"),
        ("short of tokens", World([Account(300, 20_000) for _ in range(3)]), 2_000, "tpm"),
        ("one key short of tokens", World([Account(300, 9_000), Account(300)]), 3_000, "tpm"),
        ("one key rests for 2 minutes", World([Account(300), rests]), 2_000, "rpm"),
        ("slow workers", World([Account(3_000) for _ in range(3)], 20.0), 5_000, WORKERS),
        ("slow workers, few jobs", World([Account(300) for _ in range(3)], 4.0), 500, WORKERS),
    ):
        forecast_s, took_s, limited_by = backlog(
            world, jobs, tokens=200, workers_limit=limit == WORKERS, chance=chance_of(seed)
        )
        error = forecast_s / took_s - 1
        right &= abs(error) <= RIGHT and limited_by == limit
        table.add_row(name, f"{forecast_s:.0f}", f"{took_s:.0f}", f"{error:+.1%}", limited_by)
    console.print(table)
    return right


@dataclass(frozen=True)
class QuoteLoad:
    """The random events in a run of quotes.

    Attributes:
        burst_jobs: The largest number of jobs in a burst.
        bursts_per_h: The number of bursts an hour.
        share: The jobs that come one by one, as a share of what the keys allow.
        losses_per_h: How often an hour a key is lost, for ten minutes at most.
        known: Whether it is known when a lost key comes back.
        call_s: The minimum duration of half of the calls.
    """

    name: str
    burst_jobs: int
    bursts_per_h: float
    share: float
    losses_per_h: float = 0.0
    known: bool = True
    call_s: float = 0.37


LOADS = (
    QuoteLoad("steady", 0, 0, 0.7),
    QuoteLoad("bursts", 1_500, 6, 0.5),
    QuoteLoad("bursts, keys lost until a known time", 1_500, 6, 0.5, losses_per_h=3),
    QuoteLoad("bursts, keys lost until a reset", 1_500, 6, 0.4, losses_per_h=3, known=False),
)

SLOW_CALLS = (
    QuoteLoad("steady, slow calls", 0, 0, 0.5, call_s=3),
    QuoteLoad("rare jobs, slow calls", 0, 0, 0.03, call_s=3),
    QuoteLoad("bursts, slow calls", 1_500, 6, 0.5, call_s=3),
)


@dataclass
class Tally:
    """The outcomes of quotes.

    Attributes:
        kept: The number of kept quotes, by whether the forecast wait was long.
        made: The number of all quotes, by whether the forecast wait was long.
        over: For each quote: the quoted wait plus 1 s, divided by the actual wait plus 1 s.
    """

    kept: Counter[bool] = field(default_factory=Counter)
    made: Counter[bool] = field(default_factory=Counter)
    over: list[float] = field(default_factory=list)

    def share(self, *kinds: bool) -> float:
        """The share that was kept."""
        return sum(self.kept[kind] for kind in kinds) / max(
            1, sum(self.made[kind] for kind in kinds)
        )


class Flower:
    """Polls a world once a second, and learns the margin as Flower does."""

    def __init__(self, world: World) -> None:
        self._world, self._polled_s = world, 0.0
        self.margins = QuoteMargins(now_s=lambda: world.now_s)
        """The margins that it has learned."""

    def poll(self) -> None:
        """Take a sample if one is due."""
        world = self._world
        if world.now_s < self._polled_s + 1:
            return
        self._polled_s = world.now_s
        view = world.view()
        first, *others = (replace(key, accepted=1, tokens=200) for key in view.keys)
        keys = (replace(first, in_flight=len(world.running)), *others)
        self.margins.add(
            replace(view, keys=keys),
            QueueView("ai", ready=len(world.waiting)),
            model="m",
            ended=len(world.ends),
        )


def tally(load: QuoteLoad, *, hours: float, chance: random.Random, margins: bool = False) -> Tally:
    """Quote for jobs of a long run.

    Args:
        load: The random events.
        hours: The length of the run.
        chance: The random numbers.
        margins: Learn as Flower does, instead of from the quotes themselves.
    """
    accounts = [Account(300, 60_000) for _ in range(3)]
    world = World(accounts, known=load.known, call_s=load.call_s)
    flower = Flower(world) if margins else None
    book, per_s, tokens = QuoteBook(), 3 * 300 / 60, 200.0
    # For each quote: the job's number, when it was quoted, its end by the quote, whether its wait
    # is long.
    quotes: list[tuple[int, float, float, bool]] = []
    result = Tally()
    while world.now_s < hours * HOUR_S:
        coming = _count(load.share * per_s * TICK_S, chance)
        if chance.random() < load.bursts_per_h / HOUR_S * TICK_S:
            coming += chance.randint(load.burst_jobs // 5, load.burst_jobs)
        if chance.random() < load.losses_per_h / HOUR_S * TICK_S:
            chance.choice(world.accounts).lost_until_s = world.now_s + chance.uniform(20, 600)
        quoted = chance.randrange(coming) if coming else 0
        for number in range(coming):
            world.waiting.append(size_of(tokens, chance))
            if number == quoted or chance.random() < QUOTED:
                place = len(world.waiting) + len(world.running)
                estimate = Forecast(world.view(), CallCost("m", tokens=tokens)).call(
                    len(world.waiting)
                )
                forecast_s = estimate.in_s or 0.0
                by_s = (
                    flower.margins.of("groq").within_s(forecast_s)
                    if flower
                    else book.quote(
                        world.now_s, ended=len(world.ends), place=place, forecast_s=forecast_s
                    )
                )
                is_long = forecast_s > LONG_S
                quote = len(world.ends) + place, world.now_s, world.now_s + by_s, is_long
                heapq.heappush(quotes, quote)
        world.tick(chance)
        if flower:
            flower.poll()
        else:
            book.observe(world.now_s, ended=len(world.ends))
        while quotes and quotes[0][0] <= len(world.ends):
            number, at_s, by_s, is_long = heapq.heappop(quotes)
            end_s = world.ends[number - 1]
            result.made[is_long] += 1
            result.kept[is_long] += end_s <= by_s
            result.over.append((by_s - at_s + 1) / (end_s - at_s + 1))
    return result


def _count(mean: float, chance: random.Random) -> int:
    """Draw a number of arrivals whose mean is `mean`."""
    count, left = 0, chance.expovariate(1.0)
    while left < mean:
        count, left = count + 1, left + chance.expovariate(1.0)
    return count


def quotes(console: Console, *, hours: float, seed: int, margins: bool = False) -> bool:
    """Print how many quotes are kept; return whether it is 90 of 100, give or take two.

    Args:
        console: Where the table is printed.
        hours: The length of each run.
        seed: The seed of the random numbers.
        margins: Learn as Flower does, and try slow calls, too.
    """
    name = "quotes of Flower" if margins else "quotes"
    table = Table(name, "kept", "of", "kept of long waits", "of", "quote ÷ wait, median")
    right = True
    for load in (*LOADS, *SLOW_CALLS) if margins else LOADS:
        result = tally(load, hours=hours, chance=chance_of(seed), margins=margins)
        right &= abs(result.share(True, False) - SHARE) <= KEPT
        table.add_row(
            load.name,
            f"{result.share(True, False):.1%}",
            f"{result.made.total():,}",
            f"{result.share(True):.1%}",
            f"{result.made[True]:,}",
            f"{sorted(result.over)[len(result.over) // 2]:.2f}",
        )
    console.print(table)
    return right


def main() -> int:
    """Parse the command line, simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=12, help="simulated hours (default: 12)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers")
    args = parser.parse_args()
    console = Console()
    right = empty(console, args.seed)
    right &= quotes(console, hours=args.hours, seed=args.seed)
    quotes(console, hours=args.hours, seed=args.seed, margins=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
