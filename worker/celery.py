"""Gives `celery -A worker …` the Celery app that `worker.application` builds.

Raises:
    SystemExit: The app cannot be imported or built; the message says what to change.
"""

import atexit
import gc

from worker.startup.collector import collector_paused
from worker.startup.imports import explain_import_errors

# Celery would report each failure as "has no attribute 'celery'".
with collector_paused(), explain_import_errors():
    from worker.application import app, create_app

# At its end, Python searches all remaining objects for garbage. This takes a fifth of the time that
# a worker, or a command, needs to start and to end.
atexit.register(gc.freeze)

__all__ = ["app", "create_app"]
