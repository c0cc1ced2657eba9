"""Celery's configuration: plain data that Celery accepts and that keeps content out of Redis."""

from typing import Any

import pytest
from celery import Celery
from celery.app.defaults import NAMESPACES, flatten
from pydantic import SecretStr

from config.celery import (
    DEFERRED,
    QUEUES,
    celery_config,
    delays_in_broker,
    delays_in_redis,
)
from config.services import SERVICES
from config.settings import Settings, settings_from
from config.urls import SecretUrl
from worker.aio.transport import Channel
from worker.deadletters.replay import _publisher

CONFIG = celery_config(Settings())


def test_every_name_is_one_that_celery_knows() -> None:
    known = {name for name, _ in flatten(NAMESPACES)}
    # Celery's Redis backend reads the first, although its table of settings lacks it; our pool
    # reads the others.
    assert set(CONFIG) - known == {
        "redis_backend_health_check_interval",
        "worker_aio_threads",
        "worker_aio_lost_runs",
    }


def test_every_transport_option_is_one_that_the_transport_reads() -> None:
    assert set(CONFIG["broker_transport_options"]) <= set(Channel.from_transport_options)


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("tasks.ai.complete", "ai"),
        ("tasks.email.send", "email"),
        ("tasks.admin.key_status", "admin"),
    ],
)
def test_a_task_goes_to_the_queue_of_its_kind(task: str, queue: str) -> None:
    app = Celery(set_as_current=False)
    app.conf.update(CONFIG)
    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_a_task_of_the_users_own_goes_to_its_queue_whatever_its_name() -> None:
    app = Celery(set_as_current=False)
    app.conf.update(CONFIG)
    letter = app.task(lambda: None, name="letter", shared=False)
    # None: this process does not know the task.
    for task, queue in ((letter, "jobs"), (None, "celery")):
        route = app.amqp.router.route({}, "letter", task_type=task)
        assert route["queue"].name == queue
    assert (
        app.amqp.router.route({"queue": "mine"}, "letter", task_type=letter)["queue"].name == "mine"
    )


def test_a_worker_consumes_all_three_queues() -> None:
    app = Celery(set_as_current=False)
    app.conf.update(CONFIG)
    assert set(app.amqp.queues.consume_from) == set(QUEUES)
    for queue in app.amqp.queues.consume_from.values():
        # the message of a foreign producer that only names the queue
        assert queue.exchange.name == queue.routing_key == queue.name


def test_json_only_and_no_arguments_beside_results() -> None:
    assert CONFIG["accept_content"] == CONFIG["result_accept_content"] == ["json"]
    assert {CONFIG[f"{kind}_serializer"] for kind in ("task", "result", "event")} == {"json"}
    assert CONFIG["result_extended"] is False


@pytest.mark.parametrize("limit_s", [10, 300, 440])
def test_an_outage_within_a_jobs_time_limit_costs_no_result(limit_s: int) -> None:
    settings = Settings(
        task_time_limit_s=limit_s,
        services={name: {"timeout_s": 3} for name in SERVICES},
    )
    policy = celery_config(settings)["result_backend_transport_options"]["retry_policy"]
    pauses = [
        min(policy["interval_start"] + n * policy["interval_step"], policy["interval_max"])
        for n in range(policy["max_retries"])
    ]
    assert limit_s < sum(pauses) < limit_s + 60
    assert max(pauses) <= 2, "ended jobs keep their slots for this time after an outage"


RELIED_ON_OF_RABBITMQ: dict[str, Any] = {
    "broker_channel_error_retry": True,
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    "broker_heartbeat": 30,
    "broker_transport_options": {"confirm_publish": True},
    "task_create_missing_queue_exchange_type": "topic",
    "task_create_missing_queue_type": "quorum",
}


def test_rabbitmq_gets_quorum_queues_whose_messages_can_be_delayed() -> None:
    url = "amqps://u:canary@h:5671/v"
    config = celery_config(Settings(broker_url=SecretUrl(f"{url}?ssl_ca_certs=/ca.crt")))
    assert {name: config[name] for name in RELIED_ON_OF_RABBITMQ} == RELIED_ON_OF_RABBITMQ
    assert config["broker_url"] == url
    # kombu puts the host's name there; without it, py-amqp would check no name
    assert config["broker_use_ssl"] == {"ca_certs": "/ca.crt", "server_hostname": None}
    with Celery(set_as_current=False) as app:
        app.conf.update(config)
        # also the queues that are made when they are needed
        for name in (*QUEUES, f"{QUEUES[0]}{DEFERRED}"):
            queue = app.amqp.queues[name]
            assert queue.queue_arguments == {"x-queue-type": "quorum"}
            assert (queue.exchange.name, queue.exchange.type) == (name, "topic")
        # A replay has an app of its own; it finds the same queues by the same connection.
        for each_app in (app, _publisher(app)):
            deferred = each_app.amqp.queues[f"{QUEUES[0]}{DEFERRED}"]
            assert deferred.queue_arguments == {"x-queue-type": "quorum"}
            assert deferred.exchange.type == "topic"
            connection = each_app.connection()
            assert connection.transport.driver_type == "amqp"
            assert connection.transport.client.ssl["ca_certs"] == "/ca.crt"


