"""How long a call of a client waits for a key in place."""

import asyncio
import time

import pytest

from worker.clients.waiting import wait_in_place
from worker.errors import Deferred


class Line:
    """A wait list in which nothing changes."""

    async def pause(self, longest_s: float) -> None:
        await asyncio.sleep(longest_s)


@pytest.mark.parametrize("longest_s", [0.0, 0.2])
async def test_a_call_waits_in_place_for_as_long_as_it_may_and_no_longer(longest_s: float) -> None:
    asked_s: list[float] = []

    async def call(line_s: float) -> None:
        asked_s.append(line_s)
        raise Deferred(60_000, "all keys rest")

    began_s = time.monotonic()
    async with asyncio.timeout(30):
        with pytest.raises(Deferred, match="all keys rest"):
            await wait_in_place(call, Line(), longest_wait_s=longest_s)  # type: ignore[arg-type]
    assert time.monotonic() - began_s >= longest_s
    assert asked_s[0] == pytest.approx(longest_s, abs=0.1)
    assert asked_s[-1] == 0
    assert len(asked_s) == (2 if longest_s else 1)
    assert max(asked_s) <= longest_s


async def test_a_call_is_made_again_as_soon_as_something_has_changed() -> None:
    calls = 0

    class Changing(Line):
        async def pause(self, longest_s: float) -> None:
            assert 0 < longest_s <= 5

    async def call(_: float) -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Deferred(60_000, "all keys rest")
        return "an answer"

    assert await wait_in_place(call, Changing(), longest_wait_s=60.0) == "an answer"  # type: ignore[arg-type]
