"""The worker: a Celery app, an asyncio pool for it, and the rotation of API keys.

`celery -A worker …` finds the app in `worker.celery`. Importing any other part needs no settings.
"""
