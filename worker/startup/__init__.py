"""Checks before a worker starts: this machine, Redis, the name of the worker."""
