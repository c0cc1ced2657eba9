"""A Celery concurrency pool for `async def` tasks: `worker_pool = "worker.aio.pool:TaskPool"`.

One event loop in its own thread runs up to `worker_concurrency` jobs at a time. The consumer and
its hub stay in the main thread. Celery's tracer runs unchanged, each job in its own greenlet (see
`worker.aio.bridge`); plain `def` tasks run in threads. `worker.aio.pool_settings` has the settings.
"""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import signals
from celery.concurrency.base import BasePool
from celery.worker import state

from worker.aio import (
    blocking_calls,
    fast_json,
    lifespan,
    mailbox,
    private_loop,
    shutdown,
    tracing,
)
from worker.aio.adopt import await_receivers, leave_receivers
from worker.aio.bridge import JobGreenlets
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.job import Job
from worker.aio.jobs import Jobs
from worker.aio.loop_thread import LoopThread, new_loop
from worker.aio.lost_connection import jobs_that_run_on
from worker.aio.lost_runs import LostRuns
from worker.aio.pool_settings import PoolSettings
from worker.aio.pool_tasks import PoolTasks
from worker.aio.reports import Callbacks, Reports
from worker.aio.threads import DaemonThreads
from worker.aio.transport import unacked
from worker.aio.watchdog import Watchdog

__all__ = ["TaskPool", "current_loop"]

logger = logging.getLogger(__name__)

current_loop = lifespan.current_loop

_CALL_THREADS = 8
"""Threads for publishing and other blocking calls; Celery's pool has 10 connections."""


