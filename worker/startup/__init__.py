"""Checks this machine, Redis, RabbitMQ, the options and the worker's name at a start."""
