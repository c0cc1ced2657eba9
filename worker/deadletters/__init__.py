"""Dead letters: jobs that ended without success, kept for a person to inspect and replay."""

from worker.deadletters.dead_letter import KINDS, OWNERS, DeadLetter, Message
from worker.deadletters.replay import Replayed, objection, replay
from worker.deadletters.store import Counts, DeadLetters, Filter, Limits

__all__ = [
    "KINDS",
    "OWNERS",
    "Counts",
    "DeadLetter",
    "DeadLetters",
    "Filter",
    "Limits",
    "Message",
    "Replayed",
    "objection",
    "replay",
]
