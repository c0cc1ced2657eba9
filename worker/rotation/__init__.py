"""Rotation: where a job meets the keys of a service, and waits for one."""
