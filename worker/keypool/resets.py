"""Describes the result of a reset to the people and programs that asked for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.keypool.names import BlockedScope


@dataclass(frozen=True, slots=True)
class HeldBlock:
    """One block that a reset met.

    Attributes:
        scope: The kind of scope: `key`, `account`, `account_model`, `key_resource`, `model` or
            `host`.
        name: The name of the scope for people: the key's label, the account, the model.
        key: The key's id if the scope belongs to one key, else empty.
        state: `cooling`, `disabled` or `unfit`.
        reason: The reason of the block.
        disabled_by: The person who disabled the scope; empty if no person did.
    """

    scope: str
    name: str
    key: str
    state: str
    reason: str
    disabled_by: str


@dataclass(frozen=True, slots=True)
class ResetDone:
    """The result of a reset of one service.

    Attributes:
        brought_back: The blocks that the reset cleared.
        left_disabled: The blocks of keys that stay disabled because a person disabled them.
    """

    brought_back: tuple[HeldBlock, ...] = ()
    left_disabled: tuple[HeldBlock, ...] = ()

    @property
    def count(self) -> int:
        """The number of blocks that were cleared."""
        return len(self.brought_back)


def parse(
    rows: Sequence[Sequence[Any]],
    *,
    service: str,
    owners: Mapping[str, str],
    with_disabled: bool,
) -> ResetDone:
    """Parse the reply of reset.lua.

    Args:
        rows: The blocks that the reset met.
        service: The service's name.
        owners: The names of keys and accounts for people, by id, in the order of the result.
        with_disabled: Whether blocks by a person were cleared, too.
    """
    back: list[HeldBlock] = []
    left: list[HeldBlock] = []
    order = {owner: number for number, owner in enumerate(owners)}
    met = sorted(rows, key=lambda row: (order.get(BlockedScope.parse(row[0]).owner, -1), row[0]))
    for field, endless, reason, by in met:
        scope = BlockedScope.parse(field)
        parts = [owners.get(scope.owner, ""), scope.resource]
        block = HeldBlock(
            scope=scope.shown_kind,
            name=" × ".join(part for part in parts if part) or service,
            key=scope.owner if scope.shown_kind in {"key", "key_resource"} else "",
            state=scope.state(endless=bool(endless)),
            reason=reason,
            disabled_by=by if scope.kind == "person" else "",
        )
        (back if with_disabled or scope.kind != "person" else left).append(block)
    return ResetDone(tuple(back), tuple(left))


def as_json(done: dict[str, ResetDone]) -> dict[str, Any]:
    """Return the answer of the API and of the task, in JSON types.

    It has, by service, the number of cleared blocks, these blocks, and the keys that stay disabled.
    """
    return {
        "reset": {service: reset.count for service, reset in done.items()},
        "brought_back": {
            service: [asdict(block) for block in reset.brought_back]
            for service, reset in done.items()
        },
        "left_disabled": {
            service: [asdict(block) for block in reset.left_disabled]
            for service, reset in done.items()
        },
    }
