"""Settings, key discovery and Celery's configuration: the only readers of the environment."""
