"""Estimates when jobs may start and end, before they are enqueued or while they wait."""
