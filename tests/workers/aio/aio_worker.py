"""A worker of the test app: `celery -A … worker` without the other commands of Celery.

Celery loads those commands and ours at each start, which takes a third of the time.
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
