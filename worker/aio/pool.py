"""A Celery concurrency pool for `async def` tasks: `worker_pool = "worker.aio.pool:TaskPool"`.

One event loop in its own thread runs up to `worker_concurrency` jobs at a time; the consumer and
its hub stay in the main thread. Celery's tracer runs unchanged, one greenlet a job (see `bridge`);
plain `def` tasks run in threads.

Settings of the Celery app, all optional:

    worker_aio_loop         "auto" (uvloop where installed), "uvloop" or "asyncio"
    worker_aio_threads      the most threads for plain `def` tasks; they start as they are
                            needed; default 16
    worker_aio_blocked_ms   a task that holds up the loop longer is named in a warning; 0: never;
                            default 250
    worker_aio_cold_s       how long a cold shutdown waits for cancelled jobs; default 5
    worker_aio_lost_runs    how many runs may end with their worker before the job ends; 0: any
                            number; default 5
    worker_aio_lost_pause_s how long a job waits that is lost before it goes back to its queue;
                            doubles; default 1
    worker_aio_gc_objects   new objects between two garbage collections; 0: as Python has it;
                            default 50,000
"""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import signals
from celery.app.trace import build_tracer
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured
from celery.worker import state

from worker.aio import (
    fast_json,
    intake,
    lifespan,
    mailbox,
    mapping,
    private_loop,
    publishing,
    shutdown,
    tracing,
)
from worker.aio.adopt import adopt, await_receivers, is_async, leave_receivers
from worker.aio.bridge import JobGreenlets
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.job import Job
from worker.aio.job_queue import JobQueue
from worker.aio.loop_thread import LoopThread, new_loop
from worker.aio.lost_runs import LostRuns
from worker.aio.reports import Callbacks, Reports
from worker.aio.threads import DaemonThreads
from worker.aio.transport import unacked
from worker.aio.transport.leases import release_all_detached
from worker.aio.watchdog import Watchdog

__all__ = ["TaskPool", "current_loop"]

logger = logging.getLogger(__name__)

current_loop = lifespan.current_loop

_TASK_THREADS = 16
"""Not fewer where the concurrency is: autoscale begins with its minimum."""

_CALL_THREADS = 8
"""Threads for publishing and other blocking calls of the tracer.

Celery's own pool of broker connections holds 10.
"""

_STARTS_A_TURN = 8
"""Jobs that start before the loop looks at its sockets again.

A crowd must not keep the others from their answers.
"""

_LOST_RUNS = 5

_LOST_PAUSE_S = 1.0
"""About as long as prefork takes for a new process."""

_BARRIER_S = 1.0
"""How long a blocked loop is waited for when a connection was lost, in seconds."""

_GC_OBJECTS = 50_000
"""Python's 700 makes a worker with thousands of jobs in flight spend a third of its time looking for garbage cycles."""


