"""The pages of the audit trail: their order, their bounds, what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.unstarted_handlers import handler_of
from worker.dashboard.audit import Audit
from worker.dashboard.errors import ApiError


def entry(at_ms: int, **others: str) -> dict[str, str]:
    return {"at_ms": str(at_ms), "until_ms": "7"} | others


@pytest.fixture
def audited() -> Any:
    """The streams of an audit trail; `asked` has what was asked of each."""
    found = SimpleNamespace(
        asked=[], keys=[entry(9), entry(3)], letters=[entry(8)], actions=[entry(5)]
    )

    def reading(name: str) -> Any:
        async def read(**asked: Any) -> list[dict[str, str]]:
            found.asked.append((name, asked))
            return list(getattr(found, name))

        return read

    async def with_pools(work: Any) -> Any:
        return await work({"groq": SimpleNamespace(audit=reading("keys"))})

    async def with_dead_letters(work: Any) -> Any:
        return await work(SimpleNamespace(audit=reading("letters")))

    async def with_actions(work: Any) -> Any:
        return await work(SimpleNamespace(read=reading("actions")))

    found.poller = {
        "with_pools": with_pools,
        "with_dead_letters": with_dead_letters,
        "with_actions": with_actions,
    }
    return found


async def test_the_audit_trail_is_one_list_the_latest_first(audited: Any) -> None:
    made = handler_of(Audit, {"count": "3"}, **audited.poller)
    await made.get()
    [answer] = made.sent
    assert [(one.get("service"), one["at_ms"], one["until_ms"]) for one in answer["entries"]] == [
        ("groq", 9, 7), (None, 8, 7), (None, 5, 7)
    ]  # fmt: skip
    assert answer["next_before"] is not None
    assert [asked["count"] for _, asked in audited.asked] == [4, 4, 4], "one more tells of a page"
    assert audited.asked[0][1]["people_only"] is False
    rest = handler_of(Audit, {"before": answer["next_before"], "by": "people"}, **audited.poller)
    audited.keys, audited.letters, audited.actions = [entry(3)], [], [entry(5)]
    await rest.get()
    assert [one["at_ms"] for one in rest.sent[0]["entries"]] == [3]
    assert rest.sent[0]["next_before"] is None
    assert audited.asked[3][1]["people_only"] is True


@pytest.mark.parametrize(
    "values", [{"count": "201"}, {"count": "0"}, {"by": "ann"}, {"from": "1"}, {"before": "x"}]
)
async def test_a_page_of_the_audit_trail_that_cannot_be_is_refused(
    audited: Any, values: dict[str, str]
) -> None:
    with pytest.raises(ApiError) as refused:
        await handler_of(Audit, values, **audited.poller).get()
    assert (refused.value.status_code, audited.asked) == (400, [])
    await handler_of(Audit, {"count": "200"}, **audited.poller).get()
    assert audited.asked[0][1]["count"] == 201
