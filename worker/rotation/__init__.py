"""Rotation: serves a job's request with the keys of a service, and lets the job wait for a key."""
