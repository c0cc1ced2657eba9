"""Checks this machine when a worker starts, so that no job fails for a reason of the machine."""

import asyncio
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from config.errors import SettingsError
from config.keys import Discovery
from config.settings import Settings
from worker.heartbeat import Heartbeat
from worker.runtime import open_runtime
from worker.startup.certificates import certificate_problems

_FILES_BESIDE_JOBS: Final = 64
"""Sockets to Redis, log, libraries."""


def check_machine(
    settings: Settings, keys: dict[str, Discovery], environ: Mapping[str, str] = os.environ
) -> None:
    """Check certificates, open files and the heartbeat's file, and build a runtime for a try.

    Raises the limit of open files as far as the system allows, where it is too low.

    Args:
        settings: The settings of this process.
        keys: The keys by service.
        environ: The environment, from which OpenSSL reads the names of its files.

    Raises:
        SettingsError: Each job would fail for a reason of this machine; the sentence names it.
    """
    sentences = [*certificate_problems(environ)]
    needed = settings.worker_concurrency + _FILES_BESIDE_JOBS
    if (allowed := _raise_open_files(needed)) < needed:
        sentences.append(
            f"KEYWHEEL_WORKER_CONCURRENCY ({settings.worker_concurrency}) needs about {needed} "
            f"open files, and this process may have {allowed}: lower the former, or raise the "
            "limit (ulimit -n)."
        )
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


def _raise_open_files(needed: int) -> int:
    """Raise the limit of open files towards what is needed; returns the smaller of the two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in {resource.RLIM_INFINITY, -1} or soft >= needed:
        return needed
    allowed = needed if hard in {resource.RLIM_INFINITY, -1} else min(needed, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed, soft)


async def _open_and_close(settings: Settings, keys: dict[str, Discovery]) -> None:
    await open_runtime(settings, keys).close()
