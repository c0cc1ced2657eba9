"""Celery's configuration, as plain data made from the settings."""

from typing import Any, Final
from urllib.parse import urlsplit

from kombu.entity import Exchange, Queue

from config.fields import RESULT_BACKEND_CLASS
from config.redis_roles import RedisUrls
from config.services import SERVICES
from config.settings import Settings

POOL_CLASS: Final = "worker.aio.pool:TaskPool"
CONSUMER_CLASS: Final = "worker.hooks.consumer:Consumer"
TRANSPORT_CLASSES: Final = {
    "redis": "worker.aio.transport:Transport",
    "rediss": "worker.aio.transport:TlsTransport",
}
"""Our transport for each scheme of the broker's URL; a socket keeps kombu's own."""
_ADMIN: Final = "admin"
"""The queue of what operators ask the workers, by the tasks of `tasks.admin`."""
QUEUE_OF_TASKS: Final = {
    **{service.tasks: service.queue for service in SERVICES.values()},
    f"tasks.{_ADMIN}": _ADMIN,
}
"""The modules with the tasks, as the checkout names them, and the queue of each.

The names of a module's tasks begin with its own."""
_ABOVE: Final = __name__.rpartition("config")[0]
"""What stands before these in an installed wheel, where all of ours is in one package: `keywheel.`."""
QUEUES: Final = tuple(dict.fromkeys(QUEUE_OF_TASKS.values()))
"""Services have queues of their own, so that a backlog of one never delays the others.

Unless two of them share one on purpose: see `config.services`."""
_FOREIGN: Final = "celery"
"""Where our workers send the jobs of tasks that they do not know: Celery's own default.

A step of a chain may be a task of the application that sent the chain, whose worker consumes that
queue unless it names another one."""
CUSTOM_QUEUE: Final = "jobs"
"""The queue of the tasks that `KEYWHEEL_TASKS` brings."""
DEFERRED: Final = ".deferred"
"""What stands behind a queue's name where its deferred jobs come back.

Before the jobs that wait, not behind them.
"""
DELAYED_QUEUES: Final = {
    queue + DEFERRED: queue
    for queue in (*(service.queue for service in SERVICES.values()), CUSTOM_QUEUE)
}
"""The queues whose jobs our transport keeps in Redis until they are due, each with the one that it goes before."""

WORKER_PRODUCERS = 2
"""How many connections a worker has for what it publishes; each is up to two of Redis'.

Jobs that go back take turns, since a push takes a millisecond. Flower and other tools hold some for
as long as they run, and keep Celery's ten."""
_CONNECT_TIMEOUT_S = 5
_SOCKET_TIMEOUT_S = 30
_HEALTH_CHECK_S = 25
_RESTORE_S = 10
_SYNC_THREADS = 16
"""Threads for plain `def` tasks that a user adds; ours are all asynchronous."""
_ETA_TASKS = 10_000
"""How many jobs with a countdown a worker holds in memory, with a transport that cannot delay."""


