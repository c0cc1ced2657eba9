"""What a reset brought back, for the people and programs that asked for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.keypool.names import BlockedScope


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


def parse(
    rows: Sequence[Sequence[Any]],
    *,
    service: str,
    owners: Mapping[str, str],
    with_disabled: bool,
) -> ResetDone:
    """Shape what reset.lua returns.

    Args:
        rows: The blocks that it met.
        service: The service's name.
        owners: What people call each key, by its id, and each account; in the order of the result.
        with_disabled: What a person disabled was cleared, too.
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
    """The answer of the API and of the task.

    By service how many blocks were cleared, which, and what stays out.
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
