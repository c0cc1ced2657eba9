"""Asks each key, without cost, what it is good for.

Before a job finds out, and for limits that no job has to find.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from config.api_key import ApiKey
from config.services import SERVICES
from config.settings import Settings
from worker.keypool import KeyPool, Lease, LeaseRequest
from worker.providers.key_check import Checker, KeyCheck
from worker.providers.registry import client_of
from worker.verdicts import ASKED, Fate, Verdict

_logger = logging.getLogger(__name__)

_SPREAD_S = 2.0  # workers that start together do not ask together


@dataclass(frozen=True, slots=True)
class CheckedKey:
    """A key and what was found out about it.

    Attributes:
        service: The service's name.
        key: The key.
        account: Its account, as far as it is known.
        check: What the provider says.
        models: The configured models, and whether the key may use each; empty where nobody tells.
    """

    service: str
    key: ApiKey
    account: str
    check: KeyCheck
    models: Mapping[str, bool]

    def as_json(self) -> dict[str, Any]:
        """Everything but the secret, in JSON types."""
        return {
            "service": self.service,
            "key": self.key.label,
            "id": self.key.id,
            "account": self.account,
            "state": self.check.state,
            "detail": self.check.detail,
            "models": dict(self.models),
            "limits": {limit.dimension: limit.limit for limit in self.check.limits},
        }


@asynccontextmanager
async def opened_checkers(
    settings: Settings, *, timeout_s: float = 15.0
) -> AsyncIterator[dict[str, Checker]]:
    """Give who asks each service, for those who only look.

    Args:
        settings: Where the services are.
        timeout_s: How long one question may take, in seconds.
    """
    checkers: dict[str, Checker] = {
        service: client_of(service, settings, timeout_s=timeout_s) for service in SERVICES
    }
    try:
        yield checkers
    finally:
        for checker in checkers.values():
            await checker.close()


async def check_keys(
    pools: Mapping[str, KeyPool],
    checkers: Mapping[str, Checker],
    *,
    models: Mapping[str, Sequence[str]],
) -> list[CheckedKey]:
    """Ask about every key of these pools, all at once.

    Args:
        pools: By service.
        checkers: By service.
        models: The configured models, by service.
    """

    async def ask(service: str, pool: KeyPool, key: ApiKey) -> CheckedKey:
        found = await checkers[service].check(key.secret)
        wanted = models.get(service, ())
        may = {} if found.models is None else {model: model in found.models for model in wanted}
        return CheckedKey(service, key, pool.account_of(key), found, may)

    return await asyncio.gather(
        *(ask(service, pool, key) for service, pool in pools.items() for key in pool.keys)
    )


def problems_in(
    checked: Iterable[CheckedKey], *, models: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield a sentence for each thing that keeps a key, or all of them, from serving.

    Args:
        checked: What was found out.
        models: The configured models, by service.
    """
    found = list(checked)
    for one in found:
        if one.check.state == "dead":
            yield f"{one.service} key {one.key.label} is not accepted: {one.check.detail}"
        elif one.check.state == "unknown":
            yield f"{one.service} key {one.key.label} could not be checked: {one.check.detail}"
    for service, model in ((name, model) for name, several in models.items() for model in several):
        told = [one for one in found if one.service == service and model in one.models]
        lacking = [one.key.label for one in told if not one.models[model]]
        if told and len(lacking) == len(told):
            variable = f"{SERVICES[service].prefix}MODEL"
            yield f"no {service} key may use {model}: set {variable} to one of {_some_models(told)}"
        elif lacking:
            yield f"the model {model} is not to be had with {service} key {', '.join(lacking)}"


def _some_models(told: Iterable[CheckedKey]) -> str:
    names = sorted({name for one in told for name in one.check.models or ()})
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "") or "(none is listed)"  # noqa: PLR2004


class KeyChecks:
    """Checks the keys of a worker now and then, and tells the pools their limits.

    Args:
        pools: By service.
        checkers: By service. Not closed here.
        models: The configured models, by service.
        every_s: How often, in seconds; 0: never.
    """

    def __init__(
        self,
        pools: Mapping[str, KeyPool],
        checkers: Mapping[str, Checker],
        *,
        models: Mapping[str, Sequence[str]],
        every_s: float,
    ) -> None:
        self._pools = pools
        self._checkers = checkers
        self._models = models
        self._every_s = every_s
        self._told: set[str] = set()
        self._again = asyncio.Event()

    def again(self) -> None:
        """Ask soon: there are other keys."""
        self._again.set()

    async def run(self) -> None:
        """Ask for as long as the worker runs; returns at once where it never shall."""
        if not self._every_s:
            return
        await asyncio.sleep(random.uniform(0, _SPREAD_S))  # noqa: S311 - spreads a crowd
        while True:
            self._again.clear()
            await self.once()
            try:
                async with asyncio.timeout(self._every_s * random.uniform(0.9, 1.1)):  # noqa: S311 - the same
                    await self._again.wait()
            except TimeoutError:
                pass

    async def once(self) -> None:
        """Ask about every key; what is wrong is a warning, once for as long as it stays so."""
        checked = await check_keys(self._pools, self._checkers, models=self._models)
        problems = dict.fromkeys(problems_in(checked, models=self._models))
        for sentence in problems:
            if sentence not in self._told:
                _logger.warning(sentence)
        self._told = set(problems)
        for one in checked:
            await self._teach(one)

    async def _teach(self, one: CheckedKey) -> None:
        if not one.check.limits:
            return
        # A lease that never was ends here: of such a one the pool only learns.
        lease = Lease(
            secrets.token_hex(16), one.key, one.account, LeaseRequest(by="check of the keys"), 0
        )
        try:
            await self._pools[one.service].settle(
                lease, Verdict(Fate.DONE, ASKED, limits=one.check.limits)
            )
        except RedisError as exc:
            _logger.debug("what a key's check told could not be kept: %s", type(exc).__name__)
