"""Where `celery -A worker …` finds the Celery app, which `worker.application` builds.

Raises:
    SystemExit: The app cannot be imported or built; the message says what to change.
"""

import atexit
import gc

from worker.startup.collector import collector_paused
from worker.startup.imports import imports_in_a_sentence

# Celery would say of each failure that this package "has no attribute 'celery'".
with collector_paused(), imports_in_a_sentence():
    from worker.application import app, create_app

# Python looks through all that is left for garbage as it ends: a fifth of what a worker, or a
# command, needs to start and to end.
atexit.register(gc.freeze)

__all__ = ["app", "create_app"]
