"""Gives all parts of the worker access to Redis: clients, scripts, retries and batched lookups."""
