"""How much of an answer is read, and the verdict on a longer one."""

import asyncio
import gzip
from collections.abc import Iterator

import aiohttp
import httpx
import pytest

from tests.unit.unstarted_answers import MEGABYTE, Pieces, Streamed, body
from worker.aio.errors import SoftTimeLimit
from worker.providers import answer_size
from worker.providers.answer_size import SizeCount, Slices, bound_decoding
from worker.providers.failures import OversizedAnswer


def test_pieces_pass_until_their_sum_exceeds_the_limit() -> None:
    count = SizeCount(5)
    assert [count.take(piece) for piece in (b"abc", b"", b"de")] == [b"abc", b"", b"de"]
    with pytest.raises(OversizedAnswer):
        count.take(b"f")


async def test_sixty_four_megabytes_are_read_of_an_answer_in_pieces() -> None:
    stream = Pieces(64)
    assert sum([len(piece) async for piece in body(stream)]) == 64 * len(MEGABYTE)
    assert stream.closed == 0
    longer = Pieces(64, b"x")
    pieces = aiter(body(longer))
    assert sum([len(await anext(pieces)) for _ in range(64)]) == 64 * len(MEGABYTE)
    with pytest.raises(OversizedAnswer):
        await anext(pieces)
    assert longer.closed == 1


async def test_sixteen_megabytes_are_read_of_an_answer_that_is_kept_whole() -> None:
    stream = Pieces(16)
    assert len(await body(stream).read()) == 16 * len(MEGABYTE)
    assert stream.released == ["free"]
    longer = Pieces(16, b"x")
    with pytest.raises(OversizedAnswer):
        await body(longer).read()
    assert longer.released == ["closed"], "the connection cannot be used again"


# The connection's error in the middle of an answer, and the raised error.
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (aiohttp.ClientPayloadError("x"), httpx.RemoteProtocolError),
        (TimeoutError(), httpx.ReadTimeout),
        (asyncio.CancelledError(), asyncio.CancelledError),
        (SoftTimeLimit(), SoftTimeLimit),
    ],
)
async def test_an_answer_that_breaks_off_frees_its_connection_and_says_why(
    error: BaseException, raised: type[BaseException]
) -> None:
    stream = Pieces(0)

    async def fail() -> bytes:
        raise error

    stream._aiohttp_response.content.readany = fail
    with pytest.raises(raised) as met:
        await body(stream).read()
    assert type(met.value) is raised
    assert stream.released == ["closed"]
    pieces = aiter(body(Streamed(b"a", error=error)))
    assert await anext(pieces) == b"a"
    with pytest.raises(raised) as met:
        await anext(pieces)
    assert type(met.value) is raised


class _HoldsBack:
    """A decoder that returns everything at the end."""

    def __init__(self) -> None:
        self._held = b""

    def decode(self, data: bytes) -> bytes:
        self._held += data
        return b""

    def flush(self) -> bytes:
        return self._held


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_size, "LARGEST_IN_PIECES", 1_000)
    monkeypatch.setitem(httpx._decoders.SUPPORTED_DECODERS, "held", _HoldsBack)  # type: ignore[arg-type]


def answer(encoding: str | None, content: bytes) -> httpx.Response:
    headers = {} if encoding is None else {"content-encoding": encoding}
    stream = Slices(gzip.compress(content) if encoding == "gzip" else content)
    made = httpx.Response(200, headers=headers, stream=stream)
    bound_decoding(made)
    return made


@pytest.mark.parametrize("encoding", ["gzip", "held"])
@pytest.mark.usefixtures("_small")
def test_a_compressed_answer_has_the_same_limit_as_another_one(encoding: str) -> None:
    content = bytes(range(250)) * 4
    assert answer(encoding, content).read() == content
    with pytest.raises(OversizedAnswer):
        answer(encoding, content + b"x").read()


@pytest.mark.usefixtures("_small")
def test_an_answer_that_is_not_compressed_has_no_bound_for_decoding() -> None:
    assert answer(None, bytes(2_000)).read() == bytes(2_000)


@pytest.mark.parametrize(
    ("size", "pieces"), [(0, []), (16_384, [16_384]), (16_385, [16_384, 1]), (32_768, [16_384] * 2)]
)
def test_no_more_is_decompressed_at_once_than_can_be_counted(size: int, pieces: list[int]) -> None:
    whole = (bytes(range(256)) * 129)[:size]
    slices: Iterator[bytes] = iter(Slices(whole))
    read = list(slices)
    assert [len(piece) for piece in read] == pieces
    assert b"".join(read) == whole
