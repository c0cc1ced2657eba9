"""The messages of a start that ends, and their format."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from config.errors import SettingsError
from worker.startup import no_start, redis_tls


@pytest.mark.parametrize(("form", "as_json"), [("", False), (" JSON ", True), ("text", False)])
def test_the_error_of_a_failed_start_has_the_form_of_the_logs(
    monkeypatch: pytest.MonkeyPatch, form: str, *, as_json: bool
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(no_start, "read_environment", lambda: {"KEYWHEEL_LOG_FORMAT": form})
    monkeypatch.setattr(
        no_start, "say_json", lambda text, **options: written.append((text, options))
    )
    text = "keywheel cannot start.\nwhy"
    assert no_start.no_start("why").code == (1 if as_json else text)
    critical = {"level": "CRITICAL", "logger": "worker.celery"}
    assert written == [(text, critical)] * as_json


def test_the_environment_decides_the_form_if_its_file_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Any:
        raise SettingsError([".env cannot be read"])

    monkeypatch.setattr(no_start, "read_environment", fail)
    monkeypatch.delenv("KEYWHEEL_LOG_FORMAT", raising=False)
    assert not no_start.logs_json()
    monkeypatch.setenv("KEYWHEEL_LOG_FORMAT", "json")
    assert no_start.logs_json()


def test_a_worker_in_the_background_writes_its_error_to_its_log_file(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "worker.log")
    logging.getLogger().addHandler(handler)
    try:
        no_start.no_start("why")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert (tmp_path / "worker.log").read_text() == "keywheel cannot start.\nwhy\n"


def test_a_bug_in_the_search_for_a_primary_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def primary() -> None:
        raise error

    sentinels = SimpleNamespace(addresses=[], has_tls=False, primary=primary)
    parameters = {"connection_class": object, "sentinels": sentinels}
    monkeypatch.setattr(redis_tls, "parameters_of", lambda _: parameters)
    error: Exception = redis_tls.redis.RedisError("nobody knows it")
    assert redis_tls.mismatched_tls("sentinel://h") is None
    error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        redis_tls.mismatched_tls("sentinel://h")


def test_a_bug_in_the_search_for_the_form_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(no_start, "read_environment", fail)
    with pytest.raises(ZeroDivisionError):
        no_start.logs_json()


@pytest.mark.parametrize("asks", [redis_tls._answers_with_tls, redis_tls._answers_without_tls])
def test_a_server_that_is_down_counts_as_no_answer_and_a_bug_is_raised(
    monkeypatch: pytest.MonkeyPatch, asks: Callable[[tuple[str, int]], bool]
) -> None:
    connect = Mock(side_effect=ConnectionRefusedError)
    monkeypatch.setattr(redis_tls.socket, "create_connection", connect)
    assert asks(("h", 6379)) is False
    connect.side_effect = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        asks(("h", 6379))
