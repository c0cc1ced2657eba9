"""The commands that `celery -A worker` has beside those of Celery."""
