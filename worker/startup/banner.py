"""Celery's banner, without which a worker starts as well."""

import logging
import os
from collections.abc import Callable

_logger = logging.getLogger(__name__)

_STDOUT = 1


def or_go_on(emit_banner: Callable[[], None]) -> Callable[[], None]:
    """Have a worker start even where nothing can be written to the standard output.

    Celery would end it with a traceback, before it takes a job. Its reader may be gone (a closed
    pipe), or its disk may be full.

    Args:
        emit_banner: Writes the banner.
    """

    def guarded() -> None:
        try:
            emit_banner()
        except OSError as exc:
            _logger.warning(
                "the standard output takes nothing (%s): the worker goes on without it",
                exc.strerror,
            )
            # What stands in its buffer would fail once more at the end, as an exit status of 120.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDOUT)
            os.close(nowhere)

    return guarded
