"""Checks this machine when a worker starts, so that no job fails because of the machine."""

import asyncio
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from config.errors import SettingsError
from config.keys import Discovery
from config.settings import Settings
from worker.heartbeat import Heartbeat
from worker.runtime import open_runtime
from worker.startup.certificates import certificate_problems

_FILES_BESIDE_JOBS: Final = 64
"""Files for other purposes: sockets to Redis, the log, libraries."""


def check_machine(
    settings: Settings,
    keys: dict[str, Discovery],
    environ: Mapping[str, str] = os.environ,
    *,
    jobs: int | None = None,
) -> None:
    """Check certificates, open files and the heartbeat's file, and build a runtime as a test.

    If the limit of open files is too low, it is raised as far as the system allows.

    Args:
        settings: The settings of this process.
        keys: The keys by service.
        environ: The environment, from which OpenSSL reads the names of its files.
        jobs: How many jobs may run at a time. Default: the number in the settings.

    Raises:
        SettingsError: Each job would fail because of this machine; the sentence says why.
    """
    sentences = [*certificate_problems(environ)]
    sentences += _too_few_files(settings.worker_concurrency if jobs is None else jobs, settings)
    if sentences:
        raise SettingsError(sentences)
    if settings.heartbeat_path:
        Heartbeat(Path(settings.heartbeat_path)).create()
    try:
        asyncio.run(_open_and_close(settings, keys))
    except Exception as exc:
        raise SettingsError(
            [f"The clients that jobs use cannot be built ({type(exc).__name__}: {exc})."]
        ) from exc


def _too_few_files(jobs: int, settings: Settings) -> Iterator[str]:
    option = "KEYWHEEL_WORKER_CONCURRENCY"
    if jobs != settings.worker_concurrency:
        option = "The concurrency of -c or --autoscale"
    if (sentence := too_few_files(jobs, source=option)) is not None:
        yield sentence


def too_few_files(jobs: int, *, source: str) -> str | None:
    """Report that this process may not open the files that its jobs need.

    If the limit of open files is too low, it is raised as far as the system allows.

    Args:
        jobs: How many jobs may run at a time.
        source: The name of the setting or option with that number, for the sentence.

    Returns:
        The sentence, which says how many jobs are possible; None if the limit is high enough.
    """
    needed = jobs + _FILES_BESIDE_JOBS
    if (allowed := _raise_open_files(needed)) >= needed:
        return None
    fits = allowed - _FILES_BESIDE_JOBS
    lower = f"lower the number of jobs to {fits}" if fits > 0 else "lower the number of jobs"
    return (
        f"{source} ({jobs}) needs about {needed} open files, and this process may have {allowed}: "
        f"{lower}, or raise the limit (ulimit -n {needed})."
    )


def _raise_open_files(needed: int) -> int:
    """Raise the limit of open files up to `needed`; return the new limit, or `needed` if less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in {resource.RLIM_INFINITY, -1} or soft >= needed:
        return needed
    allowed = needed if hard in {resource.RLIM_INFINITY, -1} else min(needed, hard)
    if allowed <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):  # above the maximum of the kernel
        return soft
    return allowed


async def _open_and_close(settings: Settings, keys: dict[str, Discovery]) -> None:
    await open_runtime(settings, keys).close()
