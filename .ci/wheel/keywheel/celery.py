"""Where `celery -A keywheel …` finds the app."""

from celery.app.utils import find_app

app = find_app("keywheel.worker")
