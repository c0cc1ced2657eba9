"""Builds the Celery app: `celery -A worker worker | flower | call … | keys …`.

Raises:
    SystemExit: The settings of this process are wrong; its message says what to change.
"""

import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import celery.apps.worker
from celery import Celery, signals
from celery.loaders.app import AppLoader
from celery.utils.imports import cwd_in_path
from celery.utils.nodenames import node_format

from config.celery import DEFERRED, WORKER_PRODUCERS, celery_config
from config.current import get_settings
from config.environment import no_dotenv
from config.errors import SettingsError
from config.keys import Discovery, load_keys, refuse_wrong_values, require_any_key
from config.redis_roles import claim_result_backend
from config.services import SERVICES
from worker import (
    telemetry,
    tls_key_log,  # noqa: F401 - imported before the modules that make TLS contexts
)
from worker.aio.backend import RedisBackend
from worker.cli import flower
from worker.hooks import control  # noqa: F401 - it registers commands
from worker.hooks.backpressure import QueuePauser
from worker.hooks.cancel import Cancelling
from worker.hooks.health import PoolHealth
from worker.hooks.notifications import NotificationBound
from worker.hooks.publishing import note_enqueued, pass_on_tenant
from worker.hooks.queues import QueueChoice
from worker.logs import redactor, say_json, setup_logging
from worker.providers.proxies import proxy_for
from worker.runtime import stop_waiting
from worker.startup import (
    banner,
    command,
    files,
    worker_name,  # noqa: F401 - it connects a signal
)
from worker.startup.machine import check_machine
from worker.startup.no_start import logs_json, no_start
from worker.startup.rabbitmq import check_rabbitmq
from worker.startup.redis import check_redis

_logger = logging.getLogger(__name__)


class _Loader(AppLoader):
    """Ignores `CELERY_CONFIG_MODULE`, which may be meant for another program."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:  # noqa: ARG002 - Celery's
        return {}


def create_app() -> Celery:
    """Build the app from the settings of this process.

    Raises:
        SettingsError: The settings are wrong; the message says what to change.
    """
    if logs_json():
        # Warnings about the settings must be lines of JSON, too.
        setup_logging("INFO", log_format="json")
    settings = get_settings()
    claim_result_backend(settings)
    created = Celery("keywheel", loader=_Loader, task_cls="worker.hooks.task:ServiceTask")
    created.conf.update(celery_config(settings))
    created.Task.show_content = settings.show_content
    flower.install(settings)
    created.steps["worker"].add(PoolHealth)
    created.steps["consumer"].add(QueuePauser)
    created.steps["consumer"].add(Cancelling)
    created.steps["consumer"].add(NotificationBound)
    return created


try:
    app = create_app()
except SettingsError as exc:
    # The command line imports this module, so a traceback would hide the sentence.
    raise no_start(exc) from None
command.install()


@signals.import_modules.connect(weak=False)
def _import_task_modules(**_: Any) -> None:
    """Import the modules of `KEYWHEEL_TASKS`; end with a sentence if one cannot be found."""
    with cwd_in_path():
        for module in get_settings().task_modules:
            try:
                import_module(module)
            except ModuleNotFoundError as exc:
                sentence = _missing(module, exc.name or "")
                raise no_start(sentence) from None


def _missing(module: str, missing: str) -> str:
    """Explain why a module of `KEYWHEEL_TASKS` cannot be imported."""
    if f"{module}.".startswith(f"{missing}."):
        return (
            f"KEYWHEEL_TASKS names {module}, which cannot be found: start the worker in the folder "
            "of your project, or add that to PYTHONPATH."
        )
    ours, package = missing.partition(".")[0], __name__.rpartition(".")[0]
    advice = (
        f"in an installed Keywheel it is {package}"
        if package.endswith(f".{ours}")
        else "install it where the worker runs"
    )
    return f"KEYWHEEL_TASKS names {module}, which imports {missing}, and that is missing: {advice}."


@signals.worker_init.connect(weak=False)
def _install_telemetry(**_: Any) -> None:
    telemetry.install()


@signals.setup_logging.connect(weak=False)
def _set_up_logging(logfile: str | None = None, **_: Any) -> None:
    settings = get_settings()
    redactor.learn(settings.secrets)
    try:
        setup_logging(settings.log_level, log_format=settings.log_format, path=logfile or "")
    except OSError as exc:
        raise no_start(f"The file of --logfile cannot be opened: {exc.strerror}.") from None


@signals.celeryd_init.connect(weak=False)
def _prepare(instance: Any, options: dict[str, Any], **_: Any) -> None:
    if file := options.get("logfile"):
        _set_up_logging(node_format(file, instance.hostname))  # the file gets all further lines
    command.check_options(options, instance.app.conf)
    files.check_worker_files(options)
    instance.queue_choice = QueueChoice(options.get("queues"))
    instance.emit_banner = banner.survive_closed_output(instance.emit_banner)
    instance.app.conf.broker_pool_limit = WORKER_PRODUCERS
    signals.before_task_publish.connect(pass_on_tenant)
    signals.before_task_publish.connect(note_enqueued)
    RedisBackend.redact = staticmethod(redactor.redact)
    if get_settings().log_format == "json":
        # Each line is JSON: there is no banner, and Celery's shutdown message is a log line.
        _set_up_logging()
        instance.quiet = True
        celery.apps.worker.safe_say = say_json


@signals.celeryd_after_setup.connect(weak=False)
def _check_and_choose_queues(instance: Any, **_: Any) -> None:
    """Check this machine, Redis and the keys, and consume the queues of services with a key."""
    settings = get_settings()
    try:
        discoveries = {service: load_keys(service) for service in SERVICES}
        refuse_wrong_values(discoveries.values())
        if instance.queue_choice.by_keys:
            require_any_key(discoveries.values())
        for service, discovery in discoveries.items():
            if discovery.keys:
                proxy_for(
                    settings.services[service].base_url
                )  # an unusable proxy would fail each job
        check_machine(settings, discoveries, jobs=_max_jobs(instance))
        check_redis(settings)
        check_rabbitmq(settings)
    except SettingsError as exc:
        # Celery logs an exception of a signal's receiver and goes on, except for SystemExit.
        raise no_start(exc) from None
    instance.queue_choice.select(
        instance.app.amqp.queues,
        {service: len(discovery.keys) for service, discovery in discoveries.items()},
    )
    for sentence in instance.queue_choice.unknown(has_custom_tasks=bool(settings.task_modules)):
        _logger.warning(sentence)
    _log_keys_and_queues(discoveries, instance.app.amqp.queues.consume_from)


def _max_jobs(instance: Any) -> int:
    """Return how many jobs the worker may run at a time, by -c, --autoscale or the setting."""
    return int(instance.max_concurrency or instance.concurrency)


def _log_keys_and_queues(discoveries: Mapping[str, Discovery], queues: Iterable[str]) -> None:
    if (missing := no_dotenv()) is not None:
        _logger.info("%s: the settings come from the environment alone", missing)
    _logger.info(
        "keys: %s; queues: %s",
        ", ".join(f"{len(discovery.keys)} {service}" for service, discovery in discoveries.items()),
        ", ".join(name for name in queues if not name.endswith(DEFERRED)),
    )


@signals.worker_shutting_down.connect(weak=False)
def _send_waiting_jobs_back(**_: Any) -> None:
    """Send back the jobs that wait for a key, so that the worker ends when its calls have ended."""
    stop_waiting()


__all__ = ["app", "create_app"]
