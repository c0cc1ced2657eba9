"""Adds to Flower a page about the keys, JSON endpoints for administrators, and metrics."""

from worker.dashboard.application import KeysFlower

__all__ = ["KeysFlower"]
