"""Makes Celery's configuration, as plain data, from the settings."""

from typing import Any, Final
from urllib.parse import urlsplit

from kombu.entity import Exchange, Queue

from config.amqp_url import AmqpUrl, is_amqp
from config.fields import RESULT_BACKEND_CLASS
from config.redis_roles import RedisUrls
from config.services import SERVICES
from config.settings import Settings

POOL_CLASS: Final = "worker.aio.pool:TaskPool"
CONSUMER_CLASS: Final = "worker.hooks.consumer:Consumer"
TRANSPORT_CLASSES: Final = {
    "redis": "worker.aio.transport:Transport",
    "rediss": "worker.aio.transport:TlsTransport",
    "sentinel": "worker.aio.transport:SentinelTransport",
}
"""Our transport for each scheme of the broker's URL; a Unix socket uses kombu's own transport."""
_ADMIN: Final = "admin"
"""The queue of the tasks by which operators reach the workers, `tasks.admin`."""
NOTIFY: Final = "notify"
"""The queue of `tasks.notify`, which posts notifications of how jobs ended."""
QUEUE_OF_TASKS: Final = {
    **{service.tasks: service.queue for service in SERVICES.values()},
    f"tasks.{_ADMIN}": _ADMIN,
    f"tasks.{NOTIFY}": NOTIFY,
}
"""The modules with tasks, by their names in the checkout, and the queue of each.

The names of tasks begin with the name of their module."""
_ABOVE: Final = __name__.rpartition("config")[0]
"""The package of these modules in an installed wheel, `keywheel.`; empty in the checkout."""
QUEUES: Final = tuple(dict.fromkeys(queue for queue in QUEUE_OF_TASKS.values() if queue != NOTIFY))
"""The queues of the services and of `tasks.admin`; `consumed_queues` adds further queues.

Each service has its own queue, so that its backlog never delays other services, unless several
services name the same queue: see `config.services`."""
FOREIGN: Final = "celery"
"""The queue to which our workers send jobs of tasks that they do not know: Celery's default queue.

A step of a chain may be a task of the application that sent the chain. That application's worker
consumes this queue unless it names another one."""
CUSTOM_QUEUE: Final = "jobs"
"""The queue of the tasks that `KEYWHEEL_TASKS` adds."""
DEFERRED: Final = ".deferred"
"""The suffix of a deferred queue's name.

Deferred jobs of a queue return to its deferred queue, so that they run before the jobs that wait in
the queue."""
DELAYED_QUEUES: Final = {
    queue + DEFERRED: queue
    for queue in (*(service.queue for service in SERVICES.values()), CUSTOM_QUEUE, NOTIFY)
}
"""The deferred queues, each with its queue. Our transport keeps their jobs in Redis until they are
due, and delivers them before the jobs of the queue."""

WORKER_PRODUCERS = 2
"""The most connections of a worker for publishing; each may open two connections to Redis.

Jobs that return to their queue take turns, because a push takes only a millisecond. Flower and
other tools hold connections as long as they run, and keep Celery's limit of ten."""
_CONNECT_TIMEOUT_S = 5
_SOCKET_TIMEOUT_S = 30
_HEALTH_CHECK_S = 25
_RESTORE_S = 10
_HEARTBEAT_S = 30
_SYNC_THREADS = 16
"""Threads for a user's plain `def` tasks; the built-in tasks are all asynchronous."""
_ETA_TASKS = 10_000
"""The most jobs with a countdown in a worker's memory, if the transport cannot delay messages."""


def celery_config(settings: Settings) -> dict[str, Any]:
    """Make the configuration for `app.conf.update`. Never log it: its URLs contain passwords.

    Args:
        settings: The settings.
    """
    return {
        **_broker(settings),
        **_results(settings),
        **_tasks(settings),
        **_worker(settings),
        "timezone": "UTC",
        "enable_utc": True,
    }


