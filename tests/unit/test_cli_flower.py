"""The command `flower`: its options, and how it ends if they cannot work."""

import errno
import logging
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from pydantic import SecretStr
from tornado.ioloop import IOLoop
from tornado.options import Error

from config.settings import Settings
from worker.cli import flower
from worker.cli.flower import check_options, explain_start_errors

OPTIONS = SimpleNamespace(
    address="127.0.0.1",
    port=5555,
    conf="flowerconfig.py",
    unix_socket="",
    persistent=False,
    certfile="",
    keyfile="",
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)),
            "127.0.0.1:5555: Address already in use",
        ),
        (FileNotFoundError(2, "No such file or directory", "a.py"), "a.py: No such file or "),
        (ValueError('certfile "/x" does not exist'), 'certfile "/x" does not exist'),
        (SyntaxError("invalid syntax", ("a.py", 3, 1, "x ==")), "a.py, line 3: invalid syntax"),
        (SyntaxError("invalid syntax", ("<string>", 3, 1, "x")), "flowerconfig.py, line 3: "),
        (
            DeprecationWarning("x is old"),
            "unset PYTHONWARNINGS. The warning was a DeprecationWarning: x is old",
        ),
        (
            AttributeError("module 'logging' has no attribute 'NOSUCH'", obj=logging),
            "--logging must be debug, info, warning, error or none",
        ),
        (KeyError("nosuch"), "'nosuch' is not one of its options; check the variables FLOWER_"),
        (Error("Unrecognized command line option: '--nosuch'"), "Unrecognized command line "),
    ],
)
async def test_an_error_that_keeps_flower_from_starting_is_a_sentence(
    error: Exception, words: str
) -> None:
    def run() -> None:
        raise error

    with pytest.raises(click.ClickException, match=r"^Flower cannot start: ") as caught:
        explain_start_errors(run, options=OPTIONS)()
    assert words in caught.value.message


def test_an_error_of_a_flower_that_served_keeps_its_traceback() -> None:
    def run() -> Any:
        loop = IOLoop.current()
        loop.add_callback(loop.stop)
        loop.start()
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        explain_start_errors(run, options=OPTIONS)()


def test_a_socket_that_cannot_be_made_is_named() -> None:
    def run() -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    named = SimpleNamespace(**vars(OPTIONS) | {"unix_socket": "/gone/flower.sock"})
    with pytest.raises(click.ClickException) as caught:
        explain_start_errors(run, options=named)()
    assert "/gone/flower.sock: No such file or directory" in caught.value.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": 80_000}, "--port must be at most 65535, but is 80000"),
        (
            {"certfile": __file__, "keyfile": __file__},
            f"--certfile {__file__} and --keyfile {__file__} are not a certificate and its key",
        ),
        ({"persistent": True, "db": "/gone/flower"}, "the folder of --db /gone/flower is missing"),
    ],
)
def test_an_option_that_flower_would_ignore_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        check_options(SimpleNamespace(**vars(OPTIONS) | changes))


def test_options_that_work_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_options(OPTIONS)
    monkeypatch.chdir(tmp_path)
    check_options(SimpleNamespace(**vars(OPTIONS) | {"persistent": True, "db": "flower"}))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's command, as Celery's command line has loaded it."""
    module: Any = ModuleType("flower.command")
    module.options = SimpleNamespace(address="", port=0, max_tasks=0, basic_auth=[])
    module.flower = SimpleNamespace(callback=lambda: "ran")
    monkeypatch.setitem(sys.modules, "flower.command", module)
    return module


@pytest.mark.parametrize(
    ("auth", "logins"), [(None, []), (SecretStr("ann:a, bob:b"), ["ann:a", "bob:b"])]
)
def test_flower_gets_our_application_address_and_logins(
    command: Any, auth: Any, logins: list[str]
) -> None:
    before = command.flower.callback
    settings = Settings(flower_address="10.0.0.1", flower_port=5566, flower_basic_auth=auth)
    flower.install(settings)
    assert command.Flower is flower._our_flower
    assert command.flower.callback is not before
    assert vars(command.options) == {
        "address": "10.0.0.1", "port": 5566, "max_tasks": 10_000, "basic_auth": logins
    }  # fmt: skip


def test_a_worker_that_has_not_loaded_flower_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flower.command", None)
    flower.install(Settings())


def test_our_flower_is_made_only_with_options_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    flowers: list[Any] = []
    monkeypatch.setattr("worker.dashboard.KeysFlower", lambda **given: flowers.append(given))
    works = SimpleNamespace(port=0, persistent=False, certfile="", keyfile="")
    flower._our_flower(options=works, capp="app")
    assert flowers == [{"options": works, "capp": "app"}]
    with pytest.raises(ValueError, match="--port must be at most 65535, but is 65536"):
        flower._our_flower(options=SimpleNamespace(port=65_536))
    flower.check_options(SimpleNamespace(**vars(works) | {"port": 65_535}))
    with pytest.raises(ValueError, match="but is -1"):
        flower.check_options(SimpleNamespace(**vars(works) | {"port": -1}))
