"""Celery workers that call rate-limited APIs with several keys, and lose nothing.

`celery -A keywheel worker`, `keys`, `dead`, `flower` and the others find the app in
`keywheel.celery`. Importing this package loads nothing and needs no settings.
"""
