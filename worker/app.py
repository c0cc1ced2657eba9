"""The Celery app: `celery -A worker worker | flower | call … | keys …`."""

import logging
from typing import Any

from celery import Celery, signals

from config.celery import DEFERRED, QUEUE_OF, celery_config
from config.errors import SettingsError
from config.keys import SERVICES, load_keys, require_any_key
from config.settings import claim_result_backend, get_settings
from worker import control  # noqa: F401 - registers its commands
from worker.gate import Gate
from worker.health import PoolHealth
from worker.logs import redactor, setup_logging

_logger = logging.getLogger(__name__)
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
    created.steps["consumer"].add(Gate)
    return created


app = create_app()


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: Any) -> None:
    settings = get_settings()
    redactor.learn(settings.secrets)
    setup_logging(settings.log_level, log_format=settings.log_format)


@signals.celeryd_init.connect(weak=False)
def _remember_queues(options: dict[str, Any], **_: Any) -> None:
    _queues_asked_for.clear()
    if asked_for := options.get("queues"):
        _queues_asked_for.update(asked_for.split(",") if isinstance(asked_for, str) else asked_for)


@signals.celeryd_after_setup.connect(weak=False)
def _leave_queues_without_keys(instance: Any, **_: Any) -> None:
    """A worker that has no key for a service leaves that service's jobs to the workers that have."""
    try:
        found = {service: load_keys(service) for service in SERVICES}
        if not _queues_asked_for:
            require_any_key(found.values())
    except SettingsError as exc:
        # Celery logs what a signal's receiver raises and goes on; this it lets through.
        raise SystemExit(f"keywheel cannot start.\n{exc}") from None
    if not _queues_asked_for:
        for service, discovery in found.items():
            if not discovery.keys:
                _logger.warning(
                    "no %s key is configured: this worker leaves the queue '%s' alone", service, QUEUE_OF[service]
                )
                instance.app.amqp.queues.deselect([QUEUE_OF[service], QUEUE_OF[service] + DEFERRED])
    consumed = instance.app.amqp.queues.consume_from
    for queue in QUEUE_OF.values():
        if queue in consumed and queue + DEFERRED not in consumed:  # -Q names the queue that people know
            instance.app.amqp.queues.select_add(instance.app.amqp.queues[queue + DEFERRED])
    _logger.info(
        "keys: %s; queues: %s",
        ", ".join(f"{len(discovery.keys)} {service}" for service, discovery in found.items()),
        ", ".join(name for name in consumed if not name.endswith(DEFERRED)),
    )


__all__ = ["app", "create_app"]