class TaskPool(BasePool):
    """The pool, which runs async tasks on one event loop. Celery creates and calls it."""

    task_join_will_block = True
    body_can_be_buffer = False
    is_green = False

    def __init__(self, limit: int | None = None, **options: Any) -> None:
        self.jobs = Jobs(limit or 1)
        super().__init__(limit, **options)
        self.calls = ConsumerCalls()
        self.loop: asyncio.AbstractEventLoop
        self.task_threads: DaemonThreads
        self.call_threads: DaemonThreads
        self.greenlets: JobGreenlets
        self.lost_runs: LostRuns
        self.settings: PoolSettings
        self._thread: LoopThread | None = None
        self._watchdog: Watchdog | None = None
        self._hub: Any = None
        self._tasks: PoolTasks
        self._gc_before = gc.get_threshold()
        self._stopped = False

    # -- start

    def on_start(self) -> None:
        """Start the loop's thread, and adapt the app's tasks to it.

        Raises:
            ImproperlyConfigured: A setting asks for something that this pool cannot do.
        """
        settings = self.settings = PoolSettings.of(self.options, self.app.conf)
        self._gc_before = gc.get_threshold()
        if settings.gc_objects:
            gc.freeze()  # skip the imports' objects: a collection of them blocks the loop for 35 ms
            # Every hundredth collection is full: it finds garbage that was in use for minutes.
            gc.set_threshold(int(settings.gc_objects), 20, 5)
        self.loop = new_loop(settings.loop)
        self.task_threads = DaemonThreads(
            settings.threads, name="aio-task", prepare=self._prepare_thread
        )
        self.call_threads = DaemonThreads(
            _CALL_THREADS, name="aio-call", prepare=self._prepare_thread
        )
        self.jobs.run_on(self.loop, self.task_threads)
        _, hostname = self.options.get("initargs") or (None, None)
        self._tasks = PoolTasks(self.app, self.jobs.queue.limits, hostname)
        self.greenlets = JobGreenlets(self.call_threads)
        self.lost_runs = LostRuns(
            self.calls,
            self.loop,
            most=int(settings.lost_runs),
            pause_s=float(settings.lost_pause_s),
        )
        self.loop.set_default_executor(
            DaemonThreads(32, name="aio-default", prepare=self._prepare_thread)
        )
        tracing.install()
        await_receivers()
        self._tasks.adopt_all()
        blocking_calls.install(self.app)
        mailbox.install(self.app, self.calls.drain)
        fast_json.install()
        self.calls.gather_on(self.loop)
        self._thread = LoopThread(self.loop, prepare=self._prepare_loop_thread)
        self._thread.start()
        private_loop.set_pool_loop(self.loop)
        unacked.of_process.running_jobs = self._jobs_that_run_on
        self.loop.call_soon_threadsafe(lifespan.begin)
        signals.worker_process_init.send(sender=hostname)  # jobs run in this process
        if settings.blocked_ms:
            self._watchdog = Watchdog(
                self._thread, self.jobs, threshold_s=settings.blocked_ms / 1000, calls=self.calls
            )
            self._watchdog.start()
        signals.worker_ready.connect(self._on_worker_ready, weak=False, dispatch_uid=id(self))

    def _prepare_thread(self) -> None:
        # Celery's current app is thread-local.
        self.app.set_current()

    def _prepare_loop_thread(self) -> None:
        self.app.set_current()
        blocking_calls.guard_backend(self.app)

    def _on_worker_ready(self, sender: Any = None, **_: Any) -> None:
        worker = getattr(sender, "controller", None)
        if worker is not None and getattr(sender, "pool", None) is self:
            worker.wait_for_soft_shutdown = lambda: shutdown.wait_softly(self, worker)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the hub run the pool's calls. Celery calls this after every (re)connection."""
        self._hub = hub
        self.calls.attach(hub)

    # -- new jobs

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Job:
        """Take a job. It starts when fewer than `limit` jobs run; until then it is not accepted."""
        reports = Callbacks(
            accepted=accept_callback,
            timed_out=timeout_callback,
            succeeded=callback,
            failed=error_callback,
        )
        run = target if not kwargs else (lambda *positional: target(*positional, **kwargs))
        return self.take(
            run, tuple(args or ()), reports, soft_timeout_s=soft_timeout, timeout_s=timeout
        )

    def take(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        reports: Reports,
        *,
        soft_timeout_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Take a job as `on_apply` does, and report its progress to `reports`."""
        job = Job(
            self,
            target,
            args,
            reports,
            in_thread=self._tasks.runs_in_thread(args[0] if args else None),
            soft_timeout_s=soft_timeout_s or self.options.get("soft_timeout"),
            timeout_s=timeout_s or self.options.get("timeout"),
        )
        if self.jobs.draining or self._stopped:
            logger.debug("%s came while the pool ended; the broker delivers it again", job)
        else:
            self.jobs.put(job)
        return job

    def flush(self, tags: set[str] | None = None) -> None:
        """Drop waiting jobs; the broker delivers them again.

        Args:
            tags: The delivery tags of messages whose connection is lost; None drops all jobs.
        """
        self.jobs.drop(tags)

    def _jobs_that_run_on(self, held: set[str]) -> set[str]:
        return jobs_that_run_on(
            held, jobs=self.jobs, calls=self.calls, loop=self.loop, conf=self.app.conf
        )

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Cancel a job by its number. Its `finally` blocks run, and its result is dropped."""
        job = self.jobs.get(pid)
        if job is not None:
            job.terminate(signal)

    # -- size

    def grow(self, n: int = 1) -> None:
        """Allow `n` more jobs at a time."""
        self.limit += n
        self.jobs.admit_soon()

    def shrink(self, n: int = 1) -> None:
        """Allow `n` fewer jobs at a time, but at least one. Running jobs go on."""
        if self.limit - n < 1:
            # With a limit of 0, Celery would go on fetching messages, and no job would run.
            words = "the pool runs one job at a time from now on: it cannot shrink from %d by %d"
            logger.warning(words, self.limit, n)
        self.limit = max(self.limit - n, 1)

    def restart(self) -> None:
        """Adapt reloaded tasks. Running jobs go on, because there is no process to replace."""
        self._tasks.adopt_all()

    @property
    def limit(self) -> int:
        """How many jobs may run at once."""
        return self.jobs.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self.jobs.limit = limit or 1

    @property
    def num_processes(self) -> int:
        """How many jobs may run at once; Celery computes its prefetch count from it."""
        return self.limit

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self.jobs.running

    @property
    def unsettled(self) -> int:
        """How many jobs run whose end is not decided yet; each occupies a slot."""
        return self.jobs.unsettled

    @property
    def queued(self) -> int:
        """How many jobs wait for a slot."""
        return len(self.jobs.queue)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        started = self._thread is not None
        loop = f"{type(self.loop).__module__}.{type(self.loop).__qualname__}" if started else None
        limits_s = [self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0]
        return info | {
            "max-concurrency": self.limit,
            "running": self.running,
            "queued": self.queued,
            "threads": self.task_threads.alive if started else 0,
            "loop": loop,
            "processes": [],
            "max-tasks-per-child": None,
            "timeouts": limits_s,
        }

    # -- end

    def drain(self) -> None:
        """Start no further job, and give jobs that have not begun back to the broker."""
        self.jobs.draining = True
        dropped = self.queued
        self.flush()
        if dropped:
            logger.info("%d jobs that had not begun go back to the broker", dropped)

    def on_close(self) -> None:
        """Start no further job. Celery calls this before it stops the pool."""
        if self._thread is not None:
            self.drain()

    def on_stop(self) -> None:
        """Wait for the running jobs, then stop the loop; a cold shutdown cancels the jobs first.

        It may be called before the start, and a second time, even by a signal handler during the
        first call.
        """
        self._finish(cold=state.should_terminate not in (None, False))

    def on_terminate(self) -> None:
        """Stop as in a cold shutdown."""
        self._finish(cold=True)

    def _finish(self, *, cold: bool) -> None:
        if self._thread is None or self._stopped:
            self._stopped = True
            return
        self.drain()
        shutdown.wait_for_jobs(
            self, self._hub, cold=cold, cold_patience_s=float(self.settings.cold_s)
        )
        if not self._stopped:  # a signal handler may have stopped the loop meanwhile
            self._stop_loop(self._thread, cold=cold)

    def _stop_loop(self, thread: LoopThread, *, cold: bool) -> None:
        self._stopped = True
        gc.set_threshold(*self._gc_before)
        if self._watchdog is not None:
            self._watchdog.stop()
        private_loop.set_pool_loop(None)
        unacked.of_process.running_jobs = None
        shutdown.end_lifespan(self.loop, patience_s=2.0 if cold else 10.0)
        for threads in (self.task_threads, self.call_threads):
            threads.shutdown(cancel_futures=True)
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.greenlets.close)
        if not thread.stop(patience_s=2.0):
            logger.warning("the event loop does not respond; the worker ends without it")
        tracing.uninstall()
        leave_receivers()
        blocking_calls.uninstall(self.app)
        mailbox.uninstall(self.app)
        signals.worker_ready.disconnect(dispatch_uid=id(self))
        self.calls.drain()
        unacked.of_process.release_detached()
        shutdown.send_acknowledgements(self._hub)
        self.calls.close(self._hub)

    def cancel_all(self) -> None:
        """Cancel every running job, from any thread."""
        for job in self.jobs.all():
            job.terminate()
