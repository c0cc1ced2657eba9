"""The messages of a start about RabbitMQ, without one."""

import errno
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotAllowed

from config.errors import SettingsError
from config.settings import Settings, settings_from
from worker.startup import rabbitmq


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A RabbitMQ that refuses connections with an error; `connections` has the options of each."""
    made = SimpleNamespace(error=None, connections=[], released=0)

    class Connection:
        def __init__(self, url: str, **options: Any) -> None:
            made.connections.append((url, options))

        def connect(self) -> None:
            if made.error is not None:
                raise made.error

        def release(self) -> None:
            made.released += 1

    monkeypatch.setattr(rabbitmq, "_Connection", Connection)
    return made


def by_url(url: str) -> Settings:
    return settings_from({"CELERY_BROKER_URL": url})


def test_rabbitmq_is_checked_once_and_a_redis_is_not(broker: Any) -> None:
    rabbitmq.check_rabbitmq(by_url("redis://127.0.0.1:6379/0"))
    assert broker.connections == []
    rabbitmq.check_rabbitmq(by_url("amqp://u:p@h:5672/v"))
    [(url, options)] = broker.connections
    assert url.startswith("amqp://u:p@h:5672/")
    assert options == {"ssl": False, "connect_timeout": 5.0}
    assert broker.released == 1
    rabbitmq.check_rabbitmq(by_url("amqps://u:p@h:5671/v"))
    assert isinstance(broker.connections[1][1]["ssl"], dict)


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (AccessRefused("no"), "does not let this worker in: the user or the password is wrong"),
        (
            NotAllowed("no"),
            (
                "has no such virtual host, or this user may not use it: its name is at the end of "
                "the URL, as in amqp://user:password@host:5672/vhost"
            ),
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), None),
    ],
)
def test_a_start_ends_if_rabbitmq_refuses_and_goes_on_if_it_is_down(
    broker: Any, caplog: pytest.LogCaptureFixture, error: Exception, refusal: str | None
) -> None:
    caplog.set_level(logging.DEBUG, "worker.startup.rabbitmq")
    broker.error = error
    settings = by_url("amqp://u:canary@h:5672/v")
    if refusal is None:
        rabbitmq.check_rabbitmq(settings)
        [warning] = caplog.messages
        assert warning == f"cannot check RabbitMQ at {settings.broker_url} yet: {error}"
        assert "canary" not in warning
    else:
        with pytest.raises(SettingsError) as caught:
            rabbitmq.check_rabbitmq(settings)
        at = "CELERY_BROKER_URL: RabbitMQ at amqp://u:***@h:5672/v"
        assert str(caught.value) == f"{at} {refusal}."
    assert broker.released == 1


def test_a_bug_in_the_check_keeps_its_traceback(broker: Any) -> None:
    broker.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        rabbitmq.check_rabbitmq(by_url("amqp://h"))
    assert broker.released == 1
