"""The commands that `celery -A worker` has in addition to those of Celery."""
