"""Turns plain messages into jobs in fewer steps than Celery, for tasks with Celery's own request.

A task's `Strategy` turns the task's messages into requests and gives them to the pool. The strategy
here takes the same steps as Celery's, in the same order, for messages of protocol 2 without a
countdown, an expiry, stamps or a rate limit. Celery's strategy handles all other messages. Three
things are saved: the body is decoded once, an acknowledgement takes no turn of the hub, and values
that are the same for all messages of a task are looked up once.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Final
from weakref import ref

from celery import signals
from celery.app import trace
from celery.exceptions import TaskRevokedError
from celery.worker import request as _request
from celery.worker import state
from celery.worker import strategy as _strategy
from vine import promise

from worker.aio import reports

Handler = Callable[..., Any]

STOCK_STRATEGY: Final = "celery.worker.strategy:default"
STOCK_REQUEST: Final = "celery.worker.request:Request"
_PARTS: Final = 3
"""A body has arguments, keyword arguments and options."""

_revoked = state.revoked


def prepare(task: Any) -> None:
    """Use this module's strategy for a task without a strategy or request class of its own."""
    if task.Strategy == STOCK_STRATEGY and task.Request == STOCK_REQUEST:
        task.Strategy = f"{__name__}:strategy"


def strategy(task: Any, app: Any, consumer: Any) -> Handler:
    """Return a task's message handler. Celery calls this after each connection or reconnection."""
    stock: Handler = _strategy.default(task, app, consumer)
    if not hasattr(consumer.pool, "take"):
        return stock
    _settle_at_once(consumer)
    make = _request_class(task, app, consumer)
    log = _strategy.logger
    log_received = log.isEnabledFor(logging.INFO)
    eventer = consumer.event_dispatcher
    send_event = eventer.send if eventer and eventer.enabled and task.send_events else None
    buckets = None if consumer.disable_rate_limits else consumer.task_buckets
    handle, send_received, name = consumer.on_task_request, signals.task_received.send, task.name

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        headers = message.headers
        if (
            body is not None
            or headers.get("eta")
            or headers.get("expires")
            or headers.get("stamped_headers")
            or headers.get("id") is None
            or headers["id"] in _revoked
            or (buckets is not None and buckets[name])
        ):
            return stock(message, body, ack, reject, callbacks)
        payload = message.payload
        if type(payload) is not list or len(payload) != _PARTS:
            return stock(message, body, ack, reject, callbacks)
        request = make(message, payload, ack, reject)
        if log_received:
            fields = {
                "id": request.id,
                "name": request.name,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
                "eta": None,
            }
            log.info(trace.LOG_RECEIVED, fields, extra={"data": fields})
        send_received(sender=consumer, request=request)
        if send_event is not None:
            send_event(
                "task-received",
                uuid=request.id,
                name=request.name,
                args=request.argsrepr,
                kwargs=request.kwargsrepr,
                root_id=request.root_id,
                parent_id=request.parent_id,
                retries=request.request_dict.get("retries", 0),
                eta=None,
                expires=None,
            )
        state.task_reserved(request)
        for callback in callbacks or ():
            callback(request)
        return handle(request)

    return on_message


def _request_class(task: Any, app: Any, consumer: Any) -> type:
    hostname, eventer, errors = (
        consumer.hostname,
        consumer.event_dispatcher,
        consumer.connection_errors,
    )
    base: Any = _request.create_request_cls(
        _request.Request, task, consumer.pool, hostname, eventer, app=app
    )
    run = trace.fast_trace_task if app.use_fast_trace_task else trace.trace_task_ret
    utc, ignore_results, zone = app.uses_utc_timezone(), task.ignore_result, app.conf.timezone

    class PlainRequest(base):
        """Celery's request, created from a plain message."""

        _app, _task, _hostname, _eventer, _connection_errors = app, task, hostname, eventer, errors
        _utc, _decoded, _content_type, _content_encoding, _tzlocal = utc, True, None, None, zone
        _eta = _expires = None

        def __init__(self, message: Any, payload: Any, ack: Any, reject: Any) -> None:
            headers = self._request_dict = message.headers.copy()
            properties, info = message.properties or {}, message.delivery_info or {}
            self._message, self._on_ack, self._on_reject = message, ack, reject
            self._body = self._Request__payload = payload
            self.id = headers["id"]
            self._type = headers["task"]
            self.name = headers.get("shadow") or self._type
            self._root_id, self._parent_id = headers.get("root_id"), headers.get("parent_id")
            self._argsrepr, self._kwargsrepr = (
                headers.get("argsrepr", ""),
                headers.get("kwargsrepr", ""),
            )
            if limits := headers.get("timelimit"):
                self.time_limits = limits
            ignored = headers.get("ignore_result")
            self._ignore_result = ignore_results if ignored is None else ignored
            self._args, self._kwargs, _ = payload
            self._delivery_info = {
                "exchange": info.get("exchange"),
                "routing_key": info.get("routing_key"),
                "priority": properties.get("priority"),
                "redelivered": info.get("redelivered", False),
            }
            headers["properties"], headers["delivery_info"], headers["hostname"] = (
                properties,
                self._delivery_info,
                hostname,
            )
            headers["reply_to"], headers["correlation_id"] = (
                properties.get("reply_to"),
                properties.get("correlation_id"),
            )
            headers["args"], headers["kwargs"] = self._args, self._kwargs

        def execute_using_pool(self, pool: Any, **_: Any) -> Any:
            if (self._already_revoked or self.id in _revoked) and self.revoked():
                raise TaskRevokedError(self.id)
            hard, soft = self.time_limits
            traced = (self._type, self.id, self._request_dict, self._body, None, None)
            job = pool.take(
                run,
                traced,
                self,
                soft_timeout_s=soft or task.soft_time_limit,
                timeout_s=hard or task.time_limit,
            )
            self._apply_result = ref(job)
            return job

        def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
            reports.report(super().on_timeout, soft, timeout)

        def on_failure(
            self,
            exc_info: Any,
            send_failed_event: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
            return_ok: bool = False,  # noqa: FBT001, FBT002 - Celery's signature
        ) -> None:
            reports.report(super().on_failure, exc_info, send_failed_event, return_ok)

        def _announce_revoked(
            self,
            reason: str,
            terminated: bool,  # noqa: FBT001 - Celery's signature
            signum: Any,
            expired: bool,  # noqa: FBT001 - Celery's signature
        ) -> None:
            reports.report(super()._announce_revoked, reason, terminated, signum, expired)

    return PlainRequest


def _settle_at_once(consumer: Any) -> None:
    """Make Celery acknowledge messages at once, and not in the hub's next turn.

    Celery schedules acknowledgements on the hub because other pools run callbacks on other threads.
    This pool runs them on the consumer's thread, and the transport sends acknowledgements in
    batches.
    """
    if "create_task_handler" in vars(consumer) or not getattr(
        consumer.connection.transport, "notes_acks", False
    ):
        return

    def settling(settle: Any, args: Any, **options: Any) -> Any:
        if consumer.restart_count > 0 and not consumer._maximum_prefetch_restored:  # noqa: SLF001 - as Celery does
            return promise(settle, args, **options)  # Celery adds callbacks to this promise
        return args[0]

    consumer.create_task_handler = functools.partial(consumer.create_task_handler, promise=settling)
