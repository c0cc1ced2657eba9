"""The Celery app: `celery -A worker worker | flower | call … | keys …`."""

import logging
from typing import Any

from celery import Celery, signals

from config.celery import QUEUES, celery_config
from config.keys import SERVICES, load_keys, require_any_key
from config.settings import claim_result_backend, get_settings
from worker.health import PoolHealth
from worker.logs import redactor, setup_logging

_logger = logging.getLogger(__name__)
_QUEUE_OF = {"groq": "ai", "resend": "email"}
_queues_asked_for: set[str] = set()


def create_app() -> Celery:
    """Build the app from the settings of this process.

    Raises:
        SettingsError: The settings are wrong; the message says what to change.
    """
    settings = get_settings()
    claim_result_backend(settings)
    created = Celery("keywheel", task_cls="worker.task:ServiceTask")
    created.conf.update(celery_config(settings))
    created.Task.show_content = settings.show_content
    created.steps["worker"].add(PoolHealth)
    return created


app = create_app()


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: Any) -> None:
    settings = get_settings()
    redactor.learn([settings.redis_url.get_secret_value()])
    setup_logging(settings.log_level, log_format=settings.log_format)


@signals.celeryd_init.connect(weak=False)
def _remember_queues(options: dict[str, Any], **_: Any) -> None:
    _queues_asked_for.clear()
    if asked_for := options.get("queues"):
        _queues_asked_for.update(asked_for.split(",") if isinstance(asked_for, str) else asked_for)


@signals.celeryd_after_setup.connect(weak=False)
def _leave_queues_without_keys(instance: Any, **_: Any) -> None:
    """A worker that has no key for a service leaves that service's jobs to the workers that have."""
    found = {service: load_keys(service) for service in SERVICES}
    if not _queues_asked_for:
        require_any_key(found.values())
        for service, discovery in found.items():
            if not discovery.keys:
                _logger.warning(
                    "no %s key is configured: this worker leaves the queue '%s' alone", service, _QUEUE_OF[service]
                )
                instance.app.amqp.queues.deselect([_QUEUE_OF[service]])
    _logger.info(
        "keys: %s; queues: %s",
        ", ".join(f"{len(discovery.keys)} {service}" for service, discovery in found.items()),
        ", ".join(name for name in QUEUES if name in instance.app.amqp.queues.consume_from),
    )


__all__ = ["app", "create_app"]