class TaskPool(BasePool):
    """Runs async tasks on one event loop.

    Celery makes and drives it; see the module for its settings.
    """

    task_join_will_block = True
    body_can_be_buffer = False
    is_green = False

    def __init__(self, limit: int | None = None, **options: Any) -> None:
        super().__init__(limit, **options)
        self.limit: int = limit or 1
        self.calls = ConsumerCalls()
        self.loop: asyncio.AbstractEventLoop
        self.task_threads: DaemonThreads
        self.call_threads: DaemonThreads
        self.greenlets: JobGreenlets
        self.lost_runs: LostRuns
        self._thread: LoopThread | None = None
        self._watchdog: Watchdog | None = None
        self._hub: Any = None
        self._in_thread: dict[str, bool] = {}
        self._adopted: dict[str, Any] = {}
        """By their names, because a task may be registered again under the name of another."""
        self._jobs: dict[int, Job] = {}
        """Every job that runs or waits, by number."""
        self._queue = JobQueue()
        self._incoming_armed = False
        self._running = 0
        self._over: set[Job] = set()
        """Jobs that run although their end is known; they take no slot."""
        self._gc_before = gc.get_threshold()
        self._draining = False
        self._stopped = False

    def _setting(self, name: str, default: Any) -> Any:
        if name in self.options:
            return self.options[name]
        conf = self.app.conf if self.app is not None else {}
        found = conf.get(f"worker_{name}")
        return default if found is None else found

    # -- start

    def on_start(self) -> None:
        """Start the loop's thread and make the app's tasks fit for it.

        Raises:
            ImproperlyConfigured: A setting asks for what this pool cannot do.
        """
        for name, setting in (
            ("maxtasksperchild", "worker_max_tasks_per_child"),
            ("max_memory_per_child", "worker_max_memory_per_child"),
        ):
            if self.options.get(name):
                raise ImproperlyConfigured(
                    f"{setting} has no meaning for the asyncio pool, which has no child "
                    "processes: unset it, and let "
                    "your process manager restart the worker where that is needed"
                )
        self._gc_before = gc.get_threshold()
        if gc_objects := self._setting("aio_gc_objects", _GC_OBJECTS):
            gc.set_threshold(int(gc_objects), 20, 50)
        self.loop = new_loop(self._setting("aio_loop", "auto"))
        self.task_threads = DaemonThreads(
            self._setting("aio_threads", _TASK_THREADS),
            name="aio-task",
            prepare=self._prepare_thread,
        )
        self.call_threads = DaemonThreads(
            _CALL_THREADS, name="aio-call", prepare=self._prepare_thread
        )
        self.greenlets = JobGreenlets(self.call_threads)
        self.lost_runs = LostRuns(
            self.calls,
            self.loop,
            most=int(self._setting("aio_lost_runs", _LOST_RUNS)),
            pause_s=float(self._setting("aio_lost_pause_s", _LOST_PAUSE_S)),
        )
        self.loop.set_default_executor(
            DaemonThreads(32, name="aio-default", prepare=self._prepare_thread)
        )
        tracing.install()
        await_receivers()
        for task in self.app.tasks.values():
            self._adopt(task)
        publishing.install(self.app)
        mailbox.install(self.app)
        fast_json.install()
        self.calls.gather_on(self.loop)
        self._thread = LoopThread(self.loop, prepare=self._prepare_loop_thread)
        self._thread.start()
        private_loop.set_pool_loop(self.loop)
        unacked.of_process.running_jobs = self._tags_that_run_on
        self.loop.call_soon_threadsafe(lifespan.begin)
        blocked_ms = self._setting("aio_blocked_ms", 250)
        if blocked_ms:
            self._watchdog = Watchdog(self._thread, self, threshold_s=blocked_ms / 1000)
            self._watchdog.start()
        signals.worker_ready.connect(self._on_worker_ready, weak=False, dispatch_uid=id(self))

    def _prepare_thread(self) -> None:
        # Celery's current app is thread-local.
        self.app.set_current()

    def _prepare_loop_thread(self) -> None:
        self.app.set_current()
        publishing.guard_backend(self.app)

    def _adopt(self, task: Any) -> None:
        mapping.await_items_of(task)
        adopt(task)
        intake.prepare(task)
        self._in_thread[task.name] = not is_async(task)
        self._adopted[task.name] = task
        self._queue.limits.set_from(task)
        task.__trace__ = build_tracer(
            task.name, task, self.app.loader, self._hostname, app=self.app
        )

    @property
    def _hostname(self) -> str | None:
        _, hostname = self.options.get("initargs") or (None, None)
        return hostname

    def _on_worker_ready(self, sender: Any = None, **_: Any) -> None:
        worker = getattr(sender, "controller", None)
        if worker is not None and getattr(sender, "pool", None) is self:
            worker.wait_for_soft_shutdown = lambda: shutdown.wait_softly(self, worker)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the hub run the callbacks. Celery calls this after every (re)connection."""
        self._hub = hub
        self.calls.attach(hub)

    # -- jobs in

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
        """Take a job.

        It starts when fewer than `limit` run; until then the pool keeps it, unaccepted.
        """
        reports = Callbacks(
            accepted=accept_callback,
            timed_out=timeout_callback,
            succeeded=callback,
            failed=error_callback,
        )
        run = target if not kwargs else (lambda *given: target(*given, **kwargs))
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
        """Take a job as `on_apply` does; `reports` is told of it."""
        name = args[0] if args else None
        task = self.app.tasks.get(name)
        if task is not None and self._adopted.get(task.name) is not task:
            self._adopt(task)  # registered after the start
        job = Job(
            self,
            target,
            args,
            reports,
            in_thread=self._in_thread.get(str(name), True),
            soft_timeout_s=soft_timeout_s or self.options.get("soft_timeout"),
            timeout_s=timeout_s or self.options.get("timeout"),
        )
        if self._draining or self._stopped:
            logger.debug("%s came after the end; the broker keeps it", job)
            return job
        self._jobs[job.pid] = job
        self._queue.put(job)
        self._wake()
        return job

    def _wake(self) -> None:
        # As with the consumer's calls: append first, look at the flag afterwards.
        if not self._incoming_armed:
            self._incoming_armed = True
            with suppress(RuntimeError):  # the loop is closed: the pool has stopped
                self.loop.call_soon_threadsafe(self._admit)

    def _wake_from_loop(self) -> None:
        if not self._incoming_armed:
            self._incoming_armed = True
            self.loop.call_soon(self._admit)

    def _admit(self) -> None:
        """Start what came and what waited, as far as the limit allows. On the loop's thread."""
        self._incoming_armed = False
        for job in self._queue.take(_STARTS_A_TURN, has_slot=self._has_slot):
            self._running += 1
            job.start()
        if self._queue.has_next and self._has_slot():
            self._wake_from_loop()

    def _has_slot(self) -> bool:
        return self.unsettled < self.limit and not self._draining

    def on_over(self, job: Job) -> None:
        """Free the slot of a job whose end is known. On the loop's thread, by the job."""
        self._over.add(job)
        self._queue.release(job)
        if job.in_thread:
            self.task_threads.write_off(1)
        self._wake_from_loop()

    def on_done(self, job: Job) -> None:
        """Free a job's slot, unless that was done. On the loop's thread, by the job."""
        self._running -= 1
        if job not in self._over:
            self._queue.release(job)
        else:
            self._over.remove(job)
            if job.in_thread:
                self.task_threads.write_off(-1)
        self._jobs.pop(job.pid, None)
        if self._queue.has_next:
            self._wake_from_loop()

    def flush(self, tags: set[str] | None = None) -> None:
        """Drop what waits unaccepted: the broker gives it out again.

        Args:
            tags: Only the jobs of these messages, whose connection is gone.
        """
        dropped, others_stay = self._queue.drop(tags)
        for job in dropped:
            self._jobs.pop(job.pid, None)
        if others_stay:
            self._wake()

    def _tags_that_run_on(self, held: set[str]) -> set[str]:
        """Drop what has not begun, report what has ended, and name the messages of the others, all of those held.

        None are named when they are about to be cancelled.
        """
        if not any(job.delivery_tag in held for job in list(self._jobs.values())):
            # A connection that a job, or a command of remote control, had for itself; or no job is
            # left to run on.
            if self.calls.is_read_here:
                self.calls.drain()
            return set()
        self.flush(held)
        passed = threading.Event()
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(passed.set)
            passed.wait(_BARRIER_S)  # what the loop was starting in this moment has begun
        running = {job.delivery_tag for job in list(self._jobs.values()) if job.delivery_tag} & held
        # Only now: a job that ends meanwhile is named although its report is read, and none is
        # missed by both.
        if self.calls.is_read_here:
            self.calls.drain()
        ending = any(
            asked is not None and asked is not False
            for asked in (state.should_stop, state.should_terminate)
        )
        if ending or self.app.conf.worker_cancel_long_running_tasks_on_connection_loss:
            return set()
        # Who asks takes so many messages fewer. Celery would do that as well, and not for as long
        # as these jobs run.
        self.app.conf.worker_enable_prefetch_count_reduction = False
        return running

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Cancel a job by its number: its `finally` blocks run, what it gives is dropped."""
        job = self._jobs.get(pid)
        if job is not None:
            job.terminate(signal)

    # -- size

    def grow(self, n: int = 1) -> None:
        """Allow `n` jobs more at a time."""
        self.limit += n
        self._wake()

    def shrink(self, n: int = 1) -> None:
        """Allow `n` jobs fewer at a time, but one. What runs goes on."""
        if self.limit - n < 1:
            # With none, Celery would go on fetching as many as before, and none of them would run.
            logger.warning(
                "the pool shrinks to one job at a time and not by %d: it had %d", n, self.limit
            )
        self.limit = max(self.limit - n, 1)

    def restart(self) -> None:
        """Take up tasks that were reloaded. What runs goes on: there is no process to replace."""
        for task in self.app.tasks.values():
            self._adopt(task)

    @property
    def num_processes(self) -> int:
        """How many jobs may run at a time; Celery computes its prefetch from it."""
        return self.limit

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self._running

    @property
    def unsettled(self) -> int:
        """How many jobs run whose end is not known yet: each has a slot."""
        return self._running - len(self._over)

    @property
    def queued(self) -> int:
        """How many jobs wait for a slot."""
        return len(self._queue)

    def job_of(self, driver: "asyncio.Task[Any] | None") -> Job | None:
        """Find the job that an asyncio task drives."""
        for job in list(self._jobs.values()):
            if driver is not None and job.driver is driver:
                return job
        return None

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        started = self._thread is not None
        info.update(
            {
                "max-concurrency": self.limit,
                "running": self._running,
                "queued": self.queued,
                "threads": self.task_threads.alive if started else 0,
                "loop": f"{type(self.loop).__module__}.{type(self.loop).__qualname__}"
                if started
                else None,
                "processes": [],
                "max-tasks-per-child": None,
                "timeouts": [
                    self.options.get("soft_timeout") or 0,
                    self.options.get("timeout") or 0,
                ],
            }
        )
        return info

    # -- end

    def drain(self) -> None:
        """Start nothing more: what waits goes back to the broker."""
        self._draining = True
        dropped = self.queued
        self.flush()
        if dropped:
            logger.info("%d jobs that had not begun go back to the broker", dropped)

    def on_close(self) -> None:
        """Celery closes the pool before it stops it."""
        if self._thread is not None:
            self.drain()

    def on_stop(self) -> None:
        """Wait for the running jobs (a cold shutdown.

        Cancel them and wait a little), then stop the loop.

        Tolerates a second call, also one from a signal handler in the middle of the first, and a
        call before the start.
        """
        self._finish(cold=state.should_terminate not in (None, False))

    def on_terminate(self) -> None:
        """Stop as for a cold shutdown."""
        self._finish(cold=True)

    def _finish(self, *, cold: bool) -> None:
        if self._thread is None or self._stopped:
            self._stopped = True
            return
        self.drain()
        shutdown.wait_for_jobs(
            self, self._hub, cold=cold, cold_patience_s=float(self._setting("aio_cold_s", 5.0))
        )
        if not self._stopped:  # else a signal handler finished it meanwhile
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
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(self.greenlets.close)
        if not thread.stop(patience_s=2.0):
            logger.warning("the event loop does not answer; leaving it behind")
        tracing.uninstall()
        leave_receivers()
        publishing.uninstall(self.app)
        mailbox.uninstall(self.app)
        signals.worker_ready.disconnect(dispatch_uid=id(self))
        self.calls.drain()
        release_all_detached()
        shutdown.send_acknowledgements(self._hub)
        self.calls.close(self._hub)

    def cancel_all(self) -> None:
        """Cancel every running job, from any thread."""
        for job in list(self._jobs.values()):
            job.terminate()
