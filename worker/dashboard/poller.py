"""Looks at pools and queues from a thread of its own, so that no Redis call ever runs on Flower's I/O loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from celery import Celery
from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.celery import QUEUE_OF
from config.errors import SettingsError
from config.keys import SERVICES, load_keys
from config.settings import Settings
from worker.dashboard.queues import QueueWatch
from worker.dashboard.rates import Record
from worker.dashboard.state import Board, QueueView, ServiceView
from worker.deadletters import DeadLetters
from worker.keypool import KeyPool
from worker.providers.drift import Drift
from worker.runtime import connect, pools_for_tools
from worker.startup.redis import eviction_of

ResultT = TypeVar("ResultT")
Pools = dict[str, KeyPool]

_logger = logging.getLogger(__name__)

_EVERY_S = 1.0
_FRESH_S = 0.4  # several people who look at once share one look
_RELOAD_KEYS_EVERY_S = 30.0
_ANSWER_WITHIN_S = 8.0
_COUNTED_WITHIN_S = 10.0  # what was counted longer ago is not known any more
_STOP_WITHIN_S = 5.0


class Unreachable(Exception):  # noqa: N818
    """The pools cannot be asked now; the message says no more than that."""


class Lookout:
    """The background's view of the keys. Double starts and stops do nothing.

    Args:
        settings: Where Redis is.
        app: The Celery app, for the queues.
        ended: How many jobs of each service were ever seen to end.
    """

    def __init__(
        self, settings: Settings, app: Celery, *, ended: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        self._settings = settings
        self._watch = QueueWatch(app, tuple(QUEUE_OF.values()))
        self._queues: dict[str, QueueView] = {}
        self._ended = ended
        self._counted_at = float("-inf")
        self._records = {service: Record() for service in SERVICES}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis: Redis
        self._pools: Pools = {}
        self._dead: DeadLetters
        self._drift: Drift
        self._looked_at = 0.0
        self._reloaded_at = time.monotonic()
        self._one_at_a_time: asyncio.Lock
        self._stop: asyncio.Event
        self.board: Board | None = None
        """The latest look; None until the first, and while Redis does not answer."""

    def start(self) -> None:
        """Begin to look, every second; returns once it may be asked."""
        if self._thread is not None:
            return
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="keys-lookout", daemon=True
        )
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Look no more, and close the connections."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(_STOP_WITHIN_S)

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._main(ready))
        except SettingsError as exc:  # its sentences name variables and hold no value
            _logger.error("Flower shows no keys: %s", exc)  # noqa: TRY400 - the sentence says it all
        finally:
            self._loop = None
            ready.set()  # whoever waits for a start that failed must not wait for ever

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time, self._stop = asyncio.Lock(), asyncio.Event()
        self._redis = connect(self._settings)
        self._pools = pools_for_tools(self._redis)
        self._dead = DeadLetters.of(self._redis, self._settings)
        self._drift = Drift(self._redis, namespace=self._settings.namespace)
        ready.set()
        tasks = [
            asyncio.create_task(self._keep_looking()),
            asyncio.create_task(self._keep_counting()),
        ]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._redis.aclose()

    async def now(self, *, after_change: bool = False) -> Board:
        """The board, at most a moment old.

        Args:
            after_change: Something was changed just now: look again in any case.

        Raises:
            Unreachable: Redis does not answer.
        """

        async def look(_: Pools) -> Board:
            return await self._look(fresh_s=0 if after_change else _FRESH_S)

        return await self.ask(look)

    async def ask(self, work: Callable[[Pools], Awaitable[ResultT]]) -> ResultT:
        """Do something with the pools, on the lookout's thread; may be awaited on any loop.

        Raises:
            Unreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._pools), within_s=_ANSWER_WITHIN_S)

    async def ask_redis(self, work: Callable[[Redis], Awaitable[ResultT]]) -> ResultT:
        """Do something with the pool's Redis, likewise.

        Raises:
            Unreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._redis), within_s=_ANSWER_WITHIN_S)

    async def ask_dead(
        self, work: Callable[[DeadLetters], Awaitable[ResultT]], *, within_s: float = 8.0
    ) -> ResultT:
        """Do something with the dead letters, likewise.

        Args:
            work: What.
            within_s: How long it may take, in seconds.

        Raises:
            Unreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._dead), within_s=within_s)

    async def _on_its_thread(
        self, work: Callable[[], Awaitable[ResultT]], *, within_s: float
    ) -> ResultT:
        if self._loop is None:
            raise Unreachable("Flower is not ready")

        async def bounded() -> ResultT:
            return await asyncio.wait_for(work(), within_s)

        try:
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(bounded(), self._loop)
            )
        except (RedisError, TimeoutError) as exc:
            raise Unreachable(f"Redis does not answer ({type(exc).__name__})") from exc

    async def _look(self, *, fresh_s: float) -> Board:
        async with self._one_at_a_time:
            if self.board is not None and time.monotonic() - self._looked_at < fresh_s:
                return self.board
            views = {service: await pool.snapshot() for service, pool in self._pools.items()}
            services, ended = {}, self._ended()
            for service, view in views.items():
                record = self._records[service]
                queue = self._queue(QUEUE_OF[service])
                record.add(view, waiting=queue.waiting, ended=ended.get(service, 0))
                services[service] = ServiceView(
                    view, queue, record.minutes, record.rate, record.idle_s
                )
            evicts = await eviction_of(self._redis)
            self.board = Board(
                services,
                await self._dead.counts(),
                evicts=evicts.policy if evicts else "",
                unknown=tuple(await self._drift.seen()),
            )
            self._looked_at = time.monotonic()
            return self.board

    def _queue(self, name: str) -> QueueView:
        found = self._queues.get(name)
        fresh = time.monotonic() - self._counted_at < _COUNTED_WITHIN_S
        return found if found is not None and fresh else QueueView(name, known=False)

    async def _keep_looking(self) -> None:
        told = False
        while True:
            try:
                self._reload_keys()
                # A server that takes connections and says nothing must not pass for one that is
                # well.
                await asyncio.wait_for(self._look(fresh_s=_FRESH_S), _ANSWER_WITHIN_S)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the view must come back by itself
                self.board = None
                if not told:
                    _logger.warning("the key pools cannot be looked at: %s", type(exc).__name__)
                told = True
            else:
                told = False
            await asyncio.sleep(_EVERY_S)

    async def _keep_counting(self) -> None:
        told = False
        while True:
            try:
                self._queues, self._counted_at = (
                    await asyncio.to_thread(self._watch.look),
                    time.monotonic(),
                )
            except Exception as exc:  # noqa: BLE001 - the same
                self._queues = {}
                if not told:
                    _logger.warning("the queues cannot be counted: %s", type(exc).__name__)
                told = True
            else:
                told = False
            await asyncio.sleep(_EVERY_S)

    def _reload_keys(self) -> None:
        """Find keys that were added to `.env` or to mounted files, as `keys reload` does in the workers."""
        if time.monotonic() - self._reloaded_at < _RELOAD_KEYS_EVERY_S:
            return
        self._reloaded_at = time.monotonic()
        for service, pool in self._pools.items():
            try:
                found = load_keys(service).keys
            except SettingsError:  # half-written: the next time
                return
            if found != pool.keys:
                pool.replace_keys(found)
