"""How long a call of a client waits in place for a key."""

import pytest

from worker.clients import waiting
from worker.clients.waiting import wait_in_place
from worker.errors import Deferred


class Clock:
    """A clock that moves only during waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Line:
    """A wait list without changes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def pause(self, longest_s: float) -> None:
        self._clock.now_s += longest_s


# The longest wait, and for how long each call could have waited in line.
@pytest.mark.parametrize(
    ("longest_s", "longest_waits_s"),
    [
        (0.0, [0.0]),
        (0.25, [0.25, 0.0]),
        (12.0, [12.0, 7.0, 2.0, 0.0]),  # a reset is not reported, so it asks again meanwhile
    ],
)
async def test_a_call_waits_in_place_for_as_long_as_it_may_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, longest_s: float, longest_waits_s: list[float]
) -> None:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    waited_s: list[float] = []

    async def call(line_s: float) -> None:
        waited_s.append(line_s)
        raise Deferred(60_000, "all keys rest")

    with pytest.raises(Deferred, match="all keys rest"):
        await wait_in_place(call, Line(clock), longest_wait_s=longest_s)  # type: ignore[arg-type]
    assert waited_s == longest_waits_s


async def test_a_call_is_made_again_as_soon_as_something_has_changed() -> None:
    calls = 0

    class Changing:
        async def pause(self, longest_s: float) -> None:
            assert 0 < longest_s <= 5

    async def call(_: float) -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Deferred(60_000, "all keys rest")
        return "an answer"

    assert await wait_in_place(call, Changing(), longest_wait_s=60.0) == "an answer"  # type: ignore[arg-type]