def queue_of(task: str) -> str:
    """Name the queue that the jobs of a task go to; empty if it is not a built-in task."""
    return QUEUE_OF_TASKS.get(task.rpartition(".")[0], "")


def consumed_queues(settings: Settings) -> tuple[str, ...]:
    """Name the queues of a worker that has keys for all services."""
    custom = [CUSTOM_QUEUE] if settings.task_modules else []
    return (*QUEUES, *custom, *([NOTIFY] if settings.notify_hosts else []))


def delays_in_broker(settings: Settings) -> bool:
    """Whether deferred jobs wait in the broker until they are due. If not, workers hold them."""
    return _uses_rabbitmq(settings) or delays_in_redis(settings)


def delays_in_redis(settings: Settings) -> bool:
    """Whether deferred jobs wait in the broker's Redis, where they can be counted and woken."""
    return _transport(settings) is not None


def _uses_rabbitmq(settings: Settings) -> bool:
    return is_amqp(settings.broker_url.get_secret_value())


def _transport(settings: Settings) -> str | None:
    scheme = urlsplit(settings.broker_url.get_secret_value()).scheme
    return TRANSPORT_CLASSES.get(scheme) if settings.fast_transport else None


def _broker(settings: Settings) -> dict[str, Any]:
    return {
        **(_rabbitmq(settings) if _uses_rabbitmq(settings) else _redis_broker(settings)),
        # A worker that starts before Redis waits for it, and logs its address without the password.
        "broker_connection_retry_on_startup": True,
        # It retries for ever: jobs are safe in Redis, and an exit would not help.
        "broker_connection_max_retries": None,
        # It also waits for a Redis that rejects commands, for example because it is full.
        "broker_channel_error_retry": True,
    }


def _rabbitmq(settings: Settings) -> dict[str, Any]:
    url = AmqpUrl.read(settings.broker_url.get_secret_value())
    return {
        "broker_url": url.url,
        **({"broker_use_ssl": dict(url.tls)} if url.tls is not None else {}),
        # A connection without traffic for this long is dead; both sides check after half of it.
        "broker_heartbeat": _HEARTBEAT_S,
        # A publish returns when RabbitMQ has stored the message on its disks.
        "broker_transport_options": {"confirm_publish": True},
        # Deferred jobs need quorum queues and topic exchanges: they wait in Celery's delay queues,
        # one for each power of two of seconds. Source: kombu.transport.native_delayed_delivery.
        "task_create_missing_queue_type": "quorum",
        "task_create_missing_queue_exchange_type": "topic",
    }


def _redis_broker(settings: Settings) -> dict[str, Any]:
    urls = RedisUrls.of(settings)
    transport = _transport(settings)
    return {
        "broker_url": urls.broker,
        "broker_vhost": str(urls.broker_db),
        **({"broker_transport": transport} if transport else {}),
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_s,
            # Our own option: a worker's jobs are redelivered after this time without a heartbeat.
            "lease_s": settings.worker_lease_s,
            # Our own option: deferred jobs wait in Redis, by its clock, and no worker holds them.
            "delayed_queues": DELAYED_QUEUES,
            # How often kombu looks for jobs of workers that died. By default only every tenth look
            # has an effect, so that jobs would wait 90 s longer than the timeout.
            "unacked_restore_interval": min(_RESTORE_S, settings.visibility_timeout_s / 4),
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            # Longer than kombu's longest blocking pop, so that only a dead connection exceeds it.
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": _HEALTH_CHECK_S,
            # A push that timed out may have arrived, so a repetition could add a second job. Also,
            # kombu publishes in batches only if this is off (`Transport.supports_batch_publish`).
            "retry_on_timeout": False,
            **urls.broker_options,
        },
    }


