"""Overrides parts of Celery's worker. Files are named like Celery's own if it has such a file."""
