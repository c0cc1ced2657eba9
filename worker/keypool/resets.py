"""What a reset brought back, for the people and programs that asked for it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HeldBlock:
    """One block that a reset met.

    Attributes:
        scope: What was blocked: `key`, `account`, `account_model`, `key_resource`, `model` or
            `host`.
        name: What people call it: the key's label, the account, the model.
        key: The key's id where the scope is one key's, else empty.
        state: `cooling`, `disabled` or `unfit`.
        reason: Why it was blocked.
        disabled_by: The person who disabled it by hand; empty where nobody did.
    """

    scope: str
    name: str
    key: str
    state: str
    reason: str
    disabled_by: str


@dataclass(frozen=True, slots=True)
class ResetDone:
    """What a reset of one service did.

    Attributes:
        brought_back: The blocks that it cleared.
        left_disabled: Keys that a person disabled and that therefore stay out.
    """

    brought_back: tuple[HeldBlock, ...] = ()
    left_disabled: tuple[HeldBlock, ...] = ()

    @property
    def count(self) -> int:
        """How many blocks were cleared."""
        return len(self.brought_back)


@dataclass(frozen=True, slots=True)
class RecordName:
    """A record that a reset is given.

    Its name in Redis, and what people call what it stands for.
    """

    redis: str
    scope: str
    name: str
    key: str = ""


def parse(rows: Sequence[Sequence[Any]], records: Sequence[RecordName]) -> ResetDone:
    """Shape what reset.lua returns for these records."""
    back: list[HeldBlock] = []
    left: list[HeldBlock] = []
    for place, resource, state, reason, person, cleared in rows:
        record = records[int(place) - 1]
        scope, name = (
            (_within(record.scope), f"{record.name} × {resource}")
            if resource
            else (record.scope, record.name)
        )
        block = HeldBlock(scope, name, record.key, state, reason, person)
        (back if int(cleared) else left).append(block)
    return ResetDone(tuple(back), tuple(left))


def _within(scope: str) -> str:
    """The scope of a part of a record: a key's resource, or an account's model."""
    return "key_resource" if scope == "key" else "account_model"


def as_json(done: dict[str, ResetDone]) -> dict[str, Any]:
    """The answer of the API and of the task.

    By service how many blocks were cleared, which, and what stays out.
    """
    return {
        "reset": {service: one.count for service, one in done.items()},
        "brought_back": {
            service: [asdict(block) for block in one.brought_back] for service, one in done.items()
        },
        "left_disabled": {
            service: [asdict(block) for block in one.left_disabled] for service, one in done.items()
        },
    }