def _results(settings: Settings) -> dict[str, Any]:
    return {
        "result_backend": f"{RESULT_BACKEND_CLASS}+{RedisUrls.of(settings).results}",
        "result_backend_transport_options": {
            "retry_policy": _retries_for(settings.task_time_limit_s)
        },
        "redis_socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "redis_socket_timeout": _SOCKET_TIMEOUT_S,
        # A connection through a Unix socket has no keepalive option.
        "redis_socket_keepalive": not RedisUrls.of(settings).results.startswith("socket:"),
        "redis_backend_health_check_interval": _HEALTH_CHECK_S,
        "redis_retry_on_timeout": True,  # storing a result twice does no harm
        "result_expires": settings.result_expires_s,
        "result_serializer": "json",
        "result_accept_content": ["json"],
        # Extended results would store the arguments, such as prompts and mail bodies, in Redis.
        "result_extended": False,
    }


def _retries_for(wait_s: int) -> dict[str, float]:
    """Make a policy that retries to store a result for at least `wait_s`.

    If its result cannot be stored, a job ends with the store's error, although its email was sent
    or its tokens were spent. So the retries last as long as the time limit of a job.
    """
    longest_s = 2  # short, because jobs that wait for the store take the places of other jobs
    return {
        "max_retries": wait_s // longest_s + 10,
        "interval_start": 0,
        "interval_step": 0.5,
        "interval_max": longest_s,
    }


def _route_of_known(
    _name: str, _args: Any, _kwargs: Any, _options: Any, task: Any = None, **_: Any
) -> dict[str, str] | None:
    """Route the user's own tasks: those that this process knows and that no other route matches.

    Their names need not begin with a module of `KEYWHEEL_TASKS`. A task may have another name, or
    be defined in a module that one of these modules imports.
    """
    return None if task is None else {"queue": CUSTOM_QUEUE}


def _tasks(settings: Settings) -> dict[str, Any]:
    return {
        "include": [*(_ABOVE + module for module in QUEUE_OF_TASKS), *settings.task_modules],
        "task_queues": tuple(
            _queue(name, quorum=_uses_rabbitmq(settings)) for name in consumed_queues(settings)
        ),
        "task_routes": [
            {f"{module}.*": {"queue": queue} for module, queue in QUEUE_OF_TASKS.items()}
            | {f"{module}.*": {"queue": CUSTOM_QUEUE} for module in settings.task_modules}
            | {"celery.*": {"queue": QUEUES[0]}},  # Celery's own tasks, which every worker knows
            _route_of_known,
        ],
        "task_default_queue": FOREIGN,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_track_started": False,  # saves a write; Flower gets this state from events
        "task_ignore_result": False,
        "task_store_errors_even_if_ignored": True,
        "task_send_sent_event": False,
        "task_time_limit": settings.task_time_limit_s,
        "task_soft_time_limit": settings.task_soft_time_limit_s,
    }


def _queue(name: str, *, quorum: bool) -> Queue:
    # This is the exchange that a producer declares if it knows only the queue's name.
    exchange = Exchange(name, type="topic" if quorum else "direct")  # type: ignore[no-untyped-call]
    arguments = {"x-queue-type": "quorum"} if quorum else None
    return Queue(name, exchange, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]


def _worker(settings: Settings) -> dict[str, Any]:
    return {
        "worker_pool": POOL_CLASS,
        "worker_consumer": CONSUMER_CLASS,
        "worker_concurrency": settings.worker_concurrency,
        "worker_aio_threads": _SYNC_THREADS,
        # One more than our own bound, which is reached first and also makes a dead letter.
        "worker_aio_lost_runs": settings.max_deliveries + 1,
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": max(_ETA_TASKS, settings.worker_concurrency),
        "worker_send_task_events": True,
        "worker_enable_remote_control": True,
        # worker/logs/setup.py sets up the handlers, by Celery's signal setup_logging.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # A moment without Redis must not cancel hundreds of calls in flight. The outcome of each
        # email would be unknown, and the tokens of each completion wasted. So the calls finish and
        # their results are stored. Our transport acknowledges the messages when Redis is back. With
        # kombu's transport, or if the worker dies, a message is redelivered. Then the next setting
        # ends a job that has already succeeded, without running it again.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_deduplicate_successful_tasks": True,
    }
