"""The messages of the commands about a Redis, or another broker, that cannot be used."""

import os
import pwd
import ssl
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import click
import pytest
from celery import Celery
from click import Command
from click.testing import CliRunner
from kombu.exceptions import OperationalError
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis-py's own
    ResponseError,
)

from config.current import get_settings
from worker.arguments.admin import CancelArguments, ResetArguments
from worker.arguments.base import Arguments, check
from worker.cli import key_changes, session
from worker.cli.cancel import cancel
from worker.cli.job import job
from worker.cli.quote import quote
from worker.cli.session import current_user, failure_of
from worker.errors import InvalidArguments
from worker.startup.redis_tls import tls_refusal_of


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ConnectionError("Error 111. Connection refused."),
            "does not answer (Error 111. Connection refused.): is it running?",
        ),
        (
            ConnectionError("[Errno 111] Connect call failed ('::1',)"),
            "does not answer ([Errno 111] Connect call failed ('::1',)): is it running?",
        ),
        (
            AuthenticationError("invalid username-password pair"),
            "does not let this worker in: invalid username-password pair",
        ),
        (
            ResponseError("LOADING Redis is loading"),
            "does not answer (LOADING Redis is loading)",
        ),
    ],
)
def test_only_if_nothing_listens_a_command_asks_whether_redis_runs(
    error: Exception, sentence: str
) -> None:
    assert failure_of(error) == sentence


def test_a_command_names_files_of_the_url_that_cannot_be_read() -> None:
    error = ConnectionError("Error 2 connecting to 127.0.0.1:1. No such file or directory.")
    assert failure_of(error, url="rediss://127.0.0.1:1/0?ssl_ca_certs=/none.pem") == (
        "cannot be reached with the certificates that the URL names (No such file or directory)"
    )


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (10, "renew it, or correct this machine's clock"),  # expired
        (62, "name the host as the certificate does"),
        (20, "name its authority in ssl_ca_certs"),
    ],
)
def test_the_advice_depends_on_the_fault_of_a_certificate(code: int, advice: str) -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_code, refused.verify_message = code, "OpenSSL's words"
    sentence = tls_refusal_of(refused)
    assert sentence == f"shows a certificate that is not trusted (OpenSSL's words): {advice}"


@pytest.mark.parametrize(
    "url", ["amqp://guest:canary@127.0.0.1:1//", "redis://:canary@127.0.0.1:1"]
)
def test_a_quote_names_the_broker_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", url)
    get_settings.cache_clear()
    app = Celery(broker=url, set_as_current=False)
    try:
        result = CliRunner().invoke(quote, ["groq"], obj=SimpleNamespace(app=app))
    finally:
        get_settings.cache_clear()
    assert result.exit_code == 1
    assert "Error: the broker at " in result.output
    assert "127.0.0.1:1" in result.output
    assert "is it running?" in result.output
    assert "canary" not in result.output


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (key_changes.pause, ["groq", "--reason", "red \x1b[31m"], "give one line of plain text"),
        (key_changes.pause, ["groq", "--reason", "x" * 201], "give one line of plain text"),
        (key_changes.disable, ["K", "--reason", ""], "give one line of plain text"),
        (cancel, [""], "an id has 1 to 200 visible characters of ASCII"),
        (cancel, ["two words"], "an id has 1 to 200 visible characters of ASCII"),
        (job, ["x" * 201], "an id has 1 to 200 visible characters of ASCII"),
    ],
)
def test_a_text_that_others_will_read_is_one_plain_line(
    command: Command, arguments: list[str], sentence: str
) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize("model", [ResetArguments, CancelArguments])
def test_the_name_of_the_person_who_asks_is_one_plain_line(model: type[Arguments]) -> None:
    given = {"id": "x"} if model is CancelArguments else {}
    check(model, (), given | {"by": "Zoë Müller"})
    with pytest.raises(InvalidArguments, match="by: must be one line of plain text"):
        check(model, (), given | {"by": "red \x1b[31m"})


def test_a_user_without_a_name_can_give_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert current_user() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # an arbitrary user of a container
    assert current_user() == "unknown user"


@pytest.mark.parametrize("error", [OSError, KeyError, ImportError])  # of several versions of Python
def test_a_command_runs_though_its_user_cannot_be_looked_up(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(session, "getuser", broken)
    assert current_user() == "unknown user"


@pytest.mark.parametrize(
    ("error", "beginning"),
    [
        (ConnectionError("Connect call failed"), "Redis at redis://"),
        (OperationalError("gone"), "the broker at redis://"),
        (KeyError("x"), "no 'x' here"),
    ],
)
def test_a_session_ends_with_a_sentence_and_closes_its_client(
    monkeypatch: pytest.MonkeyPatch, error: Exception, beginning: str
) -> None:
    closed = Mock()

    async def close() -> None:
        closed()

    async def fail(_: Any) -> None:
        raise error

    async def answer(redis: Any) -> Any:
        return redis

    client = SimpleNamespace(aclose=close)
    monkeypatch.setattr(session, "connect", lambda _: client)
    monkeypatch.setattr(session, "refusal_at", lambda *_: None)
    assert session.run(answer, missing="{}") is client
    with pytest.raises(click.ClickException) as ended:
        session.run(fail, missing="no {} here")
    assert ended.value.message.startswith(beginning)
    assert closed.call_count == 2
