"""Checks this machine, the brokers and the options before a worker starts."""
