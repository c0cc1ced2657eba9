"""What Flower shows and offers of the keys: a page, JSON endpoints for administrators, metrics."""

from worker.dashboard.application import KeysFlower

__all__ = ["KeysFlower"]
