"""Asks the providers whether each key is valid, and for its models and limits, without cost.

So a bad key is known before a job uses it, and limits are known without a refused call.
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

_SPREAD_S = 2.0  # so that workers that start together do not ask at the same moment


@dataclass(frozen=True, slots=True)
class CheckedKey:
    """A key and the result of its check.

    Attributes:
        service: The service's name.
        key: The key.
        account: The key's account; the key's id if the account is not known.
        check: The provider's answer.
        models: The configured models, and whether the key may use each; empty if the provider
            does not say.
    """

    service: str
    key: ApiKey
    account: str
    check: KeyCheck
    models: Mapping[str, bool]

    def as_json(self) -> dict[str, Any]:
        """Return all fields except the secret, in JSON types."""
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
    """Open a checker for each service, and close them all at the end.

    Args:
        settings: The settings, with the URLs of the services.
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
    key_id: str | None = None,
) -> list[CheckedKey]:
    """Ask about every key of these pools, all at once.

    Args:
        pools: The pools, by service.
        checkers: The checkers, by service.
        models: The configured models, by service.
        key_id: Ask about this key only.

    Raises:
        KeyError: No pool has a key of that id.
    """

    async def ask(service: str, pool: KeyPool, key: ApiKey) -> CheckedKey:
        check = await checkers[service].check(key.secret)
        wanted = models.get(service, ())
        may = {} if check.models is None else {model: model in check.models for model in wanted}
        return CheckedKey(service, key, pool.account_of(key), check, may)

    wanted = [
        (service, pool, key)
        for service, pool in pools.items()
        for key in pool.keys
        if key_id in {None, key.id}
    ]
    if key_id is not None and not wanted:
        raise KeyError(key_id)
    return await asyncio.gather(*(ask(*question) for question in wanted))


def problems_in(
    checked: Iterable[CheckedKey], *, models: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield a sentence for each problem that keeps one key or all keys from serving.

    Args:
        checked: The checked keys.
        models: The configured models, by service.
    """
    results = list(checked)
    for result in results:
        key, check = f"{result.service} key {result.key.label}", result.check
        if check.state == "dead":
            yield f"{key} is not accepted: {check.detail}"
        elif check.state == "unknown":
            yield f"{key} could not be checked: {check.detail}"
    for service, names in models.items():
        of_service = [result for result in results if result.service == service]
        for model in names:
            yield from _problems_with(
                model, [result for result in of_service if model in result.models]
            )


def _problems_with(model: str, results: Sequence[CheckedKey]) -> Iterator[str]:
    lacking = [result for result in results if not result.models[model]]
    if not lacking:
        return
    service = lacking[0].service
    if len(lacking) < len(results):
        labels = ", ".join(result.key.label for result in lacking)
        yield f"{service} key {labels} may not use the model {model}"
        return
    variable = f"{SERVICES[service].prefix}MODEL"
    advice = f"set {variable} to one of {_some_models(results)}"
    if any(any(result.models.values()) for result in results):  # another configured model serves
        advice = f"take it out of {variable}"
    yield f"no {service} key may use {model}: {advice}"


def _some_models(results: Iterable[CheckedKey]) -> str:
    names = sorted({name for result in results for name in result.check.models or ()})
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "") or "(none is listed)"  # noqa: PLR2004


class KeyChecks:
    """Checks the keys of a worker at intervals, and reports their limits to the pools.

    Args:
        pools: The pools, by service.
        checkers: The checkers, by service. Their owner closes them.
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
        self._warned: set[str] = set()
        self._again = asyncio.Event()

    def again(self) -> None:
        """Check at once, because the keys have changed."""
        self._again.set()

    async def run(self) -> None:
        """Check the keys at intervals while the worker runs; return at once if `every_s` is 0."""
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
        """Check every key. A problem is logged as a warning, once for as long as it lasts."""
        checked = await check_keys(self._pools, self._checkers, models=self._models)
        problems = dict.fromkeys(problems_in(checked, models=self._models))
        for sentence in problems:
            if sentence not in self._warned:
                _logger.warning(sentence)
        self._warned = set(problems)
        for result in checked:
            await self._teach(result)

    async def _teach(self, result: CheckedKey) -> None:
        if not result.check.limits:
            return
        # The pool does not know this lease, so settling it only teaches the limits.
        lease = Lease(
            secrets.token_hex(16),
            result.key,
            result.account,
            LeaseRequest(by="check of the keys"),
            0,
        )
        try:
            await self._pools[result.service].settle(
                lease, Verdict(Fate.DONE, ASKED, limits=result.check.limits)
            )
        except RedisError as exc:
            _logger.debug("cannot store the limits that a key check found: %s", type(exc).__name__)
