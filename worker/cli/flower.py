"""Gives `celery -A worker flower` our page, our address and our login, in any folder.

Flower itself reads a configuration file in the working directory. Without that file and without
this module, Flower would listen on all addresses, without a login and without our page.
"""

import asyncio
import functools
import logging
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from config.settings import Settings
from worker.startup.imports import about_warning

_MAX_TASKS = 10_000
_HIGHEST_PORT = 65_535


def install(settings: Settings) -> None:
    """Set Flower's options from our settings, and have its command build our application.

    This has an effect only in Celery's command line, which has loaded Flower's command by then; a
    worker does not load our dashboard. Options on the command line, or in a `flowerconfig.py`, come
    later and take precedence.

    Args:
        settings: The settings, with address, port and login.
    """
    command: Any = sys.modules.get("flower.command")
    if command is None:
        return
    command.Flower = _our_flower
    command.flower.callback = explain_start_errors(command.flower.callback, options=command.options)
    options = command.options
    options.address = settings.flower_address
    options.port = settings.flower_port
    options.max_tasks = _MAX_TASKS
    if settings.flower_basic_auth is not None:
        pairs = settings.flower_basic_auth.get_secret_value().split(",")
        options.basic_auth = [pair.strip() for pair in pairs]


def _our_flower(**options: Any) -> Any:
    from worker.dashboard import KeysFlower  # noqa: PLC0415 - see above

    check_options(options["options"])
    return KeysFlower(**options)


def check_options(options: Any) -> None:
    """Check options that Flower accepts but cannot use.

    Args:
        options: Flower's options.

    Raises:
        ValueError: An option cannot work; the message names it.
    """
    if not 0 <= options.port <= _HIGHEST_PORT:  # Flower would listen on another port
        raise ValueError(f"--port must be at most {_HIGHEST_PORT}, but is {options.port}")
    if options.persistent and not os.access(Path(options.db).absolute().parent, os.W_OK):
        raise ValueError(f"the folder of --db {options.db} is missing, or cannot be written")
    if options.certfile and options.keyfile:  # each connection would fail
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                options.certfile, options.keyfile
            )
        except ssl.SSLError as exc:
            raise ValueError(
                f"--certfile {options.certfile} and --keyfile {options.keyfile} are not a "
                f"certificate and its key ({exc.reason or exc})"
            ) from exc


def explain_start_errors(run: Callable[..., Any], *, options: Any) -> Callable[..., Any]:
    """End Flower with a sentence, instead of its traceback, if its options cannot work.

    Args:
        run: Runs Flower until it is stopped.
        options: Flower's options, from which its address is read.
    """

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        from tornado.ioloop import IOLoop  # noqa: PLC0415 - only Flower needs it
        from tornado.options import Error  # noqa: PLC0415

        _have_loop()
        begun: list[bool] = []
        IOLoop.current().add_callback(lambda: begun.append(True))
        try:
            return run(*args, **kwargs)
        except (OSError, ValueError, SyntaxError, KeyError, Error) as exc:
            if begun:  # Flower has started, so this is a bug and not about its options
                raise
            raise click.ClickException(
                f"Flower cannot start: {_start_failure(exc, options)}"
            ) from exc
        except AttributeError as exc:
            if begun or exc.obj is not logging:
                raise
            raise click.ClickException(
                "Flower cannot start: --logging must be debug, info, warning, error or none"
            ) from exc
        except Warning as exc:
            raise click.ClickException(f"Flower cannot start: {about_warning(exc)}") from exc

    return guarded


def _have_loop() -> None:
    """Give this thread a loop, as Tornado would, but without a warning from Python 3.12 on."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.set_event_loop(asyncio.new_event_loop())


def _start_failure(exc: Exception, options: Any) -> str:
    if isinstance(exc, KeyError):
        return f"{exc} is not one of its options; check the variables FLOWER_…"
    if isinstance(exc, SyntaxError):
        # Tornado runs the text of the configuration file.
        file = options.conf if exc.filename == "<string>" else exc.filename
        return f"{file}, line {exc.lineno}: {exc.msg}"
    if not isinstance(exc, OSError) or exc.strerror is None:
        return str(exc)
    address = options.unix_socket or f"{options.address}:{options.port}"
    return f"{exc.filename or address}: {exc.strerror}"
