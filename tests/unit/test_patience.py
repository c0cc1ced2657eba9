"""How long Flower and the commands wait for a broker that hangs."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import amqp
import click
import pytest
from celery import Celery
from click.testing import CliRunner
from kombu.exceptions import OperationalError

from config.celery import celery_config
from config.current import get_settings
from config.settings import settings_from
from worker.cli.output import OutputCommand
from worker.startup import command, patience
from worker.startup.patience import REPLY_S, shorten_waits


def app_of(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Celery:
    settings = settings_from(environ)
    monkeypatch.setattr(patience, "get_settings", lambda: settings)
    app = Celery(set_as_current=False)
    app.conf.update(celery_config(settings))
    return app


@pytest.mark.parametrize("method", ["broadcast", "send_task"])
def test_a_message_is_tried_once_more_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    app = Celery(broker="memory://localhost", set_as_current=False)
    tries = 0

    def lose(*_: Any, **__: Any) -> None:
        nonlocal tries
        tries += 1
        # Without a limit Celery would try a command for ever.
        raise amqp.ConnectionError("it is gone") if tries < 9 else AssertionError

    monkeypatch.setattr("kombu.transport.virtual.Channel.basic_publish", lose)
    # The setting of the Redis transport: any number of attempts.
    lost = "kombu.transport.memory.Transport.recoverable_connection_errors"
    monkeypatch.setattr(lost, (amqp.ConnectionError,), raising=False)
    for _ in range(2):  # a second call changes nothing
        shorten_waits(app)
    ask = app.control.broadcast if method == "broadcast" else app.send_task
    with pytest.raises(OperationalError):
        ask("ping")
    assert tries == 2


def test_an_answer_of_redis_is_given_up_after_a_few_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = app_of(monkeypatch, REDIS_URL="redis://127.0.0.1:1/0")
    shorten_waits(app)
    assert app.conf.broker_transport_options["socket_timeout"] == REPLY_S
    assert app.conf.broker_transport_options["lease_s"] == get_settings().worker_lease_s
    waits: Any = app.backend
    assert waits.connparams["socket_timeout"] == REPLY_S
    assert not waits.connparams["retry_on_timeout"]


def test_the_time_that_the_url_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(monkeypatch, REDIS_URL="redis://127.0.0.1:1/0?socket_timeout=17")
    shorten_waits(app)
    assert app.conf.broker_transport_options["socket_timeout"] == 17
    waits: Any = app.backend
    assert waits.connparams["socket_timeout"] == 17


def test_rabbitmq_gets_no_option_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {"REDIS_URL": "redis://127.0.0.1:1/0", "CELERY_BROKER_URL": "amqp://guest@127.0.0.1//"}
    app = app_of(monkeypatch, **urls)
    shorten_waits(app)
    assert app.conf.broker_transport_options == {"confirm_publish": True}


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module, names in command._ASKING_COMMANDS.items() for name in names],
)
def test_the_commands_of_celery_give_up_on_a_broker_soon(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    asking: Any = ModuleType(module)
    seen: list[Any] = []
    asking.__dict__.update(
        {each: SimpleNamespace(callback=None) for each in command._ASKING_COMMANDS[module]}
    )
    setattr(asking, name, click.command()(lambda: seen.append("ran")))
    monkeypatch.setitem(sys.modules, module, asking)
    monkeypatch.setattr(command, "shorten_waits", seen.append)
    for other in set(command._ASKING_COMMANDS) - {module}:
        monkeypatch.delitem(sys.modules, other, raising=False)
    command._shorten_waits_of_commands()
    ran = CliRunner().invoke(getattr(asking, name), obj=SimpleNamespace(app="the app"))
    assert (ran.exception, seen) == (None, ["the app", "ran"])


def test_our_commands_give_up_on_a_broker_soon() -> None:
    app = Celery(set_as_current=False)
    ran = CliRunner().invoke(
        click.command(cls=OutputCommand)(lambda: None), obj=SimpleNamespace(app=app)
    )
    assert (ran.exception, app.conf.redis_socket_timeout) == (None, REPLY_S)
