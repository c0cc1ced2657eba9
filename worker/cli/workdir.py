"""Says in a sentence why the folder of Celery's `--workdir` cannot be entered.

Celery enters the folder before it loads the app of `-A`. Only the commands of installed packages,
such as ours, are loaded earlier, so they can replace Celery's traceback.
"""

import sys
import traceback
from types import TracebackType
from typing import Any, Final

_COMMAND_LINE: Final = "celery.bin.celery"


def install() -> None:
    """Replace the traceback if Celery's command line loads our commands."""
    if _COMMAND_LINE not in sys.modules:
        return
    others = sys.excepthook

    def say(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> Any:
        if not isinstance(exc, OSError) or not _is_from_command_line(trace):
            return others(kind, exc, trace)
        return print(  # noqa: T201 - no log is set up yet
            f"The folder of --workdir, {exc.filename}, cannot be entered ({exc.strerror}): make "
            "it, or name another.",
            file=sys.stderr,
        )

    sys.excepthook = say


def _is_from_command_line(trace: TracebackType | None) -> bool:
    """Whether Celery's command line itself raised the error, and not code that it called."""
    frames = list(traceback.walk_tb(trace))
    return bool(frames) and frames[-1][0].f_globals.get("__name__") == _COMMAND_LINE
