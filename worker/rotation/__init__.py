"""Rotation: serves a job's request with the keys of a service, and lets it wait for a key."""
