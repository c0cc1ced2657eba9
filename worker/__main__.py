"""`python -m worker …` runs `celery -A worker worker …` with 14 MB less memory for each worker.

Celery's command line loads a shell, Flower and all other installed commands before it looks which
command is meant. This module loads the `worker` command alone. It also leaves out Pygments, which
colours the source code that some other commands print.
"""

import sys

import worker
from worker.startup.collector import collector_paused

_COLOURS = "pygments"

with collector_paused():
    _absent = sys.modules.setdefault(_COLOURS, None) is None  # type: ignore[arg-type] # no module
    from celery.bin.base import CLIContext
    from celery.bin.worker import worker as command

    if _absent:
        del sys.modules[_COLOURS]
    from worker.celery import app


def main() -> None:
    """Run a worker with the options of the command line."""
    options = sys.argv[1:]
    # `--detach` starts these arguments again, and `ps` shows them.
    sys.argv[1:] = ["-A", worker.__name__, "worker", *options]
    command.main(
        options, prog_name="python -m worker", obj=CLIContext(app=app, no_color=False, workdir=None)
    )


if __name__ == "__main__":
    main()
