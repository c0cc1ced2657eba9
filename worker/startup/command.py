"""Ends Celery's commands with a sentence if their options cannot work."""

import dbm
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import click
from celery import platforms
from celery.exceptions import ImproperlyConfigured

from config.celery import DELAYED_QUEUES
from worker.aio.pool import TaskPool
from worker.aio.pool_settings import PoolSettings
from worker.startup import files
from worker.startup.imports import explain_import_errors
from worker.startup.no_start import no_start
from worker.startup.patience import shorten_waits

_DROP_PRIVILEGES: Final = "maybe_drop_privileges"
_ASKING_COMMANDS: Final = {
    "celery.bin.call": ("call",),
    "celery.bin.control": ("control", "inspect", "status"),
    "celery.bin.purge": ("purge",),
    "celery.bin.result": ("result",),
}
"""Celery's commands that ask the broker or the result store something, and end."""


def install() -> None:
    """Guard those of Celery's commands that the command line has loaded."""
    drop_privileges = _explain_privilege_errors(platforms.maybe_drop_privileges)
    for name, module in list(sys.modules.items()):
        if name.startswith(("celery.bin.", platforms.__name__)) and hasattr(
            module, _DROP_PRIVILEGES
        ):
            setattr(module, _DROP_PRIVILEGES, drop_privileges)
    if (of_workers := sys.modules.get("celery.bin.worker")) is not None:
        command: Any = of_workers.worker
        command.make_context = _guarded(command.make_context, _explain_option_errors)
        command.callback = _checked(
            _guarded(command.callback, explain_import_errors), files.check_detached
        )
    _shorten_waits_of_commands()
    if (of_purge := sys.modules.get("celery.bin.purge")) is not None:
        purge: Any = of_purge.purge
        purge.callback = _with_deferred_queues(purge.callback)
    if (of_beat := sys.modules.get("celery.bin.beat")) is not None:
        beat: Any = of_beat.beat
        beat.callback = _checked(
            _guarded(beat.callback, _explain_beat_errors),
            files.check_detached,
            files.check_beat_files,
        )


def check_options(options: Mapping[str, Any], conf: Mapping[str, Any]) -> None:
    """Check the options that a worker is started with.

    Args:
        options: The options.
        conf: The app's configuration.

    Raises:
        SystemExit: An option cannot work; the message names it.
    """
    pool = options.get("pool") or options.get("pool_cls")
    if isinstance(pool, type) and not issubclass(pool, TaskPool):
        raise no_start(
            f"Keywheel's jobs run in its own asyncio pool, not in {pool.__module__}: leave out -P."
        )
    for name in ("time_limit", "soft_time_limit"):
        if (options.get(name) or 0) < 0:  # each job would end at once
            raise no_start(f"--{name.replace('_', '-')} must not be negative.")
    scale = options.get("autoscale")  # the higher bound first
    if isinstance(scale, tuple) and (scale[0] < 1 or scale[1] < 0):  # no job would run
        raise no_start("--autoscale takes a maximum of at least 1, and no negative minimum.")
    try:
        PoolSettings.of(
            {
                "maxtasksperchild": options.get("max_tasks_per_child"),
                "max_memory_per_child": options.get("max_memory_per_child"),
            },
            conf,
        )
    except ImproperlyConfigured as exc:
        raise no_start(f"{exc}.") from exc


def _shorten_waits_of_commands() -> None:
    command: Any
    for of_commands, names in _ASKING_COMMANDS.items():
        asking = sys.modules.get(of_commands)
        for name in names if asking is not None else ():
            command = getattr(asking, name)
            command.callback = _shortening_waits(command.callback)


def _shortening_waits(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command end with a sentence if Redis hangs."""

    @functools.wraps(callback)
    def shortened(*args: Any, **options: Any) -> Any:
        shorten_waits(click.get_current_context().obj.app)
        return callback(*args, **options)

    return shortened


def _with_deferred_queues(purge: Callable[..., Any]) -> Callable[..., Any]:
    """Make `purge` also purge the deferred queues if the command line names no queue."""

    @functools.wraps(purge)
    def purging(
        *args: Any,
        queues: list[str] | None = None,
        exclude_queues: list[str] | None = None,
        **options: Any,
    ) -> Any:
        if not queues:
            known = click.get_current_context().obj.app.amqp.queues
            names = [name for name in known if name not in (exclude_queues or ())]
            queues = [*names, *(late for late, queue in DELAYED_QUEUES.items() if queue in names)]
        return purge(*args, queues=queues, exclude_queues=exclude_queues, **options)

    return purging


def _guarded(
    function: Callable[..., Any], guard: Callable[[], AbstractContextManager[None]]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with guard():
            return function(*args, **kwargs)

    return guarded


def _checked(
    function: Callable[..., Any], *checks: Callable[[Mapping[str, Any]], None]
) -> Callable[..., Any]:
    """Make a command check its options, which are its keyword arguments, before it runs."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for check in checks:
            check(kwargs)
        return function(*args, **kwargs)

    return checked


@contextmanager
def _explain_beat_errors() -> Iterator[None]:
    """End beat with a sentence about a missing module, or about a file that it cannot use."""
    try:
        with explain_import_errors():
            yield
    except platforms.LockFailed as exc:
        raise no_start(f"The file of --pidfile cannot be written ({exc}): name another.") from exc
    except dbm.error as exc:  # this tuple includes OSError, also from other causes
        if isinstance(exc, OSError) and exc.filename is None:
            raise
        raise no_start(
            f"The file of --schedule cannot be used ({exc}): name a file that this user may write, "
            "or remove it if it is not a schedule of beat."
        ) from exc


@contextmanager
def _explain_option_errors() -> Iterator[None]:
    """End the command with a sentence about an option that Celery itself fails to read."""
    try:
        yield
    except AttributeError as exc:  # celery.bin.worker.Autoscale calls `join` of a list
        raise no_start("--autoscale takes one or two whole numbers: --autoscale=500,10.") from exc
    except ImportError as exc:
        raise no_start(
            f"The pool of -P cannot be loaded ({exc}). Keywheel's jobs run in its own asyncio "
            "pool: leave out -P."
        ) from exc


def _explain_privilege_errors(drop: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(drop)
    def guarded(uid: str | None = None, gid: str | None = None) -> None:
        try:
            drop(uid=uid, gid=gid)
        except KeyError as exc:
            option, kind, name = (
                ("--gid", "group", gid) if "Group" in str(exc) else ("--uid", "user", uid)
            )
            raise no_start(
                f"{option} names the {kind} {name}, and this machine has none: name one that "
                f"`getent {'group' if kind == 'group' else 'passwd'}` lists."
            ) from exc
        except PermissionError as exc:
            raise no_start(
                "--uid and --gid take effect for root only, and this is the user "
                f"{os.geteuid()}: leave them out, or start as root."
            ) from exc

    return guarded
