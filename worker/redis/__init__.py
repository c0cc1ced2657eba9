"""What every part of the worker needs of Redis: retries, one shared connection, batched lookups."""
