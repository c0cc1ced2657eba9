"""The pages of the audit trail: their order, their bounds, wrong queries."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.unstarted_handlers import handler_of
from worker.dashboard.audit import Audit
from worker.dashboard.errors import ApiError


def entry(at_ms: int, **fields: str) -> dict[str, str]:
    return {"at_ms": str(at_ms), "until_ms": "7"} | fields


@pytest.fixture
def audited() -> Any:
    """The streams of an audit trail; `reads` has the options of each read."""
    trail = SimpleNamespace(
        reads=[], keys=[entry(9), entry(3)], letters=[entry(8)], actions=[entry(5)]
    )

    def reading(name: str) -> Any:
        async def read(**options: Any) -> list[dict[str, str]]:
            trail.reads.append((name, options))
            return list(getattr(trail, name))

        return read

    async def with_pools(work: Any) -> Any:
        return await work({"groq": SimpleNamespace(audit=reading("keys"))})

    async def with_dead_letters(work: Any) -> Any:
        return await work(SimpleNamespace(audit=reading("letters")))

    async def with_actions(work: Any) -> Any:
        return await work(SimpleNamespace(read=reading("actions")))

    trail.poller = {
        "with_pools": with_pools,
        "with_dead_letters": with_dead_letters,
        "with_actions": with_actions,
    }
    return trail


async def test_the_audit_trail_is_one_list_the_latest_first(audited: Any) -> None:
    page = handler_of(Audit, {"count": "3"}, **audited.poller)
    await page.get()
    [answer] = page.sent
    assert [(row.get("service"), row["at_ms"], row["until_ms"]) for row in answer["entries"]] == [
        ("groq", 9, 7), (None, 8, 7), (None, 5, 7)
    ]  # fmt: skip
    assert answer["next_before"] is not None
    assert [options["count"] for _, options in audited.reads] == [4, 4, 4], (
        "one more entry shows that there is another page"
    )
    assert audited.reads[0][1]["people_only"] is False
    rest = handler_of(Audit, {"before": answer["next_before"], "by": "people"}, **audited.poller)
    audited.keys, audited.letters, audited.actions = [entry(3)], [], [entry(5)]
    await rest.get()
    assert [row["at_ms"] for row in rest.sent[0]["entries"]] == [3]
    assert rest.sent[0]["next_before"] is None
    assert audited.reads[3][1]["people_only"] is True


@pytest.mark.parametrize(
    "values", [{"count": "201"}, {"count": "0"}, {"by": "ann"}, {"from": "1"}, {"before": "x"}]
)
async def test_a_page_of_the_audit_trail_with_wrong_bounds_is_refused(
    audited: Any, values: dict[str, str]
) -> None:
    with pytest.raises(ApiError) as refused:
        await handler_of(Audit, values, **audited.poller).get()
    assert (refused.value.status_code, audited.reads) == (400, [])
    await handler_of(Audit, {"count": "200"}, **audited.poller).get()
    assert audited.reads[0][1]["count"] == 201
