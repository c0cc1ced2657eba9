"""`python -m worker …` is `celery -A worker worker …` with 12 MB less in each worker.

Celery's command line loads a shell, Flower and whatever other commands are installed before it
looks which one is meant. This one loads the worker alone.
"""

import sys

from celery.bin.base import CLIContext
from celery.bin.worker import worker as command

import worker
from worker.celery import app


def main() -> None:
    """Run a worker with the options of the command line."""
    options = sys.argv[1:]
    # What `--detach` starts again, and `ps` shows.
    sys.argv[1:] = ["-A", worker.__name__, "worker", *options]
    command.main(
        options, prog_name="python -m worker", obj=CLIContext(app=app, no_color=False, workdir=None)
    )


if __name__ == "__main__":
    main()
