"""Checks the files that Celery's options name, before Celery fails to open them."""

import dbm
import os
import shelve
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from celery.utils.nodenames import node_format

from worker.startup.no_start import no_start

_KEEPS_A_FILE: Final = "celery.beat:PersistentScheduler"


def check_worker_files(options: Mapping[str, Any]) -> None:
    """Check the files that a worker writes beside its log.

    Args:
        options: The options that the worker is started with.

    Raises:
        SystemExit: A file cannot be written; the message names its option.
    """
    for name in ("pidfile", "statedb", *(["schedule_filename"] if options.get("beat") else [])):
        _check_folder(name, options.get(name))
    if file := options.get("statedb"):
        try:
            shelve.open(file).close()  # noqa: S301 - Celery reads it in the same way
        except dbm.error as exc:  # this tuple includes OSError
            raise no_start(
                f"The file of --statedb cannot be used ({exc}): remove it, and give each worker "
                "one of its own."
            ) from None


def check_detached(options: Mapping[str, Any]) -> None:
    """Check the files that a process in the background opens before it can report an error.

    Args:
        options: The options of the command line.

    Raises:
        SystemExit: An option cannot work; the message names it.
    """
    if not options.get("detach"):
        return
    hostname = options.get("hostname")
    for name in ("logfile", "pidfile"):
        file = options.get(name)
        _check_folder(name, node_format(file, hostname) if hostname else file)
    umask = options.get("umask")
    try:
        if isinstance(umask, str):
            int(umask, 8 if umask.startswith("0") else 10)
    except ValueError:
        raise no_start(
            f"--umask must be a number, octal if it begins with 0, and is {umask}: write "
            "--umask=022."
        ) from None


def check_beat_files(options: Mapping[str, Any]) -> None:
    """Check the files that Celery beat writes.

    Args:
        options: The options that beat is started with.

    Raises:
        SystemExit: A file cannot be written; the message names its option.
    """
    _check_folder("logfile", options.get("logfile"))
    _check_folder("pidfile", options.get("pidfile"))
    if options.get("scheduler") in {None, _KEEPS_A_FILE}:
        _check_folder("schedule", options.get("schedule"))


def _check_folder(option: str, file: str | None) -> None:
    if not file:
        return
    path, folder = Path(file).absolute(), Path(file).absolute().parent
    # Before Python 3.14, Path.is_dir raises an error for paths that this user may not look at.
    if os.path.isdir(path):  # noqa: PTH112
        why = f"{path} is a folder itself."
    elif not os.path.isdir(folder):  # noqa: PTH112
        why = f"{folder} does not exist, or this user may not look at it."
    elif not os.access(folder, os.W_OK):
        why = f"This user may not write in {folder}."
    else:
        return
    raise no_start(
        f"The file of --{option.replace('_', '-')} cannot be written: check its folder. {why}"
    )
