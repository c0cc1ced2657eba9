"""A worker of the test app: `celery -A … worker` without Celery's other commands.

Those commands and ours, which Celery loads as well, take a third of the time of a start.
"""

import sys

from celery.bin.base import CLIContext
from celery.bin.worker import worker

from tests.workers.aio.aio_app import app

if __name__ == "__main__":
    worker.main(
        sys.argv[1:],
        prog_name="aio_worker",
        obj=CLIContext(app=app, no_color=False, workdir=None),
    )
