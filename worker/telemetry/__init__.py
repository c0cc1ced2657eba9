"""Records spans for OpenTelemetry and reports errors to Sentry, if the environment configures them.

Otherwise neither package is imported. No span and no report holds a key, a prompt or a mail body.
"""

from worker.telemetry.noting import headers, note_attempt, note_shared_attempt, note_wait
from worker.telemetry.startup import install

__all__ = ["headers", "install", "note_attempt", "note_shared_attempt", "note_wait"]
