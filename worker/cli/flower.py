"""Gives `celery -A worker flower` our page, our address and our login, in any folder.

Flower reads a configuration file in the working directory. Without one, it would listen on all
addresses, without a login and without our page.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from config.settings import Settings

_MAX_TASKS = 10_000


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
    command.flower.callback = in_a_sentence(command.flower.callback, options=command.options)
    options = command.options
    options.address = settings.flower_address
    options.port = settings.flower_port
    options.max_tasks = _MAX_TASKS
    if settings.flower_basic_auth is not None:
        pairs = settings.flower_basic_auth.get_secret_value().split(",")
        options.basic_auth = [pair.strip() for pair in pairs]


def _our_flower(**options: Any) -> Any:
    from worker.dashboard import KeysFlower  # noqa: PLC0415 - see above

    return KeysFlower(**options)


def in_a_sentence(run: Callable[..., Any], *, options: Any) -> Callable[..., Any]:
    """End Flower with a sentence where its options cannot work; it has a traceback for each.

    Args:
        run: Runs Flower, until it is stopped.
        options: Flower's options, for its address.
    """

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        from tornado.ioloop import IOLoop  # noqa: PLC0415 - only Flower needs it
        from tornado.options import Error  # noqa: PLC0415

        begun: list[bool] = []
        IOLoop.current().add_callback(lambda: begun.append(True))
        try:
            return run(*args, **kwargs)
        except (OSError, ValueError, SyntaxError, KeyError, Error) as exc:
            if begun:  # it served: this is a bug, and not about its options
                raise
            raise click.ClickException(f"Flower cannot start: {_words_of(exc, options)}") from exc

    return guarded


def _words_of(exc: Exception, options: Any) -> str:
    if isinstance(exc, KeyError):
        return f"{exc} is none of its options; look at the variables FLOWER_…"
    if isinstance(exc, SyntaxError):
        # Tornado runs the text of the configuration file.
        file = options.conf if exc.filename == "<string>" else exc.filename
        return f"{file}, line {exc.lineno}: {exc.msg}"
    if not isinstance(exc, OSError) or exc.strerror is None:
        return str(exc)
    return f"{exc.filename or f'{options.address}:{options.port}'}: {exc.strerror}"
