"""Where `celery -A worker …` finds the Celery app, which `worker.application` builds.

Raises:
    SystemExit: The app cannot be imported or built; the message says what to change.
"""

from worker.startup.imports import imports_in_a_sentence

# Celery would say of each failure that this package "has no attribute 'celery'".
with imports_in_a_sentence():
    from worker.application import app, create_app

__all__ = ["app", "create_app"]
