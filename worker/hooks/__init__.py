"""Overrides parts of Celery's worker. A file that changes a file of Celery has the same name."""
