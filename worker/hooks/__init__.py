"""Overrides parts of Celery's worker. A file is named like the file of Celery that it changes."""
