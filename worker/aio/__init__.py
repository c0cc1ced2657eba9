"""A Celery concurrency pool for `async def` tasks, with its result backend and its transport.

It imports nothing from the rest of the project, so that any Celery project can use it.
"""
