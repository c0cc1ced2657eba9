"""A Celery concurrency pool for `async def` tasks, and what it needs.

Knows nothing of the project around it.
"""
