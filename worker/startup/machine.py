"""Looks at this machine when a worker starts: what would fail each job must not take one."""

import asyncio
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from config.errors import SettingsError
from config.keys import Discovery
from config.settings import Settings
from worker.runtime import open_runtime

_FILES_BESIDE_JOBS: Final = 64
"""Sockets to Redis, log, libraries."""
_CERTIFICATES: Final = (
    ("SSL_CERT_FILE", Path.is_file, "file"),
    ("SSL_CERT_DIR", Path.is_dir, "folder"),
)


def check_machine(
    settings: Settings, found: dict[str, Discovery], environ: Mapping[str, str] = os.environ
) -> None:
    """Look at files, certificates and the limit of open files, and make everything once that jobs will use.

    Raises the limit of open files to what the system allows, where it is too low.

    Args:
        settings: How many jobs run at once, among others.
        found: The keys.
        environ: Where OpenSSL finds the names of its files.

    Raises:
        SettingsError: Each job would fail for a reason of this machine; the sentence names it.
    """
    sentences = [
        f"{variable} names a {what} that does not exist, so no certificate could be checked."
        for variable, exists, what in _CERTIFICATES
        if (value := environ.get(variable)) and not exists(Path(value))
    ]
    needed = settings.worker_concurrency + _FILES_BESIDE_JOBS
    if (allowed := _raise_open_files(needed)) < needed:
        sentences.append(
            f"KEYWHEEL_WORKER_CONCURRENCY ({settings.worker_concurrency}) needs about {needed} "
            "open files, and this"
            f" process may have {allowed}: lower the former, or raise the limit (ulimit -n)."
        )
    if sentences:
        raise SettingsError(sentences)
    try:
        asyncio.run(_make_all(settings, found))
    except Exception as exc:
        raise SettingsError(
            [f"What jobs need cannot be made ({type(exc).__name__}: {exc})."]
        ) from exc


def _raise_open_files(needed: int) -> int:
    """Let this process open so many files, if it may; gives how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in {resource.RLIM_INFINITY, -1} or soft >= needed:
        return needed
    most = needed if hard in {resource.RLIM_INFINITY, -1} else min(needed, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most, soft)


async def _make_all(settings: Settings, found: dict[str, Discovery]) -> None:
    await open_runtime(settings, found).close()
