"""Polls pools and queues on a thread of its own, so that Redis never blocks Flower's I/O loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from celery import Celery
from celery.exceptions import BackendError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.celery import DELAYED_QUEUES
from config.errors import SettingsError
from config.keys import load_keys
from config.services import SERVICES
from config.settings import Settings
from worker.action_log import ActionLog
from worker.aio.cancelling import cancel_until_ended
from worker.aio.redis_retry import safe_message
from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.list_mark import mark_of
from worker.dashboard.queues import QueueWatch
from worker.dashboard.quote_margins import QuoteMargins
from worker.dashboard.rates import ServiceRates
from worker.dashboard.state import DashboardState, QueueView, ServiceView
from worker.deadletters import DeadLetters
from worker.key_pools import pools_for_tools
from worker.keypool import KeyPool, published_keys
from worker.keypool.published_margins import publish_margins
from worker.providers.drift import Drift
from worker.redis.client import connect, connect_to_broker
from worker.startup.redis import eviction_of

ResultT = TypeVar("ResultT")
Pools = dict[str, KeyPool]

_logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_FRESH_S = 0.4  # requests within this time share one poll
_RELOAD_KEYS_INTERVAL_S = 30.0
_TIMEOUT_S = 8.0
_QUEUES_FRESH_S = 10.0  # older counts of the queues are shown as unknown
_STOP_TIMEOUT_S = 5.0


class Poller:
    """Polls key pools and queues once a second, on a thread of its own.

    Calling `start` or `stop` a second time does nothing.

    Args:
        settings: The settings, with the address of Redis.
        app: The Celery app, for the queues.
        ended: Returns how many jobs of each service have ended so far.
    """

    def __init__(
        self, settings: Settings, app: Celery, *, ended: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        self._settings = settings
        self._watch = QueueWatch(app, tuple(DELAYED_QUEUES.values()))
        self._queues: dict[str, QueueView] = {}
        self._ended = ended
        self._queues_polled_at = float("-inf")
        self._rates = {service: ServiceRates() for service in SERVICES}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis: Redis
        self._broker: Redis | None = None
        self._pools: Pools = {}
        self._dead_letters: DeadLetters
        self._actions: ActionLog
        self._drift: Drift
        self._polled_at = 0.0
        self._reloaded_at = float("-inf")
        self._next: asyncio.Future[DashboardState | None]
        self._poll_lock: asyncio.Lock
        self._stop: asyncio.Event
        self.margins = QuoteMargins()
        """By how much jobs end later than forecast; use it on the poller's thread only."""
        self.state: DashboardState | None = None
        """The latest state; None before the first poll, and while Redis does not answer."""

    def start(self) -> None:
        """Start polling; returns once requests are possible."""
        if self._thread is not None:
            return
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="keys-poller", daemon=True
        )
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Stop polling, and close the connections."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(_STOP_TIMEOUT_S)

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._main(ready))
        except SettingsError as exc:  # its sentences name variables and hold no value
            _logger.error("Flower shows no keys: %s", exc)  # noqa: TRY400 - the sentence is enough
        finally:
            self._loop = None
            ready.set()  # `start` must return even if this thread failed

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._poll_lock, self._stop = asyncio.Lock(), asyncio.Event()
        self._next = asyncio.Future()
        self._redis = connect(self._settings)
        self._broker = connect_to_broker(self._settings, self._redis)
        self._pools = pools_for_tools(self._redis)
        self._dead_letters = DeadLetters.of(self._redis, self._settings)
        self._actions = ActionLog(self._redis, namespace=self._settings.namespace)
        self._drift = Drift(self._redis, namespace=self._settings.namespace)
        ready.set()
        tasks = [
            asyncio.create_task(self._keep_polling()),
            asyncio.create_task(self._keep_polling_queues()),
        ]
        await self._stop.wait()
        await cancel_until_ended(tasks)
        await self._redis.aclose()
        if self._broker is not None:
            await self._broker.aclose()

    async def fresh_state(self, *, force: bool = False) -> DashboardState:
        """Return the state, at most 0.4 s old.

        Args:
            force: Poll in any case, because something has just changed.

        Raises:
            RedisUnreachable: Redis does not answer.
        """

        async def poll(_: Pools) -> DashboardState:
            return await self._poll(fresh_s=0 if force else _FRESH_S)

        return await self.with_pools(poll)

    async def next_state(self) -> DashboardState:
        """Wait for the next poll, and return its state.

        Raises:
            RedisUnreachable: Redis does not answer.
        """

        async def wait() -> DashboardState | None:
            return await asyncio.shield(self._next)

        state = await self._on_its_thread(wait, timeout_s=_TIMEOUT_S)
        if state is None:
            raise RedisUnreachable("Redis does not answer")
        return state

    async def with_pools(self, work: Callable[[Pools], Awaitable[ResultT]]) -> ResultT:
        """Run `work` with the key pools on the poller's thread; may be awaited on any loop.

        Raises:
            RedisUnreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._pools), timeout_s=_TIMEOUT_S)

    async def with_redis(
        self, work: Callable[[Redis], Awaitable[ResultT]], *, timeout_s: float = _TIMEOUT_S
    ) -> ResultT:
        """Run `work` with the pools' Redis, as `with_pools` does.

        Args:
            work: The function to run.
            timeout_s: How long it may take, in seconds.

        Raises:
            RedisUnreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._redis), timeout_s=timeout_s)

    async def with_broker(self, work: Callable[[Redis], Awaitable[ResultT]]) -> ResultT | None:
        """Run `work` with the broker's Redis; return None if the broker cannot show its jobs.

        Raises:
            RedisUnreachable: Redis does not answer, or not in time.
        """
        broker = self._broker
        if broker is None:
            return None
        return await self._on_its_thread(lambda: work(broker), timeout_s=_TIMEOUT_S)

    async def with_actions(self, work: Callable[[ActionLog], Awaitable[ResultT]]) -> ResultT:
        """Run `work` with the log of what people did to jobs and workers, as `with_pools` does.

        Raises:
            RedisUnreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._actions), timeout_s=_TIMEOUT_S)

    async def with_dead_letters(
        self, work: Callable[[DeadLetters], Awaitable[ResultT]], *, timeout_s: float = 8.0
    ) -> ResultT:
        """Run `work` with the dead letters, as `with_pools` does.

        Args:
            work: The function to run.
            timeout_s: How long it may take, in seconds.

        Raises:
            RedisUnreachable: Redis does not answer, or not in time.
        """
        return await self._on_its_thread(lambda: work(self._dead_letters), timeout_s=timeout_s)

    async def _on_its_thread(
        self, work: Callable[[], Awaitable[ResultT]], *, timeout_s: float
    ) -> ResultT:
        if self._loop is None:
            raise RedisUnreachable("Flower is not ready")

        async def bounded() -> ResultT:
            async with asyncio.timeout(timeout_s):
                return await work()

        try:
            running = asyncio.run_coroutine_threadsafe(bounded(), self._loop)
            return await asyncio.wrap_future(running)
        except (RedisError, BackendError, OSError) as exc:
            raise RedisUnreachable(f"Redis does not answer ({type(exc).__name__})") from exc

    async def _poll(self, *, fresh_s: float) -> DashboardState:
        async with self._poll_lock:
            if self.state is not None and time.monotonic() - self._polled_at < fresh_s:
                return self.state
            views = {service: await pool.snapshot() for service, pool in self._pools.items()}
            services, ended = {}, self._ended()
            for service, view in views.items():
                rates = self._rates[service]
                queue = self._queue(SERVICES[service].queue)
                rates.add(view, waiting=queue.waiting, ended=ended.get(service, 0))
                model = next(iter(self._settings.models.get(service, ())), "")
                self.margins.add(view, queue, model=model, ended=ended.get(service, 0))
                services[service] = ServiceView(view, queue, rates.rate, rates.idle_s)
            for service, margins in self.margins.to_publish().items():
                await publish_margins(self._redis, self._pools[service].names, margins)
            evicts, counts = await eviction_of(self._redis), await self._dead_letters.counts()
            state = DashboardState(
                services,
                counts,
                evicts=evicts.policy if evicts else "",
                unknown=tuple(await self._drift.seen()),
                changes=await mark_of(
                    self._redis,
                    self._pools.values(),
                    self._dead_letters,
                    counts,
                    actions=self._actions,
                ),
            )
            self.state, self._polled_at = state, time.monotonic()
            self._announce(state)
            return state

    def _announce(self, state: DashboardState | None) -> None:
        """Wake the callers that wait for the next state; None if Redis does not answer."""
        polled, self._next = self._next, asyncio.Future()
        polled.set_result(state)

    def _queue(self, name: str) -> QueueView:
        queue = self._queues.get(name)
        is_fresh = time.monotonic() - self._queues_polled_at < _QUEUES_FRESH_S
        return queue if queue is not None and is_fresh else QueueView(name, known=False)

    async def _keep_polling(self) -> None:
        async def poll() -> None:
            # Timeouts make a server that never answers show as down. `wait_for` does not fit:
            # before Python 3.12 it may swallow a cancellation, and `stop` would wait in vain.
            async with asyncio.timeout(_TIMEOUT_S):
                await self._reload_keys()
            async with asyncio.timeout(_TIMEOUT_S):
                await self._poll(fresh_s=_FRESH_S)

        def forget() -> None:
            self.state = None
            self._announce(None)

        await _repeat(
            poll, forget, "cannot read the key pools (%s); Flower shows no keys until it can"
        )

    async def _keep_polling_queues(self) -> None:
        async def poll() -> None:
            self._queues = await asyncio.to_thread(self._watch.poll)
            self._queues_polled_at = time.monotonic()

        def forget() -> None:
            self._queues = {}

        await _repeat(poll, forget, "cannot count the queues (%s); no count is shown until it can")

    def reload_keys_soon(self) -> None:
        """Load the keys again before the next poll. Any thread may call this."""
        self._reloaded_at = float("-inf")

    async def _reload_keys(self) -> None:
        """Load keys that were added to `.env` or to mounted files, as `keys reload` does.

        For a service without keys here, load what workers have published: ids, but no secrets.
        """
        if time.monotonic() - self._reloaded_at < _RELOAD_KEYS_INTERVAL_S:
            return
        self._reloaded_at = time.monotonic()
        for service, pool in self._pools.items():
            try:
                keys = load_keys(service).keys
            except SettingsError:  # the file may be half-written: try again next time
                return
            keys = keys or await published_keys(self._redis, pool.names)
            if keys != pool.keys:
                pool.replace_keys(keys)


async def _repeat(
    poll: Callable[[], Awaitable[None]], forget: Callable[[], None], sentence: str
) -> None:
    """Poll at intervals; if a poll fails, call `forget`, and log the sentence once."""
    is_logged = False
    while True:
        try:
            await poll()
        except Exception as exc:  # noqa: BLE001 - the poller must survive every error
            forget()
            if not is_logged:
                _logger.warning(sentence, _why(exc))
            is_logged = True
        else:
            is_logged = False
        await asyncio.sleep(_INTERVAL_S)


def _why(exc: Exception) -> str:
    """Return Redis' words; of another error only the type, because its words may quote secrets."""
    return safe_message(exc) if isinstance(exc, RedisError | OSError) else type(exc).__name__
