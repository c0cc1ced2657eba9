"""The turns of the tenants of a queue."""

from worker.rotation.tenant_turns import TenantTurns


def order(turns: TenantTurns, tenants: str) -> str:
    return "".join(tenants[number] for number in turns.order(tenants))


def test_jobs_of_one_tenant_or_of_none_keep_their_order() -> None:
    turns = TenantTurns()
    assert list(turns.order(["", "", ""])) == [0, 1, 2]
    assert list(turns.order(["a", "a"])) == [0, 1]
    assert list(turns.order([])) == []


def test_tenants_alternate() -> None:
    turns = TenantTurns()
    assert order(turns, "aaaabbc") == "abcabaa"
    assert list(turns.order("aab")) == [0, 2, 1]  # a tenant's own jobs keep their order


def test_a_new_tenant_goes_ahead_with_a_few_jobs_and_a_silent_one_gains_no_credit() -> None:
    turns = TenantTurns()
    assert order(turns, "ab") == "ab"
    for _ in range(100):
        turns.note_granted("a")
    turns.note_granted("b")
    assert order(turns, "a") == "a"
    assert order(turns, "aaab" * 3) == "bbbaaaaaaaaa"
    for _ in range(8):
        turns.note_granted("b")
    assert order(turns, "aaabb") == "ababa"


def test_a_new_tenant_begins_where_a_tenant_without_a_lease_stands() -> None:
    turns = TenantTurns()
    turns.note_granted("a")
    assert order(turns, "aabb") == "baba"


def test_any_number_of_tenants_may_come() -> None:
    turns = TenantTurns()
    for number in range(5_000):
        turns.note_granted(str(number))
    assert len(turns._granted) <= 1_000
