"""`python -m worker …` is `celery -A worker worker …` without Celery's other commands, which take 12 MB in each worker.

Those are a shell, Flower and whatever else is installed: Celery's command line loads all of them
before it looks which one is meant.
"""

import sys

from celery.bin.base import CLIContext
from celery.bin.worker import worker as command

import worker


def main() -> None:
    """Run a worker with the options of the command line."""
    options = sys.argv[1:]
    app = worker.celery
    # What `--detach` starts again, and `ps` shows.
    sys.argv[1:] = ["-A", worker.__name__, "worker", *options]
    command.main(
        options, prog_name="python -m worker", obj=CLIContext(app=app, no_color=False, workdir=None)
    )


if __name__ == "__main__":
    main()