def celery_config(settings: Settings) -> dict[str, Any]:
    """Give what `app.conf.update` takes.

    Holds the URLs with their passwords, so it is not for logs.

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
    """Name the queue that the jobs of a task go to; empty where it is no task of ours."""
    return QUEUE_OF_TASKS.get(task.rpartition(".")[0], "")


def delays_in_broker(settings: Settings) -> bool:
    """Whether deferred jobs wait in the broker until they are due; else workers hold them."""
    return _transport(settings) is not None


def _transport(settings: Settings) -> str | None:
    scheme = urlsplit(settings.broker_url.get_secret_value()).scheme
    return TRANSPORT_CLASSES.get(scheme) if settings.fast_transport else None


def _broker(settings: Settings) -> dict[str, Any]:
    urls = RedisUrls.of(settings)
    url = urls.broker
    transport = _transport(settings)
    return {
        "broker_url": url,
        "broker_vhost": str(urls.broker_db),
        **({"broker_transport": transport} if transport else {}),
        # A worker started before Redis waits for it, and says whom it cannot reach (Celery masks
        # the password).
        "broker_connection_retry_on_startup": True,
        # for ever: jobs are safe in Redis, and an exit would help nobody
        "broker_connection_max_retries": None,
        # a Redis that refuses, as a full one does, is waited for as well
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_s,
            # Ours: a worker that is silent for so long counts as dead, and its jobs go to others.
            "lease_s": settings.worker_lease_s,
            # Ours as well: deferred jobs wait in Redis, by its clock, and no worker holds them.
            "delayed_queues": DELAYED_QUEUES,
            # How often kombu looks for jobs whose worker vanished; by default it acts on every
            # tenth look only, so that they would lie for more than a minute and a half beyond the
            # time-out.
            "unacked_restore_interval": min(_RESTORE_S, settings.visibility_timeout_s / 4),
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            # Above kombu's longest blocking pop, so that only a dead connection runs into it.
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": _HEALTH_CHECK_S,
            # A push that timed out may have arrived, and a blind repetition would be a second job.
            # kombu also publishes in batches only without it (`Transport.supports_batch_publish`).
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
        # A connection by a socket of this machine takes no such option.
        "redis_socket_keepalive": not RedisUrls.of(settings).results.startswith("socket:"),
        "redis_backend_health_check_interval": _HEALTH_CHECK_S,
        "redis_retry_on_timeout": True,  # storing a result twice is storing it once
        "result_expires": settings.result_expires_s,
        "result_serializer": "json",
        "result_accept_content": ["json"],
        # Extended results would keep the arguments, which are prompts and mail bodies, in Redis.
        "result_extended": False,
    }


def _retries_for(wait_s: int) -> dict[str, float]:
    """Try to store a result for at least so long.

    Until then the job has its time limit, and what it did is done.

    A job whose result cannot be stored ends with the store's error, although an email was sent or
    tokens were spent.
    """
    longest_s = 5
    return {
        "max_retries": wait_s // longest_s + 10,
        "interval_start": 0,
        "interval_step": 0.5,
        "interval_max": longest_s,
    }


def _tasks(settings: Settings) -> dict[str, Any]:
    return {
        "include": [*(_ABOVE + module for module in QUEUE_OF_TASKS), *settings.task_modules],
        "task_queues": tuple(
            _queue(name) for name in (*QUEUES, *([CUSTOM_QUEUE] if settings.task_modules else ()))
        ),
        "task_routes": {f"{module}.*": {"queue": queue} for module, queue in QUEUE_OF_TASKS.items()}
        | {f"{module}.*": {"queue": CUSTOM_QUEUE} for module in settings.task_modules}
        | {"celery.*": {"queue": QUEUES[0]}},  # Celery's own tasks, which every worker knows
        "task_default_queue": _FOREIGN,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_track_started": False,  # one write a job less; Flower learns it from events
        "task_ignore_result": False,
        "task_store_errors_even_if_ignored": True,
        "task_send_sent_event": False,
        "task_time_limit": settings.task_time_limit_s,
        "task_soft_time_limit": settings.task_soft_time_limit_s,
    }


def _queue(name: str) -> Queue:
    # An exchange of its own, as a producer declares it that knows no more than the queue's name.
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def _worker(settings: Settings) -> dict[str, Any]:
    return {
        "worker_pool": POOL_CLASS,
        "worker_consumer": CONSUMER_CLASS,
        "worker_concurrency": settings.worker_concurrency,
        "worker_aio_threads": _SYNC_THREADS,
        # One more than our own bound, which also keeps a dead letter.
        "worker_aio_lost_runs": settings.max_deliveries + 1,
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": max(_ETA_TASKS, settings.worker_concurrency),
        "worker_send_task_events": True,
        "worker_enable_remote_control": True,
        # worker/logs.py sets the handlers up, through Celery's setup_logging signal.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # A moment without Redis must not cut off hundreds of calls in flight: that would turn each
        # email under way into one with an unknown outcome and waste the tokens of each completion.
        # They finish and store their result. Our transport acknowledges them when Redis is back;
        # with kombu's, and where the worker dies, the message comes again, and the next setting
        # lets a success pass without running again.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_deduplicate_successful_tasks": True,
    }