def test_settings_reach_celery() -> None:
    config = celery_config(
        Settings(
            broker_url=SecretUrl("redis://broker:1/0"),
            result_backend_url=SecretUrl("redis://results:1/0"),
            worker_concurrency=20_000,
            task_time_limit_s=400,
            result_expires_s=60,
            admin_token=SecretStr("canary-canary-canary"),
        )
    )
    assert config["broker_url"] == "redis://broker:1/0"
    assert config["result_backend"] == "worker.aio.backend:RedisBackend+redis://results:1/0"
    assert config["broker_transport_options"]["visibility_timeout"] == 1200
    assert (config["task_time_limit"], config["task_soft_time_limit"]) == (400, 370)
    assert config["result_expires"] == 60
    # Waiting jobs must not keep a worker from taking further jobs.
    assert config["worker_eta_task_limit"] == config["worker_concurrency"] == 20_000
    assert "canary" not in repr(config)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        # kombu would accept any certificate, and Celery's backend would refuse the URL
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?db=1", "rediss://h/1?ssl_cert_reqs=required"),
        # an explicit choice is kept
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_a_tls_url_asks_for_a_checked_certificate(url: str, used: str) -> None:
    config = celery_config(Settings(redis_url=SecretUrl(url)))
    assert config["broker_url"] == used
    assert config["result_backend"].endswith(f"+{used}")


@pytest.mark.parametrize(
    ("url", "fast", "transport"),
    [
        ("redis://h/0", True, "worker.aio.transport:Transport"),
        # kombu reads the use of TLS from the URL's scheme, but not if a transport is named
        ("rediss://h/0", True, "worker.aio.transport:TlsTransport"),
        # the same holds for the options of sentinels
        ("sentinel://h,i/0?master_name=m", True, "worker.aio.transport:SentinelTransport"),
        # kombu's own value if ours does not apply
        ("redis+socket:///run/redis.sock", True, None),
        # switched off
        ("redis://h/0", False, None),
        ("rediss://h/0", False, None),
    ],
)
def test_the_transport_is_ours_if_it_can_be_and_is_wanted(
    url: str,
    fast: bool,  # noqa: FBT001 - a table
    transport: str | None,
) -> None:
    config = celery_config(Settings(broker_url=SecretUrl(url), fast_transport=fast))
    assert config.get("broker_transport") == transport
    with Celery(set_as_current=False, broker=config["broker_url"]) as app:
        app.conf.update(config)
        connection = app.connection()
        assert bool(connection.ssl) == url.startswith("rediss")
        kind = connection.get_transport_cls()
        assert f"{kind.__module__}:{kind.__name__}" == transport or (
            transport is None and kind.__module__ == "kombu.transport.redis"
        )


# Settings that a worker relies on; config/celery.py has the reasons.
RELIED_ON: dict[str, Any] = {
    "accept_content": ["json"],
    "broker_channel_error_retry": True,
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {
        "delayed_queues": {
            f"{queue}.deferred": queue
            for queue in (*(service.queue for service in SERVICES.values()), "jobs", "notify")
        },
        "health_check_interval": 25,
        "lease_s": 30.0,
        "retry_on_timeout": False,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "socket_timeout": 30,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "visibility_timeout": 900,
    },
    "enable_utc": True,
    "event_serializer": "json",
    "redis_backend_health_check_interval": 25,
    "redis_retry_on_timeout": True,
    "redis_socket_connect_timeout": 5,
    "redis_socket_keepalive": True,
    "redis_socket_timeout": 30,
    "result_accept_content": ["json"],
    "result_extended": False,
    "result_serializer": "json",
    "task_acks_late": True,
    "task_default_queue": "celery",
    "task_ignore_result": False,
    "task_reject_on_worker_lost": True,
    "task_send_sent_event": False,
    "task_serializer": "json",
    "task_store_errors_even_if_ignored": True,
    "task_track_started": False,
    "timezone": "UTC",
    "worker_aio_lost_runs": 6,
    "worker_aio_threads": 16,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_deduplicate_successful_tasks": True,
    "worker_enable_remote_control": True,
    "worker_eta_task_limit": 10_000,
    "worker_hijack_root_logger": False,
    "worker_prefetch_multiplier": 1,
    "worker_redirect_stdouts": False,
    "worker_send_task_events": True,
}


def test_celerys_configuration_has_all_that_a_worker_relies_on() -> None:
    config = celery_config(settings_from({}))
    assert {name: config[name] for name in RELIED_ON} == RELIED_ON
    through_a_socket = settings_from({"CELERY_RESULT_BACKEND": "redis+socket:///s"})
    assert celery_config(through_a_socket)["redis_socket_keepalive"] is False
    timeouts = {f"KEYWHEEL_{service.prefix}TIMEOUT_S": "0.1" for service in SERVICES.values()}
    hurried = celery_config(settings_from({"KEYWHEEL_TASK_TIME_LIMIT_S": "2"} | timeouts))
    assert hurried["broker_transport_options"]["unacked_restore_interval"] == 1.5


def test_a_worker_loads_our_tasks_and_those_of_the_settings() -> None:
    ours = [*(service.tasks for service in SERVICES.values()), "tasks.admin", "tasks.notify"]
    assert CONFIG["include"] == ours
    assert celery_config(settings_from({"KEYWHEEL_TASKS": "jobs"}))["include"] == [*ours, "jobs"]


# A broker, whether deferred jobs wait in it, and whether it is Redis.
@pytest.mark.parametrize(
    ("environ", "in_broker", "in_redis"),
    [
        ({"CELERY_BROKER_URL": "redis://h/0"}, True, True),
        ({"CELERY_BROKER_URL": "redis://h/0", "KEYWHEEL_FAST_TRANSPORT": "0"}, False, False),
        ({"CELERY_BROKER_URL": "redis+socket:///tmp/redis.sock"}, False, False),
        ({"CELERY_BROKER_URL": "amqp://h"}, True, False),
    ],
)
def test_deferred_jobs_wait_in_the_broker_if_it_can_delay_messages(
    environ: dict[str, str], *, in_broker: bool, in_redis: bool
) -> None:
    settings = settings_from(environ)
    assert (delays_in_broker(settings), delays_in_redis(settings)) == (in_broker, in_redis)
