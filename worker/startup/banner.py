"""Lets a worker start even if Celery's banner cannot be written."""

import logging
import os
from collections.abc import Callable

_logger = logging.getLogger(__name__)

_STDOUT = 1


def survive_closed_output(emit_banner: Callable[[], None]) -> Callable[[], None]:
    """Let a worker start even if nothing can be written to the standard output.

    Celery would end the worker with a traceback before it takes a job. The reader of the output may
    be gone (a closed pipe), or its disk may be full.

    Args:
        emit_banner: Writes the banner.
    """

    def guarded() -> None:
        try:
            emit_banner()
        except OSError as exc:
            _logger.warning(
                "nothing can be written to the standard output (%s): the worker goes on without it",
                exc.strerror,
            )
            # The rest of the buffer would fail again at the end, with an exit status of 120.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDOUT)
            os.close(nowhere)

    return guarded
